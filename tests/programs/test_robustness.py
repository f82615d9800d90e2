"""The program on real images and real files, with networks of random weights."""

import copy
import dataclasses
import json
import shutil

import cv2
import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs import digits
from ns_jax.checkpoints import checkpoint
from ns_jax.data import crops
from ns_jax.data import open as open_lib
from ns_jax.data.workers import LoaderSettings
from ns_jax.errors import InputError
from ns_jax.inference import predictor
from ns_jax.model_card import ModelCard
from ns_jax.programs import evaluate, robustness, selftrain
from ns_jax.robustness import imagenet

pytestmark = [pytest.mark.large, pytest.mark.usefixtures("few_stages")]

VIEW = crops.Preprocessing(16, "none", (0.3, 0.3, 0.3), (0.4, 0.4, 0.4))


def save(directory, class_names, seed=0):
    card = ModelCard("efficientnet-pico", True, tuple(class_names), VIEW)
    variables = jax.jit(lambda rng: card.build().init(rng, 16))(jax.random.key(seed))
    checkpoint.save_model(directory, card, jax.tree.map(np.asarray, variables))
    return str(directory)


@pytest.fixture
def config(tmp_path):
    config = digits.get_config()
    config.robustness.checkpoint = save(tmp_path / "net", map(str, range(10)))
    config.robustness.corruptions = "contrast,gaussian_noise"
    config.robustness.perturbations = "tilt"
    config.robustness.fgsm_epsilons = (0.0, 8.0)
    config.robustness.max_images = 40
    return config


def suites_of(config, workdir):
    return robustness.run(config, workdir)["suites"]


class TestOwnImages:
    def test_clean_accuracy_is_evaluations_and_no_epsilon_is_no_attack(self, config, tmp_path):
        config.robustness.max_images = None
        config.robustness.corruptions = "contrast"
        config.robustness.perturbations = "none"
        found = suites_of(config, tmp_path / "out")
        config.evaluate.checkpoint = config.robustness.checkpoint
        expected = evaluate.run(config, tmp_path / "out")["top1"]
        assert 1 - found["own"]["checkpoint"]["clean_error"] / 100 == pytest.approx(expected)
        epsilons = found["fgsm"]["checkpoint"]["epsilons"]
        assert epsilons["0"] == pytest.approx(expected) and epsilons["8"] < expected
        assert json.loads((tmp_path / "out" / "robustness.json").read_text())["suites"] == found

    def test_a_network_against_itself_makes_no_difference(self, config, tmp_path):
        config.robustness.against = config.robustness.checkpoint
        found = suites_of(config, tmp_path / "out")
        assert found["own"]["checkpoint"]["mce"] == pytest.approx(100)
        for suite in found.values():
            assert suite["difference"]["mean"] == 0 and suite["checkpoint"] == suite["against"]

    def test_two_networks_are_compared_on_the_same_images(self, config, tmp_path, capsys):
        config.robustness.against = save(tmp_path / "other", map(str, range(10)), seed=1)
        found = suites_of(config, tmp_path / "out")
        own = found["own"]
        assert own["difference"]["mean"] == pytest.approx(
            own["checkpoint"]["mean_error"] - own["against"]["mean_error"], abs=1e-4
        )
        low, high = own["difference"]["low"], own["difference"]["high"]
        assert low <= own["difference"]["mean"] <= high
        shown = capsys.readouterr().out
        assert "gaussian_noise" in shown and "epsilon 8" in shown and " to " in shown
        assert "frost" not in shown

    def test_a_killed_run_does_what_is_missing_and_nothing_else(self, config, tmp_path):
        out = tmp_path / "out"
        first = suites_of(config, out)
        (passes,) = (out / "robustness").iterdir()
        missing, damaged = passes / "own-contrast-3", passes / "own-gaussian_noise-5"
        untouched = {p: p.stat().st_mtime_ns for p in passes.iterdir()}
        missing.with_name("own-contrast-3.json").unlink()
        whole = damaged.with_name("own-gaussian_noise-5.parquet").read_bytes()
        damaged.with_name("own-gaussian_noise-5.parquet").write_bytes(whole[:50])
        assert suites_of(config, out) == first
        done_again = {p.stem for p, time in untouched.items() if p.stat().st_mtime_ns != time}
        assert done_again == {"own-contrast-3", "own-gaussian_noise-5"}

    def test_results_do_not_depend_on_workers_or_batches(self, config, tmp_path):
        config.robustness.corruptions, config.robustness.perturbations = "contrast", "none"
        config.robustness.suites, config.robustness.max_images = "own", 20
        first = suites_of(config, tmp_path / "one")
        config.robustness.batch_size = 7
        config.data.workers = 1
        assert suites_of(config, tmp_path / "two") == first

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"suites": "own,imagenet"}, "known: a, r, v2"),
            ({"suites": ""}, "known: a, r, v2"),
            ({"corruptions": "foggy"}, "unknown: foggy; known: gaussian_noise"),
            ({"perturbations": "wobble"}, "unknown: wobble"),
            ({"variant": "512"}, "512"),
            ({"frost": "/nowhere", "corruptions": "frost"}, "frost1.png is missing"),
            ({"suites": "c", "c": "folder:/nowhere"}, "ImageNet's 1,000 classes"),
            (
                {"suites": "fgsm", "fgsm_epsilons": ()},
                "must be one or more numbers, each",
            ),
            ({"suites": "pgd", "pgd_steps": 0}, "pgd_steps is 0"),
            ({"suites": "fgsm", "attack_label": "any"}, "known: true, predicted"),
            ({"size": 8}, "16 a side"),
        ],
    )
    def test_what_does_not_go_together_is_said_first(self, config, tmp_path, change, said):
        config.robustness.update(change)
        with pytest.raises(InputError, match=said):
            robustness.run(config, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_other_classes_cannot_be_compared(self, config, tmp_path):
        config.robustness.against = save(tmp_path / "letters", "abcdefghij")
        with pytest.raises(InputError, match="letters"):
            robustness.run(config, tmp_path / "out")
        config.robustness.checkpoint, config.robustness.against = config.robustness.against, ""
        with pytest.raises(InputError, match="letters has 10; missing: a, b.*surplus: 0, 1"):
            robustness.run(config, tmp_path / "out")


def png(rng):
    return cv2.imencode(".png", rng.integers(0, 256, (16, 16, 3), np.uint8))[1].tobytes()


def parquet(path, images, labels, names):
    features = {"label": {"names": list(names), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"image": [{"bytes": i, "path": None} for i in images], "label": labels})
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata), path)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [png(rng) for _ in range(40)]


