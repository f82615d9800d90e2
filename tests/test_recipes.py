"""The paper's settings: their numbers, and their sources on data of the same features."""

import io

import cv2
import numpy as np
import pytest

from configs import cifar, imagenet, svhn
from ns_jax import config as config_lib
from ns_jax.data import decoding, pipeline
from ns_jax.data import open as open_lib
from ns_jax.data.batch import BatchSpec
from ns_jax.data.workers import LoaderSettings
from ns_jax.training import examples as examples_lib
from ns_jax.training import numbers as numbers_lib
from ns_jax.training import optim
from ns_jax.training import trainer as trainer_lib
from tests.data import made

pytestmark = pytest.mark.large

SPLITS = {
    "svhn_cropped": {"train": 4030, "extra": 12, "test": 6},
    "cifar10": {"train": 40, "test": 6},
    "imagenet2012": {"train": 12, "validation": 6},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Data sets under TFDS's own names and with its own features, of a few images each."""
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("tfds")
    for name, splits in SPLITS.items():
        real = tfds.builder_cls(name)
        _build(tfds, real, splits, root)
    return root


def _build(tfds, real, splits, root):
    info = real(data_dir=root / "unused").info
    small = name = real.name

    def encoded(number):
        if name == "imagenet2012":
            return made.encoded(2 * number)  # JPEG, of many sizes
        image = np.full((32, 32, 3), number % 256, np.uint8)
        return cv2.imencode(".png", image)[1].tobytes()

    class Small(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(str(info.version))

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=info.features)

        def _split_generators(self, _):
            return {split: self._generate_examples(count) for split, count in splits.items()}

        def _generate_examples(self, count):
            for number in range(count):
                example = {"image": io.BytesIO(encoded(number)), "label": number % 10}
                if "file_name" in info.features:
                    example["file_name"] = f"n{number:08d}.JPEG"
                if "id" in info.features:
                    example["id"] = f"{number}"
                yield number, example

    Small.name = small
    Small(data_dir=root, file_format="array_record").download_and_prepare()


@pytest.mark.parametrize(
    ("config", "counts", "num_classes", "size"),
    [
        (svhn.get_config("role=student"), (30, 12, 6), 10, 32),
        (cifar.get_config("role=student,labelled=25"), (25, 15, 6), 10, 32),
        (imagenet.get_config("role=student,model=b2"), (12, None, 6), 1000, 260),
    ],
)
def test_recipes_read_data_of_their_data_sets_features(
    prepared, monkeypatch, config, counts, num_classes, size
):
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(prepared))
    for which, count in zip(("labelled", "unlabelled", "test"), counts, strict=True):
        if count is None:
            assert not config.data[which]  # the paper's pool is not public
            continue
        source = open_lib.open_from_config(config, which)
        assert len(source) == count and len(source.class_names) == num_classes
        assert decoding.decode(source[0]["image"]).dtype == np.uint8
    source = open_lib.open_from_config(config, "labelled")
    model = trainer_lib.build_model(config, num_classes)
    preprocessing = trainer_lib.build_preprocessing(config, model)
    view = trainer_lib.train_view(config, preprocessing)
    batch = next(
        pipeline.train_batches(
            examples_lib.labelled_examples(source, config.loss.label_smoothing, 1),
            None,
            view,
            spec=BatchSpec(4, 0, 1, view.shapes()),
            steps=1,
            start_step=0,
            seed=0,
            reading=LoaderSettings(workers=0),
        )
    )
    assert batch["image"].shape == (4, size, size, 3) and batch["weight"].all()


def steps_of(config, num_labelled):
    """Steps of an epoch and of the whole training."""
    config.train.selection, config.train.init = "selection", "weights"
    numbers = numbers_lib.derive(config, num_labelled, config.mesh.fsdp)
    return numbers.steps_per_epoch, numbers.total_steps


def test_svhn_has_the_official_numbers():
    config = svhn.get_config("role=student")
    steps_per_epoch, steps = steps_of(config, 69_257)
    assert steps == 109_474 and steps_per_epoch == pytest.approx(541.070, abs=1e-3)
    assert numbers_lib.images_per_step(config) == (128, 640)
    schedule = optim.learning_rate_schedule(config.optim, 128, steps_per_epoch)
    assert float(schedule(2705)) == pytest.approx(0.00730138, rel=1e-5)
    assert float(schedule(steps - 1)) == pytest.approx(9.0894e-05, rel=1e-4)
    assert config.randaugment.final_cutout == 8 and config.optim.weight_decay == 1e-4
    assert svhn.get_config("role=teacher").train.unlabelled_ratio == 0


