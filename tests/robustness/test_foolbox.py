"""Attacks against foolbox's on a Flax network: `make parity`, which installs it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ns_jax.robustness import attacks

pytestmark = pytest.mark.parity


class Small(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.swish(nn.Conv(8, (3, 3), strides=2)(x / 255.0 - 0.5))
        x = nn.swish(nn.Conv(16, (3, 3), strides=2)(x))
        return nn.Dense(6)(x.mean((1, 2)))


@pytest.fixture(scope="module")
def made():
    images = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3)).astype(np.float32)
    network = Small()
    variables = network.init(jax.random.key(1), images)
    variables = jax.tree.map(lambda leaf: 4 * leaf, variables)  # so that classes differ

    def scores(seen):
        return network.apply(variables, seen)

    return scores, images, jnp.argmax(scores(images), -1)


def theirs(made, attack, epsilon):
    import eagerpy
    import foolbox

    scores, images, labels = made
    model = foolbox.JAXModel(scores, bounds=(0, 255))
    wrapped = [eagerpy.astensor(jnp.asarray(array)) for array in (images, labels)]
    _, clipped, _ = attack(model, *wrapped, epsilons=epsilon)
    return np.asarray(clipped.raw)


@pytest.mark.parametrize("epsilon", [2.0, 8.0, 16.0])
def test_one_step_is_foolboxs(made, epsilon):
    import foolbox

    expected = theirs(made, foolbox.attacks.LinfFastGradientAttack(), epsilon)
    found = np.asarray(attacks.fgsm(*made, epsilon))
    same = np.abs(found - expected) <= 1e-3
    assert same.mean() > 0.999  # the sign of a gradient of about 0 may be rounded otherwise
    assert np.abs(found - made[1]).max() == epsilon


@pytest.mark.parametrize(("epsilon", "steps"), [(4.0, 5), (16.0, 10)])
def test_many_steps_are_foolboxs(made, epsilon, steps):
    import foolbox

    size = 2.5 * epsilon / steps
    attack = foolbox.attacks.LinfPGD(abs_stepsize=size, steps=steps, random_start=False)
    expected = theirs(made, attack, epsilon)
    found = np.asarray(attacks.pgd(*made, epsilon, steps=steps, step_size=size))
    assert (np.abs(found - expected) <= 1e-3).mean() > 0.99
    scores, _, labels = made
    fooled = [(np.argmax(scores(x), -1) != labels).mean() for x in (found, expected)]
    assert fooled[0] == fooled[1] > 0