@pytest.fixture
def thousand(tmp_path):
    """A config of a network of ImageNet's classes, in another order than the sets have."""
    config = digits.get_config()
    config.robustness.checkpoint = save(tmp_path / "thousand", imagenet.wnids()[::-1])
    return config


def scores(config, source):
    network = predictor.Predictor([checkpoint.load_model(config.robustness.checkpoint)])
    opened = open_lib.open_named(config, source)
    batches = network.logits(opened, [range(len(opened))], LoaderSettings(0), 64)
    return np.concatenate([batch["logits"][:, 0] for batch in batches]), network.class_names


class TestImageNet:
    def test_of_200_classes_the_others_never_win(self, thousand, images, tmp_path):
        ids = imagenet.wnids("a")
        labels = [7 * i % 200 for i in range(40)]
        parquet(tmp_path / "a" / "a.parquet", images, labels, ids)
        thousand.robustness.suites = "a"
        thousand.robustness.a = f"parquet:{tmp_path}/a/*.parquet"
        logits, names = scores(thousand, thousand.robustness.a)
        assert not set(np.asarray(names)[logits.argmax(1)]) <= set(ids)  # else it tests nothing
        columns = [names.index(one) for one in ids]
        # each image's class is the best of the 200 for the first half, and another for the rest
        best = logits[:, columns].argmax(1)
        labels = [int(b) if i < 20 else int(b + 1) % 200 for i, b in enumerate(best)]
        parquet(tmp_path / "a" / "a.parquet", images, labels, ids)
        found = suites_of(thousand, tmp_path / "out")["a"]["checkpoint"]
        assert found["top1"] == 0.5 and found["num_images"] == 40
        ranks = (-logits[:, columns]).argsort(1)[:, :5]
        assert found["top5"] == np.mean(
            [label in r for label, r in zip(labels, ranks, strict=True)]
        )

    def test_folders_of_numbers_are_not_sorted_as_text(self, thousand, images, tmp_path):
        root = tmp_path / "v2"
        first = root / "0"
        first.mkdir(parents=True)
        (first / "x.png").write_bytes(images[0])
        logits, names = scores(thousand, f"folder:{first}")
        right = imagenet.wnids().index(names[int(logits[0].argmax())])
        for number in range(1000):
            (root / str(number)).mkdir(exist_ok=True)
            (root / str(number) / "x.png").write_bytes(images[0])  # right in one folder alone
        thousand.robustness.suites = "v2"
        thousand.robustness.v2 = f"folder:{root}"
        found = suites_of(thousand, tmp_path / "out")["v2"]["checkpoint"]
        assert found["top1"] == pytest.approx(0.001)
        shutil.rmtree(root / str(right))
        with pytest.raises(InputError, match=f"1 classes are missing: {imagenet.wnids()[right]}"):
            robustness.run(thousand, tmp_path / "again")

    def test_corruption_errors_are_of_the_sets_by_severity(self, thousand, images, tmp_path):
        ids = imagenet.wnids()
        for severity in range(1, 6):
            labels = list(range(40))
            parquet(tmp_path / "c" / f"fog-{severity}.parquet", images, labels, ids)
        thousand.robustness.suites = "c"
        thousand.robustness.c = f"parquet:{tmp_path}/c/{{corruption}}-{{severity}}.parquet"
        thousand.robustness.corruptions = "fog"
        found = suites_of(thousand, tmp_path / "out")["c"]["checkpoint"]
        logits, names = scores(thousand, f"parquet:{tmp_path}/c/fog-1.parquet")
        best = np.asarray([ids.index(names[c]) for c in logits.argmax(1)])
        error = 1 - (best == np.arange(40)).mean()
        assert found["corruptions"]["fog"]["errors"] == pytest.approx([error] * 5)
        assert found["mce"] == pytest.approx(100 * error / 0.819324, rel=1e-5)

    def test_a_set_that_is_not_there_is_said_before_the_first_pass(
        self, thousand, tmp_path, monkeypatch
    ):
        thousand.robustness.suites = "c"
        thousand.robustness.c = f"folder:{tmp_path}"
        with pytest.raises(InputError, match="there is no .*gaussian_noise/1; ImageNet-C has"):
            robustness.run(thousand, tmp_path / "out")
        (tmp_path / "fog" / "1" / "n01440764").mkdir(parents=True)
        thousand.robustness.corruptions = "fog"
        with pytest.raises(InputError, match="999 classes are missing: n01443537"):
            robustness.run(thousand, tmp_path / "out")
        for where in (str(tmp_path), "~"):  # a directory alone, at home too
            monkeypatch.setenv("HOME", str(tmp_path))
            thousand.robustness.c = where
            with pytest.raises(InputError, match=f"{tmp_path}/fog/1: 999 classes are missing"):
                robustness.run(thousand, tmp_path / "out")
        (tmp_path / "tilt" / "n01440764").mkdir(parents=True)
        thousand.robustness.suites, thousand.robustness.p = "p", "~"
        thousand.robustness.perturbations = "tilt"
        with pytest.raises(InputError, match=f"{tmp_path}/tilt: 999 classes are missing"):
            robustness.run(thousand, tmp_path / "out")
        thousand.robustness.suites, thousand.robustness.r = "r", ""
        with pytest.raises(InputError, match="robustness.r is empty"):
            robustness.run(thousand, tmp_path / "out")

    def test_any_of_an_images_classes_is_right_and_none_is_left_out(
        self, thousand, images, tmp_path
    ):
        root = tmp_path / "val"
        root.mkdir()
        for number in range(4):
            name = f"ILSVRC2012_val_{number + 1:08d}.png"
            (root / name).write_bytes(images[number])
        logits, names = scores(thousand, f"folder:{root}")
        best = [imagenet.wnids().index(names[c]) for c in logits.argmax(1)]
        real = [[best[0]], [(best[1] + 1) % 1000, best[1]], [], [(best[3] + 1) % 1000]]
        (tmp_path / "real.json").write_text(json.dumps(real))
        thousand.robustness.suites = "real"
        thousand.robustness.real = f"folder:{root}"
        thousand.robustness.real_labels = str(tmp_path / "real.json")
        found = suites_of(thousand, tmp_path / "out")["real"]["checkpoint"]
        assert found["num_images"] == 3 and found["top1"] == pytest.approx(2 / 3)
        (tmp_path / "real.json").write_text("[[1]]")
        with pytest.raises(InputError, match="has no labels; there are 1"):
            robustness.run(thousand, tmp_path / "again")

    def test_flips_are_of_videos_frame_by_frame(self, thousand, tmp_path):
        root = tmp_path / "p"
        for one in imagenet.wnids():
            (root / "tilt" / one).mkdir(parents=True)
        thousand.robustness.suites = "p"
        thousand.robustness.p = str(root)
        thousand.robustness.perturbations = "tilt"
        looks = tmp_path / "looks"
        looks.mkdir()
        plain = [(r, g, b) for r in (0, 255) for g in (0, 255) for b in (0, 255)]
        pictures = [np.full((64, 64, 3), colour, np.uint8) for colour in plain]
        for number, picture in enumerate(pictures):
            cv2.imwrite(str(looks / f"{number}.png"), picture)
        best = scores(thousand, f"folder:{looks}")[0].argmax(1)
        other = int(np.flatnonzero(best != best[0])[0])  # an image of another class than the first
        two = pictures[0], pictures[other]
        for name, shown in (("still", [0] * 31), ("once", [0] * 10 + [1] * 21)):
            path = root / "tilt" / imagenet.wnids()[5] / f"{name}.mp4"
            fourcc = cv2.VideoWriter.fourcc(*"mp4v")
            writer = cv2.VideoWriter(str(path), fourcc, 10, (64, 64))
            for image in shown:
                writer.write(two[image])
            writer.release()
        thousand.data.max_bad_fraction = 0.5
        found = suites_of(thousand, tmp_path / "out")["p"]["checkpoint"]
        assert found["num_images"] == 2
        probability = found["perturbations"]["tilt"]["flip_probability"]
        assert 1 / 60 <= probability < 0.2  # one flip of 30 at least; the coder may add a few
        assert found["mfr"] == pytest.approx(100 * probability / 0.0705, rel=1e-5)
        (root / "tilt" / imagenet.wnids()[9] / "cut.mp4").write_bytes(path.read_bytes()[:300])
        found = suites_of(thousand, tmp_path / "with_a_cut_one")["p"]["checkpoint"]
        assert found["num_images"] == 2
        (root / "tilt" / imagenet.wnids()[0] / "first.mp4").write_bytes(b"none")
        with pytest.raises(InputError, match="first.mp4 cannot be decoded as a video"):
            robustness.run(thousand, tmp_path / "again")


