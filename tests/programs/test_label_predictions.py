"""Predictions made elsewhere as a teacher: every form gives the same labels, bad ones are named."""

import json

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import scipy.special

from ns_jax import workdir as workdir_lib
from ns_jax.data import open as open_lib
from ns_jax.errors import InputError
from ns_jax.labelling import shards as shards_lib
from ns_jax.programs import label, select
from tests import rounding

DIGITS = [str(c) for c in range(10)]


@pytest.fixture
def config(tiny_config):
    tiny_config.label.checkpoint = ""
    tiny_config.label.images_per_shard = 300
    return tiny_config


def keys_of(config, which="unlabelled"):
    source = open_lib.open_from_config(config, which)
    return [source[index]["key"] for index in range(len(source))]


def some_logits(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 10)) * 3


def write_csv(path, keys, probs, names=DIGITS, key="key"):
    columns = {key: keys, **{n: column for n, column in zip(names, probs.T, strict=True)}}
    pa.csv.write_csv(pa.table(columns), path)


def read(workdir):
    """All rows in order of the shards."""
    manifest = workdir_lib.read_manifest(workdir / "labels")
    count = manifest["outputs"]["num_shards"]
    names = ["index", "key", "status", "label", "confidence", "classes", "probs"]
    parts = [
        shards_lib.Shard(workdir / "labels" / shards_lib.shard_name(n, count)).read(*names)
        for n in range(count)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def dense(rows):
    """float `[N, 10]` of what shards hold."""
    found = np.zeros((len(rows["index"]), 10))
    np.put_along_axis(found, rows["classes"], rows["probs"] / shards_lib.SCALE, 1)
    return found


@pytest.mark.parametrize("form", ["csv", "tsv", "logits", "parquet", "lists", "npz", "npy", "best"])
def test_every_form_gives_the_same_labels_whatever_its_order(form, config, tmp_path):
    keys = np.asarray(keys_of(config))
    logits = some_logits(len(keys))
    probs = scipy.special.softmax(logits, 1)
    order = np.random.default_rng(1).permutation(len(keys))
    named, mixed = keys[order].tolist(), probs[order]
    backwards = DIGITS[::-1]
    ending = {"logits": "csv", "lists": "parquet", "best": "csv"}.get(form, form)
    path = tmp_path / f"predictions.{ending}"
    if form == "csv":
        write_csv(path, named, mixed[:, ::-1], backwards, key="path")
    elif form == "tsv":
        lines = ["\t".join(["file_name", *DIGITS])]
        rows = zip(named, mixed, strict=True)
        lines += ["\t".join([key, *(f"{p:.7f}" for p in row)]) for key, row in rows]
        path.write_text("\n".join(lines))
    elif form == "logits":
        write_csv(path, named, logits[order] + 5)
    elif form == "parquet":
        columns = {n: mixed[:, c].astype(np.float32) for c, n in enumerate(DIGITS)}
        pq.write_table(pa.table({"key": named, **columns}), path, row_group_size=100)
    elif form == "lists":
        table = pa.table({"key": named, "logits": list(logits[order][:, ::-1])})
        metadata = {"class_names": json.dumps(backwards)}
        pq.write_table(table.replace_schema_metadata(metadata), path)
    elif form == "npz":
        np.savez(path, keys=np.array(named), probs=np.asfortranarray(mixed), class_names=DIGITS)
    elif form == "npy":
        np.save(path, mixed.astype(np.float32))
        path.with_suffix(".txt").write_text("\n".join(named))
        (tmp_path / "names.txt").write_text("\n".join(DIGITS))
        config.label.class_names = str(tmp_path / "names.txt")
    else:
        best = np.argsort(-mixed, 1)
        columns = {"key": named}
        for place in range(10):
            columns[f"class_{place + 1}"] = best[:, place].astype(str)
            columns[f"probability_{place + 1}"] = mixed[np.arange(len(best)), best[:, place]]
        pa.csv.write_csv(pa.table(columns), path)
    config.label.predictions = str(path)
    outputs = label.run(config, tmp_path / "run")
    rows = read(tmp_path / "run")
    assert rows["key"].tolist() == keys.tolist() and (rows["status"] == "ok").all()
    np.testing.assert_array_equal(rows["index"], np.arange(len(keys)))
    rounding.in_steps(dense(rows), probs)
    np.testing.assert_array_equal(rows["label"], probs.argmax(1))
    assert outputs["num_without_prediction"] == 0
    # Again: nothing is read but what names the content; another content is another teacher.
    assert label.run(config, tmp_path / "run") == outputs
    (tmp_path / "more").mkdir()
    other = tmp_path / "more" / path.name
    write_csv(other.with_suffix(".csv"), named, mixed[::-1])
    config.label.predictions = str(other.with_suffix(".csv"))
    with pytest.raises(InputError, match="teacher"):
        label.run(config, tmp_path / "run")


def folder_of(tmp_path, images):
    """A pool whose files lie in directories."""
    rng = np.random.default_rng(0)
    for name in images:
        path = tmp_path / "pool" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (8, 8, 3), np.uint8))
    return f"folder:{tmp_path / 'pool'}"


