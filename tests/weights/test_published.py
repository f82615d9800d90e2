"""The table of published weights."""

import pytest

from ns_jax.weights import published


def test_every_family_and_its_preprocessing():
    assert len(published.names()) == 36
    name, view = published.find("tf_efficientnet_b3.ns_jft_in1k")
    assert (name, view.size, view.crop) == ("efficientnet-b3", 300, "padded")
    assert view.mean == (0.485, 0.456, 0.406)
    assert published.find("tf_efficientnet_b8.ap_in1k")[1].mean == (0.5, 0.5, 0.5)
    assert published.find("tf_efficientnet_l2.ns_jft_in1k")[1].size == 800
    assert published.find("tf_efficientnet_l2.ns_jft_in1k_475")[1].size == 475


def test_unknown_weights_name_the_known():
    with pytest.raises(ValueError, match=r"known: tf_efficientnet_b0.in1k, "):
        published.find("tf_efficientnet_b8.in1k")


def test_class_names_are_imagenets_for_a_thousand():
    names = published.class_names(1000)
    assert (names[0], names[999], len(set(names))) == ("n01440764", "n15075141", 1000)
    assert names == sorted(names)
    assert published.class_names(3) == ["0", "1", "2"]
