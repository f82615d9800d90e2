"""Attacks against closed forms on a linear network, and through a network as evaluation runs it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ns_jax.data import crops
from ns_jax.data.source import Source
from ns_jax.data.workers import LoaderSettings
from ns_jax.errors import InputError
from ns_jax.inference import predictor
from ns_jax.model_card import ModelCard
from ns_jax.robustness import attacks

SHAPE = (4, 6, 6, 3)
WEIGHTS = np.random.default_rng(0).normal(size=(6 * 6 * 3, 5)).astype(np.float32) / 255
IMAGES = np.random.default_rng(1).integers(40, 215, SHAPE).astype(np.float32)
LABELS = jnp.asarray([0, 1, 2, 3])


def linear(images):
    return images.reshape(len(images), -1) @ WEIGHTS


def loss(images):
    return -jax.nn.log_softmax(linear(images))[jnp.arange(4), LABELS]


def test_one_step_moves_every_pixel_by_epsilon_up_the_loss():
    changed = np.asarray(attacks.fgsm(linear, IMAGES, LABELS, 8.0))
    np.testing.assert_array_equal(np.abs(changed - IMAGES), 8)
    probs = jax.nn.softmax(linear(IMAGES)) - jax.nn.one_hot(LABELS, 5)
    uphill = np.sign(np.asarray(probs @ WEIGHTS.T)).reshape(SHAPE)  # the gradient by hand
    np.testing.assert_array_equal(changed - IMAGES, 8 * uphill)


def test_pixels_stay_in_the_range_of_an_image():
    images = np.where(np.random.default_rng(2).random(SHAPE) < 0.5, 1.0, 254.0).astype(np.float32)
    changed = np.asarray(attacks.fgsm(linear, images, LABELS, 16.0))
    assert changed.min() == 0 and changed.max() == 255
    assert np.abs(changed - images).max() == 16


def test_many_steps_stay_within_epsilon_and_do_no_less_harm_than_one():
    changed = attacks.pgd(linear, IMAGES, LABELS, 4.0, steps=10, step_size=1.0)
    assert np.abs(np.asarray(changed) - IMAGES).max() <= 4 + 1e-4
    one = attacks.fgsm(linear, IMAGES, LABELS, 4.0)
    assert (loss(changed) >= loss(one) - 1e-4).all()
    short = attacks.pgd(linear, IMAGES, LABELS, 4.0, steps=2, step_size=1.0)
    assert np.abs(np.asarray(short) - IMAGES).max() == pytest.approx(2)


def test_no_epsilon_changes_nothing():
    np.testing.assert_array_equal(attacks.fgsm(linear, IMAGES, LABELS, 0.0), IMAGES)
    same = attacks.pgd(linear, IMAGES, LABELS, 0.0, steps=3, step_size=0.0)
    np.testing.assert_array_equal(same, IMAGES)


def test_a_random_start_fills_the_box():
    image = jnp.full((32, 32, 3), 100.0)
    start = np.asarray(attacks.random_start(jax.random.key(0), image, jnp.float32(8)))
    assert 91.9 < start.min() < 92.5 and 107.5 < start.max() < 108.1
    assert abs(start.mean() - 100) < 0.5
    dark = np.asarray(attacks.random_start(jax.random.key(0), jnp.zeros((8, 8, 3)), jnp.float32(8)))
    assert dark.min() == 0


@pytest.fixture(scope="module")
def network():
    view = crops.Preprocessing(16, "none", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    card = ModelCard("efficientnet-pico", True, tuple("abcd"), view)
    variables = jax.jit(lambda rng: card.build().init(rng, 16))(jax.random.key(0))
    return predictor.Predictor([(card, variables)])


@pytest.fixture(scope="module")
def source(network):
    """Images that the network is right about: an attack's only way is down."""
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (24, 16, 16, 3), np.uint8)
    unknown = Source("made", tuple("abcd"), "", [(one, 0, str(i)) for i, one in enumerate(images)])
    (batch,) = network.predict(unknown, [range(24)], LoaderSettings(0), 4, 24)
    best = batch["classes"][:, 0]
    records = [(one, int(best[i]), str(i)) for i, one in enumerate(images)]
    return Source("made", tuple("abcd"), "", records)


def classes(network, source, attack, batch_size=24, count=24):
    found = network.compute(
        attacks.attack_step,
        source,
        [range(count)],
        LoaderSettings(0),
        batch_size,
        {"attack": attack.numbers()},
        k=4,
    )
    return np.concatenate([batch["result"] for batch in found])


@pytest.mark.large
class TestThroughANetwork:
    def accuracy(self, network, source, **settings):
        labels = [label for _, label, _ in source.records]
        return (classes(network, source, attacks.Attack(**settings))[:, 0] == labels).mean()

    def test_accuracy_falls_with_epsilon_and_is_clean_without(self, network, source):
        assert self.accuracy(network, source, epsilon=0.0) == 1
        small, large = (self.accuracy(network, source, epsilon=e) for e in (0.25, 16.0))
        assert 1 >= small >= large and large < 0.5

    def test_more_restarts_only_do_more_harm(self, network, source):
        one, five = (
            self.accuracy(network, source, epsilon=0.5, steps=5, restarts=n) for n in (1, 5)
        )
        assert five <= one < 1

    def test_the_predicted_label_is_the_true_one_of_an_image_that_is_right(self, network, source):
        true, predicted = (
            classes(network, source, attacks.Attack(2.0, steps=3, label=label))
            for label in attacks.LABELS
        )
        np.testing.assert_array_equal(true, predicted)

    def test_an_image_that_is_wrong_is_not_led_back(self, network, source):
        wrong = [(image, (label + 1) % 4, key) for image, label, key in source.records]
        wrong = Source("wrong", source.class_names, "", wrong)
        found = classes(network, wrong, attacks.Attack(16.0))
        assert (found[:, 0] != [label for _, label, _ in wrong.records]).all()

    def test_no_batch_size_changes_a_result(self, network, source):
        attack = attacks.Attack(1.0, steps=2, restarts=2, seed=5)
        whole, parts = (classes(network, source, attack, size) for size in (24, 8))
        np.testing.assert_array_equal(whole, parts)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epsilon": -1.0}, "epsilon is -1"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"epsilon": 1.0, "steps": 0}, "steps is 0"),
        ({"epsilon": 1.0, "restarts": -1}, "restarts is -1"),
        ({"epsilon": 1.0, "label": "least likely"}, "known: true, predicted"),
    ],
)
def test_what_is_no_attack_is_said(settings, said):
    with pytest.raises(InputError, match=said):
        attacks.Attack(**settings)


def test_sizes_of_steps_follow_from_epsilon_unless_given():
    assert attacks.Attack(16.0).numbers()["step_size"] == 16
    assert attacks.Attack(16.0, steps=10).numbers()["step_size"] == 4
    assert attacks.Attack(16.0, steps=10, step_size=1.0).numbers()["step_size"] == 1