@pytest.mark.parametrize(
    ("spelled", "is_found"),
    [
        (lambda name: f"/data/elsewhere/pool/{name}", True),
        (lambda name: f"./{name}", True),
        (lambda name: name.rpartition("/")[2], True),
        (lambda name: f"/other/{name.rpartition('/')[2]}", True),
        (lambda name: f"{name}.not", False),
    ],
)
def test_keys_are_paths_from_anywhere_or_names(spelled, is_found, config, tmp_path):
    names = [f"{part}/{part}{number}é.png" for part in "ab" for number in range(6)]
    config.data.unlabelled = folder_of(tmp_path, names)
    probs = scipy.special.softmax(some_logits(12), 1)
    write_csv(tmp_path / "p.csv", [spelled(name) for name in names], probs)
    config.label.predictions = str(tmp_path / "p.csv")
    if not is_found:
        with pytest.raises(InputError, match=r"no prediction of any of the 12 images"):
            label.run(config, tmp_path / "run")
        return
    label.run(config, tmp_path / "run")
    rows = read(tmp_path / "run")
    assert rows["key"].tolist() == sorted(names)
    rounding.in_steps(dense(rows), probs)


def test_images_without_a_prediction_are_neither_labelled_nor_bad(config, tmp_path, capfd):
    keys = keys_of(config)
    probs = scipy.special.softmax(some_logits(len(keys)), 1)
    few = len(keys) // 2  # far more than data.max_bad_fraction lack one
    write_csv(tmp_path / "p.csv", keys[:few], probs[:few])
    config.label.predictions = str(tmp_path / "p.csv")
    outputs = label.run(config, tmp_path)
    rows = read(tmp_path)
    assert rows["status"].tolist() == ["ok"] * few + ["no prediction"] * (len(keys) - few)
    assert (rows["label"][few:] == -1).all() and (rows["confidence"][few:] == 0).all()
    assert outputs["num_bad"] == 0 and outputs["num_without_prediction"] == len(keys) - few
    assert keys[few] in capfd.readouterr().err
    truth = open_lib.open_from_config(config, "unlabelled").truth[:few]
    assert outputs["accuracy"] == pytest.approx((probs[:few].argmax(1) == truth).mean())
    config.select.labels = str(tmp_path / "labels")
    selected = select.run(config, tmp_path)
    assert selected["candidates"] == few


def test_one_label_with_its_confidence_leaves_the_rest_to_all_others(config, tmp_path):
    keys = keys_of(config)
    table = pa.table({"path": keys, "label": ["3"] * len(keys), "confidence": [0.82] * len(keys)})
    pq.write_table(table, tmp_path / "p.parquet")
    config.label.predictions = str(tmp_path / "p.parquet")
    label.run(config, tmp_path)
    expected = np.full(10, 0.02)
    expected[3] = 0.82
    rounding.in_steps(dense(read(tmp_path))[0], expected)


