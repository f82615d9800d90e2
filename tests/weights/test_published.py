"""The table of published weights."""

import pytest

from ns_jax.weights import names, published


def test_every_family_and_its_preprocessing():
    assert len(published.names()) == 45
    name, view = published.find("tf_efficientnet_b3.ns_jft_in1k")
    assert (name, view.size, view.crop) == ("efficientnet-b3", 300, "padded")
    assert view.mean == (0.485, 0.456, 0.406)
    assert published.find("tf_efficientnet_b8.ap_in1k")[1].mean == (0.5, 0.5, 0.5)
    assert published.find("tf_efficientnet_l2.ns_jft_in1k")[1].size == 800
    assert published.find("tf_efficientnet_l2.ns_jft_in1k_475")[1].size == 475


def test_unknown_weights_name_the_known():
    with pytest.raises(ValueError, match=r"known: tf_efficientnet_b0.in1k, "):
        published.find("tf_efficientnet_b8.in1k")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tf_efficientnet_b4_ns", "tf_efficientnet_b4.ns_jft_in1k"),
        ("tf_efficientnet_b8_ap", "tf_efficientnet_b8.ap_in1k"),
        ("tf_efficientnet_l2_ns_475", "tf_efficientnet_l2.ns_jft_in1k_475"),
        ("tf_efficientnet_l2_ns", "tf_efficientnet_l2.ns_jft_in1k"),
        ("timm/tf_efficientnet_b0.aa_in1k", "tf_efficientnet_b0.aa_in1k"),
    ],
)
def test_old_names_are_those_of_today(old, new):
    assert published.find(old) == published.find(new)


@pytest.mark.parametrize(
    ("name", "size", "crop", "mean"),
    [
        ("efficientnet_b0.ra_in1k", 224, "0.875", 0.485),
        ("efficientnet_b1.ra4_e3600_r240_in1k", 240, "0.9", 0.5),
        ("efficientnet_b4.ra2_in1k", 320, "0.875", 0.485),
    ],
)
def test_timms_own_weights_have_what_timm_evaluates_them_with(name, size, crop, mean):
    architecture, view = published.find(name)
    assert architecture == name.split(".")[0].replace("_", "-")
    assert (view.size, view.crop, view.mean[0]) == (size, crop, mean)
    assert view.interpolation == "bicubic_antialias"
    parsed = names.parse(name)
    assert (parsed.padding, parsed.bn_epsilon) == ("symmetric", 1e-5)


@pytest.mark.parametrize("name", ["efficientnet-b3", "resnet50", "tf_efficientnetv2_s", "b0", ""])
def test_a_name_that_is_none_or_two_says_what_there_is(name):
    with pytest.raises(ValueError, match="tf_efficientnet_"):
        names.parse(name)


def test_class_names_are_imagenets_for_a_thousand():
    names = published.class_names(1000)
    assert (names[0], names[999], len(set(names))) == ("n01440764", "n15075141", 1000)
    assert names == sorted(names)
    assert published.class_names(3) == ["0", "1", "2"]