def test_a_view_may_be_given(config, tmp_path):
    network = robustness.Network(config.robustness.checkpoint)
    assert network.view(None) == VIEW and network.view("0.5").crop == "0.5"
    larger = robustness.Network(config.robustness.checkpoint, 24, "0.875")
    assert larger.view("none") == dataclasses.replace(VIEW, size=24, crop="0.875")


def test_selftrain_measures_its_teacher_and_students(tiny_config, tmp_path, capsys):
    config = tiny_config
    config.selftrain.robustness = ("own", "fgsm")
    config.robustness.corruptions, config.robustness.perturbations = "contrast", "none"
    config.robustness.fgsm_epsilons, config.robustness.max_images = (4.0,), 20
    summaries = selftrain.run(config, tmp_path)
    shown = capsys.readouterr().out
    assert "corrupted" in shown and "FGSM" in shown
    teacher, student = (summary["robustness"]["suites"] for summary in summaries)
    assert set(teacher) == set(student) == {"own", "fgsm"}
    assert "against" not in teacher["own"]
    # The student is measured beside its first teacher, whose passes are not done again.
    assert student["own"]["against"]["top1"] == teacher["own"]["checkpoint"]["top1"]
    assert len(list((tmp_path / "robustness").iterdir())) == 2
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "robustness").rglob("*.json")}
    assert selftrain.run(config, tmp_path)[1]["robustness"] == summaries[1]["robustness"]
    assert {p: p.stat().st_mtime_ns for p in before} == before


@pytest.mark.parametrize(
    ("suites", "said"),
    [(("a",), "own, fgsm, pgd"), (("own", "none"), "known: a, r"), ((), None)],
)
def test_selftrain_says_first_what_it_cannot_measure(tiny_config, tmp_path, suites, said):
    tiny_config.selftrain.robustness = suites
    if said is None:
        tiny_config.selftrain.robustness, tiny_config.data.test = ("own",), ""
        said = "needs data.test"
    with pytest.raises(InputError, match=said):
        selftrain.run(tiny_config, tmp_path)
    assert not list(tmp_path.glob("iteration_*"))


def test_selftrain_says_first_what_it_cannot_corrupt(tiny_config, tmp_path):
    tiny_config.selftrain.robustness = ("own",)
    for key, value, said in (
        ("corruptions", "foggy", "unknown: foggy"),
        ("perturbations", "wobble", "unknown: wobble"),
        ("frost", str(tmp_path), "frost1.png is missing"),
    ):
        config = copy.deepcopy(tiny_config)
        config.robustness[key] = value
        with pytest.raises(InputError, match=said):
            selftrain.run(config, tmp_path)
    assert not list(tmp_path.glob("iteration_*"))
