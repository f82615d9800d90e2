"""What a report says, against the files that it says it of."""

import csv
import html.parser
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from configs import base
from ns_jax.data import open as open_lib
from ns_jax.errors import InputError
from ns_jax.inference import metrics
from ns_jax.parallel import workdir_lock
from ns_jax.programs import report
from ns_jax.selection import table as table_lib
from tests.report import made


def made_report(workdir):
    content = report.run(base.get_config(), workdir)
    assert json.loads((workdir / report.NUMBERS).read_text()) == content
    return content, (workdir / report.PAGE).read_text()


def rows_of(workdir, number, name=None):
    """The label shards, or the predictions, of an iteration as columns."""
    directory = workdir / f"iteration_{number}"
    files = sorted((directory / "labels").glob("*.parquet")) if name is None else [directory / name]
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return {row["index"]: row for row in rows}


class Page(html.parser.HTMLParser):
    """Elements, and the text outside of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.attributes, self._quiet = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [value for _, value in attrs if value]
        self._quiet = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._quiet = False

    def handle_data(self, data):
        if not self._quiet:
            self.text.append(data)


def test_the_verdict_is_that_of_the_predictions(workdir):
    content, page = made_report(workdir)
    teacher, student = (rows_of(workdir, k, "predictions.parquet") for k in (0, 2))
    difference = np.asarray(
        [
            (student[i]["predicted"] == student[i]["label"])
            - float(teacher[i]["predicted"] == teacher[i]["label"])
            for i in student
        ]
    )
    half = 1.959964 * difference.std(ddof=1) / len(difference) ** 0.5
    found = content["verdict"]["difference"]
    assert found["mean"] == pytest.approx(100 * difference.mean())
    assert found["high"] - found["mean"] == pytest.approx(100 * half)
    assert found["paired"] and found["num_images"] == made.TEST
    low, mean, high = (100 * (difference.mean() + sign * half) for sign in (-1, 0, 1))
    said = f"Student 2 is {mean:.1f} points ({low:.1f} to {high:.1f}, paired, n = 90) above"
    assert said in content["verdict"]["text"] and said in "".join(Page(page).text)


def test_without_predictions_the_interval_is_unpaired_and_says_so(workdir):
    for path in workdir.glob("*/predictions.parquet"):
        path.unlink()
    content, page = made_report(workdir)
    scores = [json.loads((workdir / f"iteration_{k}/eval.json").read_text()) for k in (0, 2)]
    found = content["verdict"]["difference"]
    assert not found["paired"] and "unpaired" in content["verdict"]["text"]
    assert found["mean"] == pytest.approx(100 * (scores[1]["top1"] - scores[0]["top1"]))
    # Newcombe, Statistics in Medicine 17 (1998), method 10.
    (p, l1, u1), (q, l2, u2) = (
        (s["top1"], *metrics.share_interval(round(90 * s["top1"]), 90)) for s in scores[::-1]
    )
    assert found["low"] == pytest.approx(100 * (p - q - ((p - l1) ** 2 + (u2 - q) ** 2) ** 0.5))
    assert found["high"] == pytest.approx(100 * (p - q + ((u1 - p) ** 2 + (q - l2) ** 2) ** 0.5))


def test_what_comes_from_the_unlabelled_images_is_said_where_it_was_measured(workdir):
    shutil.copytree(workdir / "iteration_1", workdir / "labels_alone")
    content, _ = made_report(workdir)
    one, other = (rows_of(workdir, k, "predictions.parquet") for k in (2, 1))
    right = [
        np.mean([r["predicted"] == r["label"] for r in rows.values()]) for rows in (one, other)
    ]
    assert content["verdict"]["alone"]["mean"] == pytest.approx(100 * (right[0] - right[1]))
    assert f"of these, {100 * (right[0] - right[1]):.1f} (" in content["verdict"]["text"]


def test_a_student_that_is_worse_is_said_to_be(workdir):
    for name in ("eval.json", "predictions.parquet"):
        first, last = (workdir / f"iteration_{k}" / name for k in (0, 2))
        first.rename(workdir / "kept")
        last.rename(first)
        (workdir / "kept").rename(last)
    content, _ = made_report(workdir)
    found, text = content["verdict"]["difference"], content["verdict"]["text"]
    assert found["mean"] < found["high"] < 0
    points = [f"{-found[name]:.1f}" for name in ("mean", "high", "low")]
    said = f"{points[0]} points ({points[1]} to {points[2]}, paired, n = 90) below the teacher. The"
    assert text.startswith(f"Student 2 is {said} best of all is the teacher")


def test_an_interval_that_holds_0_is_no_finding(workdir):
    for name in ("eval.json", "predictions.parquet"):
        shutil.copy(workdir / "iteration_0" / name, workdir / "iteration_2" / name)
    content, page = made_report(workdir)
    assert content["verdict"]["difference"]["mean"] == 0
    assert content["verdict"]["caution"] in page and "holds 0" in page


def test_every_tile_is_what_the_shards_and_the_selection_say(workdir):
    content, page = made_report(workdir)
    shards, before = rows_of(workdir, 2), rows_of(workdir, 1)
    selected = table_lib.Selection(workdir / "iteration_2" / "selection").index[:].tolist()
    seen = 0
    for one in content["pool"]["classes"]:
        for group, tiles in one["groups"].items():
            confidences = [tile["confidence"] for tile in tiles]
            assert confidences == sorted(confidences, reverse=group != "borderline")
            for tile in tiles:
                row = shards[tile["index"]]
                assert made.NAMES[row["label"]] == tile["label"] == one["name"]
                assert (row["key"], row["confidence"]) == (tile["key"], tile["confidence"])
                assert selected.count(tile["index"]) == tile["copies"]
                assert tile["before"] == made.NAMES[before[tile["index"]]["label"]]
                assert (tile["copies"] > 0) == (group in ("surest", "borderline")) or (
                    group == "disagreement"
                )
                if group == "disagreement":
                    assert tile["before"] != tile["label"]
                seen += 1
    assert seen > 40 and page.count('class="tile"') >= seen
    kept = {i: shards[i] for i in set(selected)}
    for one in content["pool"]["classes"]:
        of_class = [r["confidence"] for r in kept.values() if made.NAMES[r["label"]] == one["name"]]
        if of_class:
            assert one["groups"]["surest"][0]["confidence"] == max(of_class)
            last = one["groups"]["borderline"] or one["groups"]["surest"][-1:]
            assert last[0]["confidence"] == min(of_class)


def test_classes_are_those_of_the_selections_report(workdir):
    content, page = made_report(workdir)
    counts = json.loads((workdir / "iteration_2/selection/report.json").read_text())["classes"]
    assert len(content["classes"]) == len(counts)
    predicted = rows_of(workdir, 1, "predictions.parquet").values()
    labels = [row["label"] for row in rows_of(workdir, 2).values() if row["label"] >= 0]
    for row in content["classes"]:
        one = counts[row["number"]]
        assert all(row[name] == one[name] for name in one)
        assert row["share_in_labels"] == 0.25
        assert row["share_in_pool"] == labels.count(row["number"]) / len(labels)
        taken = [
            p["predicted"] == p["label"]
            for p in predicted
            if one["kept"]
            and p["predicted"] == row["number"]
            and p["confidence"] >= one["lowest_confidence"]
        ]
        assert row["precision_of"] == len(taken)
        assert row["precision"] == (np.mean(taken) if taken else None)
    assert content["classes"][0]["name"] == "nobody's"  # which has no image


def test_the_chain_has_each_networks_scores(workdir):
    content, page = made_report(workdir)
    for number, row in enumerate(content["iterations"]):
        scores = json.loads((workdir / f"iteration_{number}/eval.json").read_text())
        assert [row[name] for name in ("top1", "ece")] == [scores[name] for name in ("top1", "ece")]
        low, high = metrics.share_interval(round(scores["top1"] * made.TEST), made.TEST)
        assert (row["top1_low"], row["top1_high"]) == (low, high)
        assert row["robustness"] == {"own: top-1": 0.5 + number / 10, "own_flips: flips": 12.5}
        counts = workdir / f"iteration_{number}/selection/report.json"
        kept = json.loads(counts.read_text())["kept"] if number else None
        assert row["kept"] == kept and row["network"] == "efficientnet-b0"
    text = "".join(Page(page).text)
    assert "70.0 %" in text and "12.5 %" in text


def test_losses_of_labelled_and_unlabelled_images_are_apart(workdir):
    content, page = made_report(workdir)
    teacher, student, _ = content["curves"]
    assert list(teacher["loss"]) == ["train/loss_labelled"]
    assert list(student["loss"]) == ["train/loss_labelled", "train/loss_unlabelled"]
    lines = (workdir / "iteration_1/metrics.jsonl").read_text().splitlines()[:10]  # one is cut off
    logged = [(line["step"], line["train/loss_unlabelled"]) for line in map(json.loads, lines)]
    assert list(map(tuple, student["loss"]["train/loss_unlabelled"])) == logged
    assert page.count("<figcaption>") == 3 + 1 + 6


def test_the_precision_by_threshold_is_the_teachers_on_test_images(workdir):
    content, _ = made_report(workdir)
    rows = list(rows_of(workdir, 1, "predictions.parquet").values())
    points = content["calibration"]["precision"]
    assert [point["threshold"] for point in points if point["chosen"]] == [0.5]
    for point in points:
        above = [r for r in rows if r["confidence"] > np.float32(point["threshold"])]
        assert point["num_images"] == len(above)
        assert point["precision"] == np.mean([r["predicted"] == r["label"] for r in above])
    for k, one in enumerate(content["calibration"]["reliability"]):
        scores = json.loads((workdir / f"iteration_{k}/eval.json").read_text())
        gaps = [b["num_images"] * abs(b["accuracy"] - b["confidence"]) for b in one["bins"]]
        assert sum(gaps) / made.TEST == pytest.approx(scores["ece"], abs=1e-6)


def test_the_confusion_matrix_has_every_test_image_once(workdir):
    content, page = made_report(workdir)
    rows = rows_of(workdir, 2, "predictions.parquet").values()
    cells = {(c["truth"], c["predicted"]): c["num_images"] for c in content["confusion"]["cells"]}
    assert sum(cells.values()) == made.TEST
    for (truth, predicted), count in cells.items():
        assert count == sum((r["label"], r["predicted"]) == (truth, predicted) for r in rows)
    links = re.findall(r'href="#(mistakes-\d+-\d+)"', page)
    assert links and all(f'id="{name}"' in page for name in links)


def test_a_name_is_text_everywhere(workdir):
    _, page = made_report(workdir)
    found = Page(page)
    assert found.tags.count("script") == 1 and found.tags.count("b") == 0
    assert made.EVIL in "".join(found.text) and made.EVIL in found.attributes
    assert made.EVIL_KEY in found.attributes
    assert "<script>alert" not in page


def test_nothing_is_fetched(workdir):
    _, page = made_report(workdir)
    assert not re.search(r"https?://|\bsrc=|@import|<link(?! rel=\"icon\" href=\"data:,\")", page)


def test_unreadable_files_and_losses_that_are_not_finite_are_said(workdir):
    content, page = made_report(workdir)
    # The image before it was given a name that comes last.
    bad = {"index": made.BAD - 1, "key": "007.png", "reason": "truncated or damaged"}
    assert content["unreadable"]["listed"] == [bad] and "007.png" in page
    assert [one["not_finite"] for one in content["curves"]] == [0, 1, 0]
    assert "student 1: 1 logged loss is not finite" in " ".join("".join(Page(page).text).split())
    assert [x for x, y in content["curves"][1]["loss"]["train/loss_labelled"] if y is None] == [30]


def test_time_is_that_of_the_timeline_and_resumes_are_marked(workdir):
    content, page = made_report(workdir)
    times = {row["stage"]: row for row in content["times"]}
    assert times["iteration_0/train"]["seconds"] == 60
    assert times["iteration_1/label"]["images_per_second"] == made.POOL / 10
    student = times["iteration_1/train"]
    # 1100 to its last line before the kill, 1150, and 1190 to 1250.
    assert (student["starts"], student["seconds"], student["uncounted"]) == (2, 110, 0)
    assert (student["images_per_second"], student["input_wait"], student["saving"]) == (
        321,
        0.25,
        0.05,
    )
    assert content["curves"][1]["resumed"] == [50] and page.count(">resumed</text>") == 2


def test_what_differs_from_the_defaults_comes_first(workdir):
    content, page = made_report(workdir)
    changed = {row["key"]: (row["value"], row["default"]) for row in content["repeat"]["changed"]}
    assert changed["select.per_class"] == ("20", "130000")
    assert "seed" not in changed and content["repeat"]["config"]["seed"] == "0"
    assert content["repeat"]["commands"] == ["python -m ns_jax selftrain --config=c.py"]
    digest = json.loads((workdir / "iteration_2/selection/manifest.json").read_text())
    assert content["repeat"]["digests"]["selection of student 2"] == digest["outputs"]["digest"]


def test_a_run_that_goes_on_is_compared_as_far_as_it_is(running):
    content, _ = made_report(running)
    assert content["state"].startswith("not finished") and "iteration_2/train" in content["state"]
    assert content["verdict"]["text"].startswith("Student 1 is ")
    assert content["pool"]["iteration"] == "student 2"


MISSING = [
    "config.json", "timeline.jsonl", "iteration_0", "iteration_1", "iteration_2/selection",
    "iteration_2/labels", "iteration_2/selection/report.json", "iteration_0/eval.json",
    "iteration_2/metrics.jsonl", "iteration_2/labels/labels-00001-of-00003.parquet",
    "iteration_2/selection/selection.arrow", "iteration_1/labels",
]  # fmt: skip


@pytest.mark.parametrize("name", MISSING)
@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_parts_may_be_missing_or_damaged(workdir, name, how):
    path = workdir / name
    if how == "gone":
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif path.is_dir():
        for file in path.rglob("*.*"):
            if file.is_file():
                file.write_bytes(b"\x00{")
    else:
        path.write_bytes(path.read_bytes()[:100])
    content, page = made_report(workdir)
    assert content["verdict"]["text"] and "</html>" in page
    if how == "damaged" and path.suffix in (".parquet", ".arrow"):
        assert any(path.name in problem for problem in content["problems"])


def test_other_images_in_the_same_place_are_not_shown(workdir, tmp_path):
    pool = tmp_path / "other"
    made.write_images(pool, np.arange(5) % 3, labelled=False)
    recorded = json.loads((workdir / "config.json").read_text())
    recorded["data"]["unlabelled"] = f"folder:{pool}"
    (workdir / "config.json").write_text(json.dumps(recorded))
    content, _ = made_report(workdir)
    assert content["pool"]["reason"] and any("fingerprint" in p for p in content["problems"])


def test_a_self_training_that_has_just_begun_is_one(workdir):
    for directory in workdir.glob("iteration_*"):
        shutil.rmtree(directory)
    content, _ = made_report(workdir)
    assert [one["name"] for one in content["iterations"]] == ["the teacher"]
    assert content["state"].startswith("not finished")


def test_a_directory_with_nothing_is_an_error(tmp_path):
    with pytest.raises(InputError, match="nothing to report"):
        report.run(base.get_config(), tmp_path)
    with pytest.raises(InputError, match="nothing to report"):
        report.run(base.get_config(), tmp_path / "none")


def test_a_workdir_of_one_program_is_shown_as_it_is(workdir):
    content, _ = made_report(workdir / "iteration_2")
    assert content["verdict"]["text"].startswith("This run has ")
    assert [one["name"] for one in content["iterations"]] == ["this run"]


@pytest.mark.large
def test_it_reads_a_workdir_in_which_a_run_is_at_work(workdir, environment):
    """Neither its lock nor another config keeps it away, and it leaves both as they are."""
    config, lock = "--config=configs/digits.py", workdir_lock.WorkdirLock(workdir)
    lock.acquire()
    before = (workdir / "config.json").read_bytes()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ns_jax", "report", config, f"--workdir={workdir}"],
            env=environment,
            cwd=environment["PYTHONPATH"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Student 2 is" in done.stderr and (workdir / report.PAGE).exists()
        assert (workdir / ".lock").exists() and (workdir / "config.json").read_bytes() == before
    finally:
        lock.release()


def test_listed_leaks_are_those_of_the_file(workdir):
    selection = workdir / "iteration_2" / "selection"
    with (selection / "leaks.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("index", "key", "guard_key", "distance"), (5, "a", "<i>", 2)])
    manifest = json.loads((selection / "manifest.json").read_text())
    manifest["inputs"] |= {"guard": "f", "drop_leaks": True, "guard_distance": 6}
    (selection / "manifest.json").write_text(json.dumps(manifest))
    counts = json.loads((selection / "report.json").read_text()) | {"leaks": 1}
    (selection / "report.json").write_text(json.dumps(counts))
    content, page = made_report(workdir)
    assert content["leaks"]["num_images"] == 1 and content["leaks"]["left_out"]
    assert content["leaks"]["listed"][0]["guard_key"] == "<i>" and "&lt;i&gt;" in page


def test_the_source_is_the_one_that_the_config_names(workdir):
    config = made.settings(workdir)  # of another root: what the workdir recorded counts
    content = report.run(config, workdir)
    recorded = json.loads((workdir / "config.json").read_text())["data"]["unlabelled"]
    source = open_lib.open_source(recorded, labels_per_class=1, seed=0)
    assert content["pool"]["num_images"] == len(source) and not content["problems"]
