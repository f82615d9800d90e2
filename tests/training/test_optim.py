"""The optimiser against its formulas written out in NumPy, and the official schedule's numbers."""

import jax
import numpy as np
import pytest
from ml_collections import config_dict

from ns_jax.training import optim
from tests import rounding

OPTIM = config_dict.ConfigDict(
    {
        "learning_rate_per_256": 0.016,
        "warmup_epochs": 5.0,
        "start_epoch": 0.0,
        "decay_epochs": 2.4,
        "decay_rate": 0.97,
        "rms_decay": 0.9,
        "momentum": 0.9,
        "epsilon": 1e-3,
        "weight_decay": 1e-2,
        "ema_decay": 0.9999,
    }
)


def test_rmsprop_with_l2_equals_the_formula_over_25_steps():
    rng = np.random.default_rng(0)
    names = {"a_conv": "kernel", "se_reduce": "bias", "a_bn": "scale"}
    params = {m: {n: rng.normal(size=5).astype(np.float32)} for m, n in names.items()}
    optimiser = optim.make_optimiser(OPTIM, lambda step: 0.05 / (1 + step))
    state = optimiser.init(params)
    w = {m: params[m][n].astype(np.float64) for m, n in names.items()}
    ms, mom = {m: np.ones(5) for m in names}, {m: np.zeros(5) for m in names}
    for step in range(25):
        grads = {m: {n: rng.normal(size=5).astype(np.float32)} for m, n in names.items()}
        updates, state = optimiser.update(grads, state, params)
        params = jax.tree.map(lambda p, u: p + u, params, updates)
        for m, n in names.items():
            g = grads[m][n] + (0 if m.endswith("_bn") else OPTIM.weight_decay * w[m])
            ms[m] = 0.9 * ms[m] + 0.1 * g**2
            mom[m] = 0.9 * mom[m] + 0.05 / (1 + step) * g / np.sqrt(ms[m] + 1e-3)
            w[m] = w[m] - mom[m]
            rounding.close(params[m][n], w[m])


@pytest.mark.parametrize(
    ("images", "batch_size", "steps", "ratio", "warmup", "peak", "after_warmup", "last"),
    [  # the official code's numbers for ImageNet
        (1_281_167, 4096, 109_474, 1, 1563, 0.256, 0.240870, 0.00309130),
        (1_281_167, 4096, 218_948, 2, 1563, 0.256, 0.248320, 0.00309130),
        (1_281_167, 2048, 218_949, 1, 3127, 0.128, 0.120435, 0.00154565),
    ],
)
def test_schedule_has_the_official_numbers(
    images, batch_size, steps, ratio, warmup, peak, after_warmup, last
):
    settings = OPTIM.copy_and_resolve_references()
    settings.decay_epochs = 2.4 * ratio
    schedule = optim.learning_rate_schedule(settings, batch_size, images / batch_size)
    assert schedule(0) == 0
    assert float(schedule(warmup - 1)) == pytest.approx(peak * (warmup - 1) / warmup, rel=1e-6)
    assert f"{float(schedule(warmup)):.6f}" == f"{after_warmup:.6f}"
    assert f"{float(schedule(steps - 1)):.8f}" == f"{last:.8f}"


def test_a_fine_tune_takes_the_rates_of_the_schedules_tail():
    epoch = 1_281_167 / 4096
    whole = optim.learning_rate_schedule(OPTIM, 4096, epoch)
    settings = OPTIM.copy_and_resolve_references()
    settings.start_epoch = 350 - 1.5
    tail = optim.learning_rate_schedule(settings, 4096, epoch)
    for step in (0, 100, 468):  # 1.5 epochs are 469 steps
        assert float(tail(step)) == float(whole(109_474 - 469 + step))
    assert f"{float(tail(468)):.8f}" == "0.00309130"


def test_ema_equals_the_formula_over_25_steps_and_its_ramp_ends():
    rng = np.random.default_rng(0)
    average = rng.normal(size=4).astype(np.float32)
    expected = average.astype(np.float64)
    for step in range(25):
        new = rng.normal(size=4).astype(np.float32)
        average = optim.update_ema(average, new, step, 0.9999)
        decay = min(0.9999, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * new
        rounding.close(average, expected)
    ramp = [float(optim.update_ema(1.0, 0.0, t, 0.9999)) for t in (0, 89_989, 10**6)]
    assert ramp == pytest.approx([0.1, 89_990 / 89_999, 0.9999], rel=1e-6)