def test_other_names_add_up_and_some_are_left_out(config, tmp_path):
    keys = keys_of(config)
    names = ["null", "zero", "nobody", *DIGITS[1:]]
    probs = scipy.special.softmax(np.random.default_rng(0).normal(size=(len(keys), 12)), 1)
    write_csv(tmp_path / "p.csv", keys, probs, names)
    config.label.predictions = str(tmp_path / "p.csv")
    with pytest.raises(InputError, match=r"3 classes that the labels do not have: null, zero, no"):
        label.run(config, tmp_path)
    (tmp_path / "map.csv").write_text("theirs,ours\nnull,0\nzero,0\nnobody,\n")
    config.label.class_map = str(tmp_path / "map.csv")
    label.run(config, tmp_path)
    expected = np.concatenate([probs[:, :2].sum(1, keepdims=True), probs[:, 3:]], 1)
    expected /= expected.sum(1, keepdims=True)
    rounding.in_steps(dense(read(tmp_path)), expected)


def broken(what, keys, probs):
    """The keys and probabilities with one fault, and what is said of it."""
    keys, probs = list(keys), probs.copy()
    if what == "nan":
        probs[[3, 7], 2] = np.nan
        return keys, probs, rf"2 rows have scores that are missing, NaN.*{keys[3]}, {keys[7]}"
    if what == "sum":
        probs[5] *= 0.7
        return keys, probs, rf"1 rows do not sum to 1: {keys[5]}"
    if what == "negative":
        probs[4, 1] = -0.5
        return keys, probs, rf"1 rows have probabilities below 0 or above 1: {keys[4]}"
    if what == "twice":
        return (
            [*keys, keys[1]],
            np.concatenate([probs, probs[:1]]),
            f"1 of .* rows have the key.*{keys[1]}",
        )
    if what == "surplus":
        more = [*keys, "stranger-1", "stranger-2"]
        return more, np.concatenate([probs, probs[:2]]), "2 of .* are of no image of .*stranger-1"
    if what == "no key":
        keys[2] = ""
        return keys, probs, "1 rows have no key: row 3"
    strangers = [f"stranger-{number}" for number in range(len(keys))]
    return strangers, probs, "has no prediction of any of the .* images"


@pytest.mark.parametrize(
    "what", ["nan", "sum", "negative", "twice", "surplus", "no key", "another pool"]
)
def test_what_is_wrong_is_said_with_counts_and_first_examples(what, config, tmp_path):
    keys = keys_of(config)
    probs = scipy.special.softmax(some_logits(len(keys)), 1)
    keys, probs, message = broken(what, keys, probs)
    write_csv(tmp_path / "p.csv", keys, probs)
    config.label.predictions = str(tmp_path / "p.csv")
    with pytest.raises(InputError, match=f"(?s){message}"):
        label.run(config, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.parquet"))


def test_files_that_cannot_be_predictions_are_refused(config, tmp_path):
    keys = keys_of(config)
    probs = scipy.special.softmax(some_logits(len(keys)), 1)
    np.savez(tmp_path / "pickle.npz", keys=np.array(keys, object), probs=probs)
    np.savez(tmp_path / "short.npz", keys=np.array(keys[:-1]), probs=probs, class_names=DIGITS)
    np.savez(tmp_path / "nameless.npz", keys=np.array(keys), probs=probs)
    np.save(tmp_path / "alone.npy", probs)
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "words.csv").write_text("key,0,1\na,cat,dog\n")
    (tmp_path / "half.csv").write_text("key,label\na,1\n")
    (tmp_path / "keyless.csv").write_text("0,1\n0.5,0.5\n")
    (tmp_path / "rot.parquet").write_bytes(b"PAR1 nothing")
    (tmp_path / "rot.npz").write_bytes(b"PK nothing")
    messages = {
        "pickle.npz": "holds a pickle",
        "short.npz": "not as many keys as rows",
        "nameless.npz": "label.class_names",
        "alone.npy": r"no list of keys beside it: .*alone\.txt",
        "empty.csv": "is empty",
        "words.csv": "cannot be read.*cat",
        "half.csv": "`label` but no `confidence`",
        "keyless.csv": "no column with the keys",
        "rot.parquet": "cannot be read",
        "rot.npz": "cannot be read",
        "missing.csv": "no file matches",
        "weights.bin": "is no file of predictions",
    }
    for name, message in messages.items():
        config.label.predictions = str(tmp_path / name)
        with pytest.raises(InputError, match=f"(?s){message}"):
            label.run(config, tmp_path / "run")