@pytest.mark.parametrize(
    ("arg", "per_step", "steps", "after_warmup", "last"),
    [
        ("model=b0", (4096, 4096), 218_948, "0.248320", "0.00309130"),
        ("model=b4", (4096, 12_288), 218_948, "0.248320", "0.00309130"),
        ("model=b7", (4096, 12_288), 109_474, "0.240870", "0.00309130"),
        ("model=b7,batch=paper", (2048, 6144), 218_949, "0.120435", "0.00154565"),
    ],
)
def test_imagenet_has_the_official_numbers(arg, per_step, steps, after_warmup, last):
    config = imagenet.get_config(f"role=student,{arg}")
    steps_per_epoch, found = steps_of(config, 1_281_167)
    assert found == steps and numbers_lib.images_per_step(config) == per_step
    schedule = optim.learning_rate_schedule(config.optim, per_step[0], steps_per_epoch)
    assert f"{float(schedule(int(5 * steps_per_epoch))):.6f}" == after_warmup
    assert f"{float(schedule(steps - 1)):.8f}" == last


@pytest.mark.parametrize(
    "config", [lambda: imagenet.get_config("model=b9"), lambda: cifar.get_config("classes=5")]
)
def test_unknown_arguments_of_recipes_list_the_known_ones(config):
    with pytest.raises(ValueError, match="known: "):
        config()


def test_the_papers_chain_is_b7_and_three_l2_with_their_ratios():
    config = imagenet.get_config("chain=paper")
    assert config.selftrain.iterations == 3
    found = []
    for k in range(4):
        at = config_lib.at_iteration(config, k)
        found.append((at.model.name[-2:], *numbers_lib.images_per_step(at), at.train.sample_prob))
        assert at.finetune.epochs == (1.5 if k == 3 else 0)
    assert found == [
        ("b7", 2048, 0, 1.0),
        ("l2", 2048, 28_672, 1.0),
        ("l2", 2048, 28_672, 1.0),
        ("l2", 2048, 28_672, 0.5),  # 28:1
    ]
    steps_per_epoch, steps = steps_of(config_lib.at_iteration(config, 1), 1_281_167)
    assert steps == 218_949 and f"{steps_per_epoch:.3f}" == "625.570"
    first = imagenet.get_config("chain=v1")
    assert first.selftrain.iterations == 5
    names = [config_lib.at_iteration(first, k).model.name[-2:] for k in range(6)]
    assert names == ["b7", "b7", "l0", "l1", "l2", "l2"]  # B7 is its own student first
    ratios = [config_lib.at_iteration(first, k).train.unlabelled_ratio for k in range(6)]
    assert ratios == [0, 3, 3, 3, 3, 3]


def test_a_chain_filters_once_where_a_small_network_is_given():
    assert imagenet.get_config("chain=paper").selftrain.filter == ""
    config = imagenet.get_config("chain=paper,filter=runs/b0/iteration_1")
    assert config.selftrain.filter == "runs/b0/iteration_1"


def test_teachers_inside_a_chain_are_tuned_only_if_the_config_says_so():
    for arg, expected in (("", [0, 0, 0, 1.5]), (",finetune=all", [0, 1.5, 1.5, 1.5])):
        config = imagenet.get_config(f"chain=paper{arg}")
        assert [config_lib.at_iteration(config, k).finetune.epochs for k in range(4)] == expected
    with pytest.raises(ValueError, match="finetune=some; known: last, all"):
        imagenet.get_config("chain=paper,finetune=some")


def test_svhn_online_has_each_students_teacher_in_the_step_and_all_of_the_pool():
    config = svhn.get_config("role=online")
    assert config.train.teacher == "previous" and config.selftrain.filter == ""
    student = config_lib.at_iteration(config, 1)
    assert numbers_lib.images_per_step(student) == (128, 640)
    assert config.selftrain.iterations == 1
    assert "98.6" in svhn.__doc__ and "role=online" in svhn.__doc__


def test_l2_is_tuned_at_800_pixels_with_the_rates_of_the_tail():
    config = imagenet.get_config("model=l2,role=finetune")
    assert config.data.image_size == 800 and config.data.train_view == "evaluation"
    assert (config.train.epochs, config.optim.start_epoch) == (1.5, 348.5)
    steps_per_epoch, steps = steps_of(config, 1_281_167)
    assert steps == 938
    schedule = optim.learning_rate_schedule(config.optim, 2048, steps_per_epoch)
    assert f"{float(schedule(steps - 1)):.8f}" == "0.00154565"


@pytest.mark.parametrize("model", ["b0", "b3", "b7", "l0", "l1", "l2"])
@pytest.mark.parametrize("batch", ["official", "paper"])
def test_recipes_go_onto_a_pod(model, batch):
    for role in ("teacher", "student"):
        config = imagenet.get_config(f"model={model},batch={batch},role={role}")
        config.train.selection = "selection"
        numbers_lib.derive(config, 1_281_167, 2048)
