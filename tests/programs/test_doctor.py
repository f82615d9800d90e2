"""doctor finds what is wrong with sources, and measures what bounds a training."""

import json
import shutil

import pytest

from ns_jax.programs import doctor
from tests.data import made


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


def test_doctor_counts_finds_duplicates_and_says_what_bounds_the_run(config, tmp_path, capsys):
    for name in ("labelled/3/9.jpg", "pool/other name.jpg"):
        shutil.copy(tmp_path / "test" / "1" / "1.jpg", tmp_path / name)
    (tmp_path / "labelled" / "9" / "9.jpg").unlink()
    result = doctor.run(config, tmp_path / "work")
    assert json.loads((tmp_path / "work" / "doctor.json").read_text()) == result
    found = result["sources"]
    assert found["labelled"]["per_class"] == {**{f"{c}": 5 for c in range(10)}, "3": 6, "9": 4}
    assert found["unlabelled"]["unlabelled"] == found["unlabelled"]["num_images"] == 8
    assert found["unlabelled"]["bad"] == ["  broken.jpg: not an image"]
    assert result["duplicates"] == {
        "labelled": [["3/9.jpg", "1/1.jpg"]],
        "unlabelled": [["other name.jpg", "1/1.jpg"]],
    }
    speed = result["speed"]
    assert speed["bound_by"] in ("input", "step") and speed["training_step"] > 0
    assert all(value > 0 for value in speed["views_per_core"].values())
    shown = capsys.readouterr()
    assert "1 of 50 labelled images are among 20 test images" in shown.err
    assert "training is bound by the" in shown.err
    assert "unlabelled, unreadable: broken.jpg: not an image" in shown.err
    assert "3: 6" in shown.out and "9: 4" in shown.out


def test_doctor_refuses_what_training_would_refuse(config, tmp_path):
    config.data.max_bad_fraction = 0.1
    with pytest.raises(ValueError, match=r"(?s)1 of a sample of 7 images.*broken.jpg: not an"):
        doctor.run(config, tmp_path / "work")
    config.data.unlabelled = ""
    shutil.rmtree(tmp_path / "test" / "4")
    with pytest.raises(ValueError, match="missing: 4"):
        doctor.run(config, tmp_path / "work")
    config.data.labelled = ""
    with pytest.raises(ValueError, match="data.labelled is empty; set --config.data.labelled=fol"):
        doctor.run(config, tmp_path / "work")