def test_calibrated_on_the_holdout_and_refused_without_its_rows(config, tmp_path):
    config.data.holdout = "digits:test"
    keys, held = keys_of(config), keys_of(config, "holdout")
    truth = open_lib.open_from_config(config, "holdout").labels
    logits = some_logits(len(keys) + len(held))
    logits[len(keys) + np.arange(len(held)), truth] += 2
    write_csv(tmp_path / "p.csv", keys, logits[: len(keys)])
    config.label.predictions = str(tmp_path / "p.csv")
    with pytest.raises(InputError, match=r"no prediction of any of the 599 images of digits:test"):
        label.run(config, tmp_path / "a")
    write_csv(tmp_path / "both.csv", [*keys, *held], logits)
    write_csv(tmp_path / "held.csv", held, logits[len(keys) :])
    found = []
    for name, others in (("both.csv", ""), ("p.csv", str(tmp_path / "held.csv"))):
        config.label.predictions = str(tmp_path / name)
        config.label.holdout_predictions = others
        label.run(config, tmp_path / name[0])
        path = tmp_path / name[0] / "labels" / "calibration.json"
        found.append(json.loads(path.read_text())["temperature"])
    assert found[0] == found[1] != 1
    # Logits of a spread of 3 where the truth is worth 2: much too sure.
    probs = scipy.special.softmax(logits[: len(keys)] / found[0], 1)
    rounding.in_steps(dense(read(tmp_path / "p")), probs)
    losses = [
        -scipy.special.log_softmax(logits[len(keys) :] / t, 1)[np.arange(len(held)), truth].mean()
        for t in (found[0] * 0.95, found[0], found[0] * 1.05)
    ]
    assert losses[1] == min(losses)


def test_averaged_with_others_and_with_checkpoints_by_weight(config, tmp_path, make_teacher):
    keys = keys_of(config)
    first, second = (scipy.special.softmax(some_logits(len(keys), s), 1) for s in (1, 2))
    write_csv(tmp_path / "a.csv", keys, first)
    write_csv(tmp_path / "b.csv", keys[::-1], second[::-1])
    config.label.predictions = f"{tmp_path / 'a.csv'},{tmp_path / 'b.csv'}"
    label.run(config, tmp_path / "two")
    rounding.in_steps(dense(read(tmp_path / "two")), (first + second) / 2)

    teacher = make_teacher(tmp_path / "teacher")
    config.label.checkpoint, config.label.predictions = str(teacher), ""
    label.run(config, tmp_path / "network")
    of_network = dense(read(tmp_path / "network"))
    config.label.predictions = f"{tmp_path / 'a.csv'},{tmp_path / 'b.csv'}"
    config.label.weights = (1.0, 2.0, 5.0)
    label.run(config, tmp_path / "three")
    expected = (of_network + 2 * first + 5 * second) / 8
    rounding.in_steps(dense(read(tmp_path / "three")), expected, 3)
    config.label.weights = (1.0, 2.0)
    with pytest.raises(InputError, match="2 numbers for 1 checkpoints, 0 exported"):
        label.run(config, tmp_path / "four")
    digests = {
        workdir_lib.read_manifest(tmp_path / name / "labels")["inputs"]["teacher"]
        for name in ("two", "network", "three")
    }
    assert len(digests) == 3


