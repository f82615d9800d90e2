"""Classes by name in every program, whatever the order of a source's or a checkpoint's list."""

import json

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ns_jax import config as config_lib
from ns_jax import trees
from ns_jax.checkpoints import checkpoint
from ns_jax.data import class_names, crops
from ns_jax.data import open as open_lib
from ns_jax.data.workers import LoaderSettings
from ns_jax.errors import InputError
from ns_jax.inference import metrics, predictor, teachers
from ns_jax.labelling import shards
from ns_jax.model_card import ModelCard, with_classes
from ns_jax.models import efficientnet
from ns_jax.programs import evaluate, label, selftrain, train
from ns_jax.selection import table as table_lib
from ns_jax.training import examples
from tests import rounding
from tests.data import made

pytestmark = pytest.mark.large

CLASSES = 12
NAMES = tuple(map(str, range(CLASSES)))
OLD = tuple(sorted(NAMES))  # 0, 1, 10, 11, 2: as folders were sorted before
COUNT = 60


def folder(root, numbers=range(CLASSES), seed=0):
    for number in range(COUNT):
        if number % CLASSES in numbers:
            path = root / f"{number % CLASSES}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(made.encoded(number, seed))
    return f"folder:{root}"


def parquet(root, numbers=range(CLASSES), seed=0, **others):
    """As `folder`; `others`: more labels, of images after these."""
    rows = [n for n in range(COUNT) if n % CLASSES in numbers]
    images = [made.encoded(n, seed) for n in rows]
    labels = [n % CLASSES for n in rows]
    for extra in others.get("more", ()):
        images.append(made.encoded(len(images), seed + 50))
        labels.append(extra)
    root.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, "label": labels}), root / "x.parquet")
    return f"parquet:{root}/x.parquet"


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Random weights, with the classes in the order of numbers."""
    model = efficientnet.build("efficientnet-pico", CLASSES, small_images=True)
    variables = jax.device_get(jax.jit(lambda rng: model.init(rng, 16))(jax.random.key(1)))
    preprocessing = crops.Preprocessing(16, "none", (0.5,) * 3, (0.25,) * 3)
    return ModelCard(model.name, True, NAMES, preprocessing), variables


@pytest.fixture(scope="module")
def old(network, tmp_path_factory):
    """The same weights as a checkpoint of an earlier version has them."""
    directory = tmp_path_factory.mktemp("old")
    checkpoint.save_model(directory, *with_classes(network, OLD, "network", "old"))
    return directory


@pytest.fixture(scope="module")
def true_and_logits(network, tmp_path_factory):
    """int [N], float [N, classes] of the images of `folder` by key, in the order of numbers."""
    source = open_lib.open_source(
        parquet(tmp_path_factory.mktemp("all")), labels_per_class=1, seed=0
    )
    batches = predictor.Predictor([network]).logits(
        source, [range(COUNT)], LoaderSettings(0, 1, 2), 32
    )
    return source.labels, np.concatenate([batch["logits"][:, 0] for batch in batches])


@pytest.fixture
def config(tiny_config, old):
    tiny_config.evaluate.checkpoint = str(old)
    tiny_config.data.read_threads = 1
    return tiny_config


def evaluated(config, workdir, test, **settings):
    config.data.test = test
    config.evaluate.update(settings)
    workdir.mkdir(exist_ok=True)
    return evaluate.run(config, workdir)


def test_every_order_scores_the_same(config, tmp_path, true_and_logits):
    true, logits = true_and_logits
    expected = metrics.evaluate(
        np.argsort(-logits, 1, "stable"), -np.sort(-jax.nn.softmax(logits)), true, CLASSES
    )
    for name in (folder(tmp_path / "f"), parquet(tmp_path / "p")):
        found = evaluated(config, tmp_path / name[:3], name)
        assert found["top1"] == expected["top1"] and found["top5"] == expected["top5"]
        assert found["ece"] == pytest.approx(expected["ece"], abs=1e-5)
        of_names = dict(zip(OLD, found["per_class"], strict=True))
        assert of_names == dict(zip(NAMES, expected["per_class"], strict=True))
        assert (found["num_images"], found["num_unlabelled"]) == (COUNT, 0)


def test_classes_that_lack_are_null_and_rows_without_a_label_left_out(
    config, tmp_path, true_and_logits, capsys
):
    true, logits = true_and_logits
    name = parquet(tmp_path / "p", range(2, 9), more=(-1, None, -1))
    found = evaluated(config, tmp_path / "e", name)
    there = (true >= 2) & (true < 9)
    assert found["top1"] == (logits.argmax(1) == true)[there].mean()
    lacking = [value is None for value in found["per_class"]]
    assert lacking == [int(name) not in range(2, 9) for name in OLD]
    assert (found["num_images"], found["num_unlabelled"]) == (there.sum(), 3)
    said = capsys.readouterr().err
    assert "has no images of 5 of the 12 classes" in said and "0, 1, 10, 11, 9" in said
    assert said.count("3 of 38 images have no label") == 1


def test_surplus_classes_are_named_and_present_ones_compete_alone(
    config, tmp_path, true_and_logits, capsys
):
    true, logits = true_and_logits
    name = parquet(tmp_path / "p", (1, 3, 10), more=(14, 13))
    with pytest.raises(InputError, match=r"surplus: 13, 14.*evaluate.classes=\"present\""):
        evaluated(config, tmp_path / "all", name)
    found = evaluated(config, tmp_path / "present", name, classes="present")
    chosen, there = np.array([1, 3, 10]), np.isin(true, (1, 3, 10))
    best = chosen[logits[:, chosen].argmax(1)]
    assert found["top1"] == (best == true)[there].mean() and found["num_images"] == there.sum()
    assert found["top1"] > (logits.argmax(1) == true)[there].mean()  # or this test says nothing
    probs = np.asarray(jax.nn.softmax(logits[there][:, chosen])).max(1)
    error = metrics.calibration_error(probs, (best == true)[there])
    assert found["ece"] == pytest.approx(error, abs=1e-5)
    assert "lacks 2 classes (2 images): 13, 14" in capsys.readouterr().err
    with pytest.raises(InputError, match="made of other inputs"):
        evaluated(config, tmp_path / "present", parquet(tmp_path / "q", (1, 3)), classes="all")
    with pytest.raises(InputError, match="evaluate.classes='some'; known: all, present"):
        evaluated(config, tmp_path / "some", name, classes="some")


@pytest.mark.parametrize("known", [True, False])
def test_a_test_source_without_any_label_is_refused_before_the_pass(
    config, tmp_path, monkeypatch, known
):
    monkeypatch.setattr(predictor.Predictor, "predict", None)
    name = parquet(tmp_path / "p", (), more=(-1, -1)) if known else unlabelled_tfds(tmp_path)
    if not known:
        monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path))
    with pytest.raises(InputError, match="has no labels|not one of its 4 images has a label"):
        evaluated(config, tmp_path / "e", name)


def test_labels_that_lie_beside_images_are_left_out_as_they_are_read(
    config, tmp_path, monkeypatch, capsys
):
    name = unlabelled_tfds(tmp_path, (-1, 3, -1, 10))
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path))
    found = evaluated(config, tmp_path / "all", name)
    assert (found["num_images"], found["num_unlabelled"]) == (2, 2)
    assert [OLD[n] for n, v in enumerate(found["per_class"]) if v is not None] == ["10", "3"]
    assert "2 of 4 images have no label" in capsys.readouterr().err
    found = evaluated(config, tmp_path / "present", name, classes="present")
    assert (found["num_images"], found["top5"]) == (2, 1.0)  # two classes compete


def unlabelled_tfds(root, labels=(-1, -1, -1, -1)):
    """A split whose labels are -1, as those of some test splits are."""
    import tensorflow_datasets

    class Hidden(tensorflow_datasets.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tensorflow_datasets.core.Version("1.0.0")

        def _info(self):
            features = tensorflow_datasets.features
            return tensorflow_datasets.core.DatasetInfo(
                builder=self,
                features=features.FeaturesDict(
                    {
                        "image": features.Image(encoding_format="jpeg"),
                        "label": features.ClassLabel(names=NAMES),
                    }
                ),
            )

        def _split_generators(self, _):
            return {"test": self._generate_examples()}

        def _generate_examples(self):
            for number in range(4):
                path = root / f"{number}.jpg"
                path.write_bytes(made.encoded(2 * number))
                yield number, {"image": str(path), "label": labels[number]}

    Hidden(data_dir=root, file_format="array_record").download_and_prepare()
    return "tfds:hidden:test"


def test_calibration_takes_classes_by_name(config, tmp_path, old):
    config.label.checkpoint = str(old)
    teacher = predictor.Predictor([checkpoint.load_model(old)])
    found = []
    for number, name in enumerate(
        (
            folder(tmp_path / "f"),
            parquet(tmp_path / "p"),
            parquet(tmp_path / "q", more=(-1, -1)),
        )
    ):
        config.data.holdout = name
        found.append(label._fitted_temperature(config, teacher, tmp_path / f"{number}"))
    assert found[0] == pytest.approx(found[1]) == pytest.approx(found[2])
    written = json.loads((tmp_path / "2" / "calibration.json").read_text())
    assert written["num_images"] == COUNT


def test_teachers_of_other_orders_predict_together(network, old, tmp_path):
    checkpoint.save_model(tmp_path / "new", *network)
    first, second = teachers.networks([str(old), str(tmp_path / "new")])
    assert first[0].class_names == second[0].class_names == OLD
    for one, other in zip(jax.tree.leaves(first[1]), jax.tree.leaves(second[1]), strict=True):
        np.testing.assert_array_equal(one, other)


# --- training -------------------------------------------------------------------------------------


@pytest.fixture
def training(config, tmp_path):
    """A training on `folder`, four steps of 15 images."""
    config.data.labelled = folder(tmp_path / "labelled")
    config.data.test = config.data.unlabelled = ""
    config.model.small_images = True
    config.train.batch_size, config.train.epochs = 15, 1.0
    return config


def test_a_training_begun_with_the_old_order_ends_as_it_would_have(
    few_stages, training, tmp_path, monkeypatch
):
    training.data.test = parquet(tmp_path / "test", seed=1)
    training.train.evaluate_every_epochs = 1.0
    with monkeypatch.context() as before:
        before.setattr(class_names, "in_order", lambda names: tuple(sorted(names)))
        whole = train.run(training, tmp_path / "whole")
        begun = tmp_path / "begun"
        train.run(training, begun)
    for path in (begun / "manifest.json", begun / "metrics.jsonl"):
        path.unlink()
    remove_newest(begun)
    resumed = train.run(training, begun)
    assert resumed == whole
    assert checkpoint.load_card(begun).class_names == OLD
    scores = [
        json.loads(line)["test/top1"]
        for workdir in ("whole", "begun")
        for line in (tmp_path / workdir / "metrics.jsonl").read_text().splitlines()
        if "test/top1" in line
    ]
    assert len(scores) == 2 and scores[0] == scores[1]
    fresh = train.run(training, tmp_path / "fresh")
    assert fresh["model"] != whole["model"]
    assert checkpoint.load_card(tmp_path / "fresh").class_names == NAMES


def remove_newest(workdir):
    import shutil

    steps = sorted((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    assert len(steps) == 2
    shutil.rmtree(steps[-1])


def selection(directory, source, names):
    """Three images, of which the teacher is sure that they are a 10, a 2 and an 11."""
    directory.mkdir()
    metadata = {"source": source.fingerprint, "teacher": "t", "class_names": list(names)}
    best = np.asarray([[names.index(n), names.index("0")] for n in ("10", "2", "11")], np.int32)
    with table_lib.Writer(directory, 2, metadata, lambda batch: None) as writer:
        writer.write(
            {
                "index": np.arange(3),
                "label": best[:, 0],
                "confidence": np.full(3, 0.9, np.float32),
                "classes": best,
                "probs": np.tile(np.array([0.9 * shards.SCALE, 0], np.uint16), (3, 1)),
            },
            np.ones(3, np.int64),
        )
    return str(directory)


@pytest.mark.parametrize("names", [NAMES, OLD, NAMES[::-1]])
@pytest.mark.parametrize("hard", [True, False])
def test_a_selections_classes_are_those_of_the_network_by_name(training, tmp_path, names, hard):
    training.data.unlabelled = parquet(tmp_path / "pool")
    pool = open_lib.open_from_config(training, "unlabelled")
    training.train.unlabelled_ratio = 1.0
    training.train.selection = selection(tmp_path / "selection", pool, names)
    training.loss.pseudo_labels = "hard" if hard else "soft"
    source = open_lib.open_from_config(training, "labelled")
    found, owner = examples.class_names(training, source, None, None, None)
    assert (found, owner) == (names, training.train.selection)
    for counted in (NAMES, OLD):
        matched = source.renumbered(counted, class_names.matching(source.class_names, counted))
        labelled, unlabelled = examples.from_config(training, matched)
        classes = [counted[int(unlabelled[row]["target_classes"][0])] for row in range(3)]
        assert classes == ["10", "2", "11"]
        classes = [counted[int(labelled[row]["target_classes"][0])] for row in range(COUNT)]
        assert classes == [pool_key.split("/")[0] for pool_key in keys(source)]


def keys(source):
    return [source[i]["key"] for i in range(len(source))]


def test_a_selection_of_other_classes_is_refused(training, tmp_path):
    training.data.unlabelled = parquet(tmp_path / "pool")
    pool = open_lib.open_from_config(training, "unlabelled")
    training.train.unlabelled_ratio = 1.0
    training.train.selection = selection(tmp_path / "selection", pool, (*NAMES, "more"))
    source = open_lib.open_from_config(training, "labelled")
    with pytest.raises(InputError, match="has 13 classes, the network 12"):
        examples.from_config(training, source)


def test_initial_weights_keep_their_classes(few_stages, training, tmp_path):
    model = efficientnet.build("efficientnet-pico", CLASSES, small_images=True)
    variables = jax.device_get(jax.jit(lambda rng: model.init(rng, 16))(jax.random.key(2)))
    card = ModelCard(model.name, True, OLD, crops.Preprocessing(16, "none", (0.5,) * 3, (0.2,) * 3))
    checkpoint.save_model(tmp_path / "init", card, variables)
    training.train.init = str(tmp_path / "init")
    training.data.labelled = folder(tmp_path / "fewer", range(11))
    training.optim.learning_rate_per_256 = 0.0
    train.run(training, tmp_path / "run")
    after, trained = checkpoint.load_model(tmp_path / "run")
    assert after.class_names == OLD
    before = trees.by_path(variables["params"])
    for path, array in trees.by_path(trained["params"]).items():
        rounding.close(array, before[path], name=path)


def refused(training, workdir, match):
    """Both programs that train say it before anything is compiled or written."""
    for program in (train, selftrain):
        with pytest.raises(InputError, match=match):
            program.run(training, workdir)
        assert not workdir.exists()


def test_what_cannot_be_trained_on_is_refused_at_once(training, tmp_path, monkeypatch):
    training.selftrain.iterations = 0
    training.selftrain.overrides = {}
    training.data.labelled = parquet(tmp_path / "p", more=(-1, None, -1))
    refused(training, tmp_path / "run", "3 of 63 images are without a label")
    training.data.labelled = parquet(tmp_path / "q", (3,))
    refused(training, tmp_path / "run", "one class only, 3;.*folder:DIR/train")
    training.data.labelled = folder(tmp_path / "one" / "images")[: -len("/images")]
    refused(training, tmp_path / "run", f"one class only, images.*folder:{tmp_path}/one/images")
    for part in ("val", "train"):
        folder(tmp_path / "parts" / part)
    training.data.labelled = f"folder:{tmp_path / 'parts'}"
    refused(training, tmp_path / "run", f"parts of a data set.*mean folder:{tmp_path}/parts/train")
    training.data.labelled = f"folder:{tmp_path / 'parts'}/train"
    training.data.holdout = parquet(tmp_path / "h", range(4))
    refused(training, tmp_path / "run", "20 images of data.holdout=parquet:.* are in data.labelled")
    training.data.labelled = unlabelled_tfds(tmp_path)
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path))
    refused(training, tmp_path / "run", "4 of 4 images are without a label")


def test_a_student_takes_the_classes_of_its_teacher(network, old, training):
    source = open_lib.open_from_config(training, "labelled")
    cards = [network[0], checkpoint.load_card(old)]
    resumed = ModelCard(*vars(cards[1]).values())
    assert examples.class_names(training, source, None, *cards)[0] == NAMES
    assert examples.class_names(training, source, None, None, cards[1])[0] == OLD
    training.train.new_head = True
    assert examples.class_names(training, source, None, None, cards[1])[0] == NAMES
    of_this = {"labelled": source.fingerprint}
    for inputs, expected in ((of_this, OLD), ({"labelled": "another"}, NAMES)):
        resumed.inputs.clear()
        resumed.inputs.update(inputs)
        assert examples.class_names(training, source, resumed, cards[0], None)[0] == expected


def test_labelled_rows_and_a_teacher_in_the_step_agree(training, old, tmp_path):
    config = config_lib.at_iteration(training, 0)
    config.train.teacher = str(old)
    source = open_lib.open_from_config(config, "labelled")
    teacher = checkpoint.load_model(old)
    matched, _, kept = train._of_same_classes(config, tmp_path / "run", source, None, teacher)
    assert matched.class_names == OLD and kept is teacher
    assert [OLD[label] for label in matched.labels] == [key.split("/")[0] for key in keys(source)]
