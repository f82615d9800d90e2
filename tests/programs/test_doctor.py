"""doctor finds what is wrong with sources, and measures what bounds a training."""

import json
import shutil

import cv2
import pytest

from ns_jax import config as config_lib
from ns_jax.data import open as open_lib
from ns_jax.errors import InputError
from ns_jax.programs import doctor
from ns_jax.training import numbers as numbers_lib
from tests.data import made

pytestmark = pytest.mark.large


def write(path, number, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(made.encoded(number, seed))


@pytest.fixture
def config(tiny_config, tmp_path):
    """Five labelled images of each of ten classes, a test set, a pool with a broken file."""
    for number in range(50):
        write(tmp_path / "labelled" / f"{number % 10}" / f"{number}.jpg", number, seed=0)
    for number in range(20):
        write(tmp_path / "test" / f"{number % 10}" / f"{number}.jpg", number, seed=1)
    for number in range(6):
        write(tmp_path / "pool" / f"{number}.jpg", number, seed=2)
    (tmp_path / "pool" / "broken.jpg").write_bytes(b"broken")
    for name, directory in (("labelled", "labelled"), ("unlabelled", "pool"), ("test", "test")):
        tiny_config.data[name] = f"folder:{tmp_path / directory}"
    tiny_config.data.max_bad_fraction = 0.2
    tiny_config.doctor.seconds = 0.2
    return tiny_config


def test_doctor_counts_finds_copies_and_says_what_bounds_the_run(config, tmp_path, capsys):
    for name in ("labelled/3/9.jpg", "pool/other name.jpg"):
        shutil.copy(tmp_path / "test" / "1" / "1.jpg", tmp_path / name)
    (tmp_path / "labelled" / "9" / "9.jpg").unlink()
    result = doctor.run(config, tmp_path / "work")
    assert json.loads((tmp_path / "work" / "doctor.json").read_text()) == result
    found = result["sources"]
    assert found["labelled"]["per_class"] == {**{f"{c}": 5 for c in range(10)}, "3": 6, "9": 4}
    assert found["unlabelled"]["unlabelled"] == found["unlabelled"]["num_images"] == 8
    assert found["unlabelled"]["bad"] == ["  broken.jpg: not an image"]
    assert result["leaks"] == {
        "labelled": {"test": [["3/9.jpg", "1/1.jpg", 0]]},
        "unlabelled": {"test": [["other name.jpg", "1/1.jpg", 0]]},
    }
    speed = result["speed"]
    assert speed["model"] == "efficientnet-pico" and speed["per_step"] == [10, 20]
    assert speed["bound_by"] in ("input", "step") and speed["training_step"] > 0
    assert all(value > 0 for value in speed["views_per_core"].values())
    shown = capsys.readouterr()
    assert "1 of 50 labelled images resemble one of 20 test images" in shown.err
    assert "other name.jpg is 0 bits from 1/1.jpg" in shown.err
    assert "training is bound by the" in shown.err
    assert "unlabelled, unreadable: broken.jpg: not an image" in shown.err
    assert "3: 6" in shown.out and "9: 4" in shown.out


def test_doctor_refuses_what_training_would_refuse(config, tmp_path):
    config.data.max_bad_fraction = 0.1
    with pytest.raises(ValueError, match=r"(?s)1 of a sample of 7 images.*broken.jpg: not an"):
        doctor.run(config, tmp_path / "work")
    config.data.unlabelled = ""
    write(tmp_path / "test" / "kitten" / "0.jpg", 0, seed=5)
    with pytest.raises(ValueError, match="surplus: kitten"):
        doctor.run(config, tmp_path / "work")
    shutil.rmtree(tmp_path / "labelled" / "4")
    with pytest.raises(ValueError, match="surplus: 4, kitten"):
        doctor.run(config, tmp_path / "work")
    config.data.labelled = f"folder:{tmp_path / 'test' / '4'}+folder:{tmp_path / 'labelled'}"
    with pytest.raises(ValueError, match="2 of 47 images are without a label"):
        doctor.run(config, tmp_path / "work")
    config.data.labelled = ""
    with pytest.raises(ValueError, match="data.labelled is empty; set --config.data.labelled=fol"):
        doctor.run(config, tmp_path / "work")


def test_copies_are_found_mirrored_and_smaller_in_all_sources_that_are_held_out(
    config, tmp_path, monkeypatch
):
    monkeypatch.setattr(doctor, "_speed", lambda config, sources: {})
    for number in range(3):
        write(tmp_path / "guard" / f"{number}.jpg", number, seed=3)
        write(tmp_path / "holdout" / f"{number}" / f"{number}.jpg", number, seed=4)
    for number in range(3, 10):
        write(tmp_path / "holdout" / f"{number}" / f"{number}.jpg", number, seed=4)
    large = cv2.resize(made.image(1, seed=3), None, fx=2, fy=2)
    cv2.imwrite(str(tmp_path / "pool" / "mirrored.png"), large[:, ::-1, ::-1])
    shutil.copy(tmp_path / "holdout" / "8" / "8.jpg", tmp_path / "labelled" / "8" / "copy.jpg")
    (tmp_path / "guard" / "broken.jpg").write_bytes(b"broken")
    for name in ("guard", "holdout"):
        config.data[name] = f"folder:{tmp_path / name}"
    config.data.max_bad_fraction = 0.3
    result = doctor.run(config, tmp_path / "work")
    ((key, other, bits),) = result["leaks"]["unlabelled"].pop("guard")
    assert (key, other) == ("mirrored.png", "1.jpg") and bits <= 6
    assert result["leaks"] == {
        "labelled": {"test": [], "holdout": [["8/copy.jpg", "8/8.jpg", 0]], "guard": []},
        "unlabelled": {"test": [], "holdout": []},
    }
    config.select.guard_distance = 17
    with pytest.raises(InputError, match="guard_distance is 17"):
        doctor.run(config, tmp_path / "work")


def test_what_is_compared_is_spread_over_a_source_in_class_order(
    config, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(doctor, "_speed", lambda config, sources: {})
    shutil.copy(tmp_path / "test" / "1" / "1.jpg", tmp_path / "labelled" / "9" / "999.jpg")
    config.doctor.sample = 20
    result = doctor.run(config, tmp_path / "work")
    assert result["leaks"]["labelled"] == {"test": [["9/999.jpg", "1/1.jpg", 0]]}
    assert "1 of 20 labelled images resemble one of 20 test" in capsys.readouterr().err
    source = open_lib.open_from_config(config, "labelled")
    _, sample = doctor._examine(config, source)
    assert len(sample.keys) == 20 and len({key.split("/")[0] for key in sample.keys}) == 10


def test_the_last_student_is_measured_with_its_pool(config, tmp_path, capsys, monkeypatch):
    timed = []
    monkeypatch.setattr(doctor, "_training_speed", lambda *given: timed.append(given) or 1.0)
    config.selftrain.iterations = 2
    config.selftrain.overrides.iteration_2 = {
        "model": {"name": "efficientnet-nano"},
        "data": {"image_size": 20},
        "train": {"unlabelled_ratio": 3.0},
    }
    config.doctor.sample = 7
    speed = doctor.run(config, tmp_path / "work")["speed"]
    assert (speed["model"], speed["image_size"]) == ("efficientnet-nano", 20)
    assert speed["per_step"] == [10, 30] and "pool" in speed["pool"]
    ((settings, trainer, _),) = timed
    assert numbers_lib.images_per_step(settings) == (10, 30)
    assert trainer.model.name == "efficientnet-nano" and trainer.preprocessing.size == 20
    shown = capsys.readouterr().err
    assert "measures the training of efficientnet-nano at 20 pixels, with 3 unlabelled" in shown


@pytest.mark.parametrize(("pool", "ratio"), [("unlabelled", 2.0), (None, 0.0)])
def test_without_a_pool_or_a_chain_there_is_no_student_to_measure(config, pool, ratio):
    sources = {name: None for name in ("labelled", "test", pool)}
    assert doctor._measured(config, sources).train.unlabelled_ratio == ratio
    one = config_lib.at_role(config, "teacher")
    assert doctor._measured(one, sources) is one
