"""Numbers of suites from what passes measured, by hand."""

import numpy as np
import pytest

from ns_jax.robustness import alexnet, metrics, suites
from ns_jax.robustness.passes import Pass, Seen


def one(name):
    return Pass(name, open=None, measure=None)


def tops(rng, count, accuracy):
    return {"top1": (rng.random(count) < accuracy).astype(np.float32)}


def corruption_suite(published, kinds=("fog", "snow")):
    by_corruption = {k: [one(f"{k}-{s}") for s in range(1, 6)] for k in kinds}
    return suites.Corruptions("c", by_corruption, one("clean"), published)


def found_of(suite, seed, accuracy):
    rng = np.random.default_rng(seed)
    return {p.name: tops(rng, 200, accuracy) for p in suite.passes}


def errors(found, suite):
    return {
        kind: [1 - found[p.name]["top1"].mean(dtype=np.float64) for p in severities]
        for kind, severities in suite.by_corruption.items()
    }


def test_corruption_errors_are_over_alexnets_or_over_the_other_networks():
    suite = corruption_suite(published=True)
    ours, theirs = found_of(suite, 0, 0.7), found_of(suite, 1, 0.5)
    summary = suite.summarise(ours, theirs)
    expected = [sum(e) / sum(alexnet.ERRORS[kind]) for kind, e in errors(ours, suite).items()]
    assert summary["mce"] == pytest.approx(100 * np.mean(expected))
    assert summary["corruptions"]["fog"]["ce"] == pytest.approx(100 * expected[0])
    own = corruption_suite(published=False)
    summary = own.summarise(ours, theirs)
    baseline = errors(theirs, own)
    expected = [sum(e) / sum(baseline[kind]) for kind, e in errors(ours, own).items()]
    assert summary["mce"] == pytest.approx(100 * np.mean(expected))
    clean = [1 - found["clean"]["top1"].mean(dtype=np.float64) for found in (ours, theirs)]
    added = [
        (np.mean(e) - clean[0]) / (np.mean(baseline[kind]) - clean[1])
        for kind, e in errors(ours, own).items()
    ]
    assert summary["relative_mce"] == pytest.approx(100 * np.mean(added))
    assert "mce" not in own.summarise(ours, None)
    assert own.summarise(theirs, theirs)["mce"] == pytest.approx(100)


@pytest.mark.parametrize("published", [True, False])
def test_an_images_values_have_the_main_number_as_their_mean(published):
    suite = corruption_suite(published, ("fog", "snow", "spatter"))  # one that is not counted
    found = found_of(suite, 2, 0.6)
    summary = suite.summarise(found, found)
    assert suite.values(found).shape == (200,)
    assert suite.values(found).mean() == pytest.approx(summary[suite.main])
    by_kind = {"tilt": one("tilt"), "gaussian_noise": one("noise"), "shear": one("shear")}
    flips = suites.Flips("p", by_kind, published)
    rng = np.random.default_rng(3)
    found = {
        p.name: {
            "flips": rng.random(50).astype(np.float32),
            "top1": rng.random(50).astype(np.float32),
            "t5d": rng.random(50).astype(np.float32),
        }
        for p in flips.passes
    }
    summary = flips.summarise(found, None)
    assert flips.values(found).mean() == pytest.approx(summary[flips.main], rel=1e-5)
    attacked = suites.Attacks("fgsm", {0.0: one("e0"), 8.0: one("e8")})
    found = {"e0": tops(rng, 50, 0.9), "e8": tops(rng, 50, 0.3)}
    summary = attacked.summarise(found, None)
    assert attacked.values(found).mean() == pytest.approx(100 * summary["top1"])
    assert summary["top1"] == summary["epsilons"]["8"] < summary["epsilons"]["0"]


def test_a_baseline_without_errors_divides_nothing_but_stops_nothing():
    suite = corruption_suite(published=False)
    ours, perfect = found_of(suite, 0, 0.7), found_of(suite, 1, 1.1)
    summary = suite.summarise(ours, perfect)
    assert summary["mce"] is None and summary["mean_error"] > 0
    assert summary["corruptions"]["fog"]["ce"] is None


def test_what_the_benchmark_does_not_count_alone_makes_no_mean_of_it():
    suite = corruption_suite(True, ("spatter",))
    found = found_of(suite, 2, 0.6)
    summary = suite.summarise(found, found)
    assert summary["mce"] is None and summary["corruptions"]["spatter"]["ce"] > 0
    assert suites.difference(suite, found, found) is None


def test_networks_are_compared_image_by_image():
    suite = corruption_suite(published=False)
    theirs = found_of(suite, 1, 0.5)
    ours = {name: {"top1": np.maximum(found["top1"], 0)} for name, found in theirs.items()}
    ours["fog-1"]["top1"] = np.ones(200, np.float32)
    mean, low, high = suites.difference(suite, ours, theirs)
    wrong = 1 - theirs["fog-1"]["top1"].mean()
    assert mean == pytest.approx(-100 * wrong / 10, rel=1e-5) and low < mean < high < 0
    short = {name: {"top1": found["top1"][:100]} for name, found in theirs.items()}
    assert suites.difference(suite, ours, short) is None


def seen(classes, labels, readable=None):
    classes = np.asarray(classes, np.int32)
    readable = np.ones(len(classes), bool) if readable is None else np.asarray(readable)
    return Seen(classes, np.asarray(labels, np.int32), readable)


def test_unreadable_and_unlabelled_images_do_not_count():
    found = seen([[0, 1], [1, 0], [2, 0], [0, 1]], [0, 0, -1, 0], [True, True, True, False])
    np.testing.assert_array_equal(found.top(1), [1, 0, np.nan, np.nan])
    np.testing.assert_array_equal(found.top(2), [1, 1, np.nan, np.nan])


def test_frames_of_noise_are_compared_with_the_first_one():
    classes = [[c, 10, 11, 12, 13] for c in (0, 1, 1, 1, 0, 0, 0, 0)]
    readable = [True] * 7 + [False]
    frames = seen(classes, [1] * 8, readable)
    noise = suites.measure_frames(4, "shot_noise")(frames)
    other = suites.measure_frames(4, "tilt")(frames)
    np.testing.assert_allclose(noise["flips"], [1, np.nan])
    np.testing.assert_allclose(other["flips"], [1 / 3, np.nan])
    np.testing.assert_allclose(noise["top1"], [0.75, np.nan])
    assert noise["t5d"][0] == pytest.approx(5)  # the best class is lost each time


def test_fewer_than_five_classes_have_flips_and_no_t5d():
    found = suites.measure_frames(2, "tilt")(seen([[0, 1, 2], [1, 0, 2]], [0, 0]))
    assert set(found) == {"flips", "top1"}
    flips = suites.Flips("own_flips", {"tilt": one("tilt")}, published=False)
    summary = flips.summarise({"tilt": found}, None)
    assert summary["mean_flip_probability"] == 100 and "mean_t5d" not in summary
    assert summary["perturbations"]["tilt"] == {
        "flip_probability": 1.0,
        "flip_rate": None,
        "t5d": None,
    }


def test_a_published_rate_is_of_alexnets():
    flips = suites.Flips("p", {"tilt": one("tilt")}, published=True)
    found = {"tilt": {"flips": np.full(10, 0.0705, np.float32), "top1": np.ones(10, np.float32)}}
    assert flips.summarise(found, None)["mfr"] == pytest.approx(100, rel=1e-5)
    assert metrics.mean_flip_rate({"tilt": 0.0705}) == 100
