"""How to do it again: commands, what differs from the defaults, versions, seeds, digests."""

import json
from typing import Any

from ml_collections import config_dict

from ns_jax import config as config_lib
from ns_jax.report import timeline
from ns_jax.report.collected import Collected


def repeat(
    collected: Collected, config: config_dict.ConfigDict, defaults: dict | None
) -> dict[str, Any]:
    """`defaults`: of every key by its name with dots, or None where they are not known."""
    starts = [line for line in collected.timeline if line.get("event") == timeline.START]
    now = timeline.code()
    ours = dict(config_lib.leaves(collected.config)) if collected.config else {}
    return {
        "commands": list(dict.fromkeys(line["command"] for line in starts if "command" in line)),
        "starts": [
            {name: line.get(name) for name in ("time", "devices", "commit", "versions")}
            for line in starts
        ],
        "report_made_with": now,
        "seeds": _seeds(collected, config),
        "digests": _digests(collected),
        "changed": [
            {"key": key, "value": _text(value), "default": _text(defaults.get(key))}
            for key, value in ours.items()
            if defaults is not None and _text(defaults.get(key)) != _text(value)
        ],
        "defaults_known": defaults is not None,
        "config": {key: _text(value) for key, value in ours.items()},
    }


def _text(value: object) -> str:
    return json.dumps(value)


def _seeds(collected: Collected, config: config_dict.ConfigDict) -> dict[str, int]:
    seeds = {"the run": config.seed}
    for one in collected.iterations:
        if one.number is not None:
            seeds[one.name] = config_lib.derived_seed(config.seed, one.number)
    return seeds


def _digests(collected: Collected) -> dict[str, str]:
    found: dict[str, str | None] = {}
    for one in collected.iterations:
        if one.labels:
            found["the pool"] = one.labels["inputs"].get("source")
        if one.training:
            found["the labelled images"] = one.training["inputs"].get("labelled")
            found[f"weights of {one.name}"] = one.training["outputs"].get("model")
        if one.selection:
            found[f"selection of {one.name}"] = one.selection["outputs"].get("digest")
        if one.scores:
            found["the test images"] = one.scores["inputs"].get("source")
    return {name: digest for name, digest in found.items() if digest}