def test_label_shards_are_predictions_too(config, tmp_path):
    """What one labelling stored is another's teacher; so a teacher can be moved between pools."""
    keys = keys_of(config)
    probs = scipy.special.softmax(some_logits(len(keys)), 1)
    write_csv(tmp_path / "p.csv", keys[:800], probs[:800])
    config.label.predictions = str(tmp_path / "p.csv")
    label.run(config, tmp_path / "a")
    config.label.predictions = str(tmp_path / "a" / "labels" / "*.parquet")
    label.run(config, tmp_path / "b")
    first, second = read(tmp_path / "a"), read(tmp_path / "b")
    assert second["status"].tolist() == first["status"].tolist()
    rounding.in_steps(dense(second)[:800], probs[:800], 6)


def test_fewer_than_k_classes_other_delimiters_and_what_pandas_adds(config, tmp_path):
    keys = keys_of(config)
    best = ["Key;class_1;probability_1;class_2;probability_2"]
    best += [f"{key};3;0.6;;" if n % 2 else f"{key};4;0.5;1;0.1" for n, key in enumerate(keys)]
    (tmp_path / "best.csv").write_text("\n".join(best))
    config.label.predictions = str(tmp_path / "best.csv")
    label.run(config, tmp_path / "best")
    found = dense(read(tmp_path / "best"))[:2]
    rounding.in_steps(found[0, [4, 1, 0]], [0.5, 0.1, 0.05])
    rounding.in_steps(found[1, [3, 0]], [0.6, 0.4 / 9])

    probs = scipy.special.softmax(some_logits(len(keys)), 1)
    lines = [",".join(["", "Path", *DIGITS])]
    lines += [f"{n},{key}," + ",".join(map(str, probs[n])) for n, key in enumerate(keys)]
    (tmp_path / "pandas.csv").write_text("\n".join(lines))
    config.label.predictions = str(tmp_path / "pandas.csv")
    label.run(config, tmp_path / "pandas")
    rounding.in_steps(dense(read(tmp_path / "pandas")), probs)


def test_many_files_of_one_teacher_by_a_pattern(config, tmp_path):
    keys = keys_of(config)
    probs = scipy.special.softmax(some_logits(len(keys)), 1)
    for part, rows in enumerate(np.array_split(np.arange(len(keys)), 3)):
        write_csv(tmp_path / f"part-{part}.csv", [keys[row] for row in rows], probs[rows])
    for number, pattern in enumerate(("part-*.csv", "part-{0,1,2}.csv")):
        config.label.predictions = str(tmp_path / pattern)
        label.run(config, tmp_path / str(number))
        rounding.in_steps(dense(read(tmp_path / str(number))), probs)
    write_csv(tmp_path / "part-3.csv", ["stranger"], probs[:1, ::-1], DIGITS[::-1])
    config.label.predictions = str(tmp_path / "part-*.csv")
    with pytest.raises(InputError, match="other columns or classes, or another order"):
        label.run(config, tmp_path / "3")


def test_guarded_pools_are_hashed_and_unreadable_images_keep_their_reason(config, tmp_path):
    names = [f"{number}.png" for number in range(8)]
    config.data.unlabelled = folder_of(tmp_path, names)
    (tmp_path / "pool" / "5.png").write_bytes(b"no image")
    config.data.guard, config.data.max_bad_fraction = "digits:test", 0.5
    probs = scipy.special.softmax(some_logits(7), 1)
    write_csv(tmp_path / "p.csv", [name for name in names if name != "7.png"], probs)
    config.label.predictions = str(tmp_path / "p.csv")
    outputs = label.run(config, tmp_path)
    status = read(tmp_path)["status"].tolist()
    assert status[:5] == ["ok"] * 5 and status[7] == "no prediction"
    assert status[5] not in ("ok", "no prediction")
    assert outputs["num_bad"] == 1 and outputs["num_without_prediction"] == 1
    shard = shards_lib.Shard(tmp_path / "labels" / shards_lib.shard_name(0, 1))
    assert shard.read("phash")["phash"].any()
