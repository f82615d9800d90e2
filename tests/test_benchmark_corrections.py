"""Who answers what in the simulation of clicks: the digits' own labels, of another ten in a row."""

import numpy as np
import pytest

from benchmarks import corrections as benchmark
from configs import digits
from ns_jax import workdir as workdir_lib
from ns_jax.labelling import shards as shards_lib
from ns_jax.programs import select


@pytest.fixture
def base(tmp_path):
    """Labels of the digits' pool of which every tenth is wrong, and unsure, with a selection."""
    source = benchmark.pool(0)
    label = np.where(np.arange(len(source)) % 10, source.truth, (source.truth + 1) % 10)
    confidence = np.where(np.arange(len(source)) % 10, 0.9, 0.6)
    made_of = {"teacher": "t", "source": source.fingerprint, "subset": None, "k": 2}
    made_of["class_names"] = list(source.class_names)
    for number in (1, 2):
        directory = tmp_path / f"iteration_{number}"
        columns = {
            "index": np.arange(len(source)),
            "key": [source[i]["key"] for i in range(len(source))],
            "status": ["ok"] * len(source),
            "classes": np.stack([label, (label + 1) % 10], 1),
            "probs": np.stack([confidence, 1 - confidence], 1),
        }
        shards_lib.write_shard(directory / "labels" / shards_lib.shard_name(0, 1), columns, made_of)
        inputs = {**made_of, "images_per_shard": len(source)}
        outputs = {"num_images": len(source), "num_bad": 0}
        workdir_lib.write_manifest(directory / "labels", inputs, outputs)
    config = digits.get_config()
    config.select.labels = str(directory / "labels")
    select.run(config, directory)
    return tmp_path


def test_answers_are_the_truth(base, tmp_path):
    source = benchmark.pool(0)
    offered, random = (benchmark.answers(base, source, arm, 50, 0) for arm in ("offered", "random"))
    for lines in (offered, random):
        assert len({index for index, *_ in lines}) == 50
        for index, key, _, label in lines:
            assert key == source[index]["key"] and label == str(source.truth[index])
    verdicts = {index % 10 == 0: verdict for index, _, verdict, _ in offered}
    assert verdicts[True] == "other" and verdicts.get(False, "right") == "right"
    assert {verdict for *_, verdict, _ in random} == {"other"}
    assert benchmark.answers(base, source, "random", 50, 1) != random
    path = tmp_path / "offered.csv"
    benchmark.write(path, offered)
    wrong = sum(index % 10 == 0 for index, *_ in offered)
    assert benchmark._changed(path, base / "iteration_2" / "labels") == wrong > 25


def test_differences_are_paired_by_seed():
    def one(none, offered, random):
        arms = zip(benchmark.ARMS, (none, offered, random), strict=True)
        numbers = {arm: {"top1": top1, "right": 99.0} for arm, top1 in arms}
        return {**numbers, "changed": {"offered": 9, "random": 3}}

    said = benchmark.report({0: one(90, 92, 91), 1: one(80, 82, 80)}, 50)
    assert "| offered less none | +2.00 (+2.00 to +2.00) |" in said
    assert "| offered less random | +1.50 (" in said
