"""What files of the hub and of timm say of a network that lies beside them."""

import json

import pytest

from ns_jax.errors import InputError
from ns_jax.foreign import beside

HALF = [0.5, 0.5, 0.5]


@pytest.fixture
def read(tmp_path):
    """`read(preprocessor=..., config=...)`: what these two files say."""

    def make(directory=tmp_path, **contents):
        names = {"preprocessor": "preprocessor_config.json", "config": "config.json"}
        for name, content in contents.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / names[name]).write_text(text)
        directory.mkdir(exist_ok=True)
        return beside.read(directory / "model.onnx")

    return make


def test_nothing_is_there(read):
    assert read() == beside.Described()


def test_a_processor_that_crops(read):
    """CLIP's and DINO's kind: the short side resized, then a centre crop."""
    found = read(
        preprocessor={
            "size": {"shortest_edge": 256},
            "do_center_crop": True,
            "crop_size": {"height": 224, "width": 224},
            "image_mean": [0.48, 0.46, 0.41],
            "image_std": [0.27, 0.26, 0.28],
            "resample": 3,
        }
    )
    assert (found.size, found.crop) == (224, "0.875")
    assert found.mean == pytest.approx((0.48, 0.46, 0.41))
    assert found.std == pytest.approx((0.27, 0.26, 0.28))
    assert found.interpolation == "bicubic_antialias"


def test_a_processor_of_another_scale(read, capsys):
    """(p f - m) / s, of images that are squeezed."""
    found = read(
        preprocessor={
            "size": {"height": 32, "width": 32},
            "rescale_factor": 1 / 127.5,
            "image_mean": [1.0, 1.0, 1.0],
            "image_std": [1.0, 1.0, 1.0],
            "resample": 2,
        }
    )
    assert (found.size, found.crop, found.interpolation) == (32, "none", "bilinear")
    assert found.mean == pytest.approx(HALF) and found.std == pytest.approx(HALF)
    assert "squeezes images" in capsys.readouterr().err


def test_pixels_as_they_are(read):
    found = read(preprocessor={"do_rescale": False, "do_normalize": False, "size": 28})
    assert found.mean == (0, 0, 0) and found.std == pytest.approx((1 / 255,) * 3)


def test_the_share_of_convnext(read):
    shown = {"size": {"shortest_edge": 224}, "crop_pct": 0.875}
    assert read(preprocessor=shown).crop == "0.875"
    shown["size"]["shortest_edge"] = 384
    assert read(preprocessor=shown).crop == "none"


def test_timm(read):
    view = {"input_size": [3, 288, 288], "crop_pct": 0.95, "mean": HALF, "std": HALF}
    view["interpolation"] = "bicubic"
    found = read(config={"architecture": "x", "pretrained_cfg": view, "label_names": ["a", "b"]})
    assert found == beside.Described(
        ("a", "b"), 288, "0.95", tuple(HALF), tuple(HALF), "bicubic_antialias"
    )


def test_class_names_of_transformers_above_a_directory_called_onnx(read, tmp_path):
    content = {"id2label": {"1": "dog", "0": "cat"}}
    assert read(tmp_path / "onnx", config=content).class_names == ("cat", "dog")
    assert read(tmp_path / "other", config=content).class_names == ()


@pytest.mark.parametrize(
    "content", ["no json", '{"size": {"width": 1}}', '{"image_mean": [1]}', '{"size": "big"}']
)
def test_what_cannot_be_understood_is_said(read, content):
    with pytest.raises(InputError, match="preprocessor_config.json cannot be understood"):
        read(preprocessor=content)


def test_a_config_of_something_else_says_nothing(read):
    assert read(config={"seed": 0, "model": {"name": "efficientnet-b0"}}) == beside.Described()
    assert read(config="[]") == beside.Described()
