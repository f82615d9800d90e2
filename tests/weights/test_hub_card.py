"""The model card of a hub directory, read again by huggingface_hub and shown as a page."""

import json

import jax
import markdown
import numpy as np
import pytest
from huggingface_hub import ModelCard as HubCard
from huggingface_hub import constants, metadata_load

from configs import base
from ns_jax import trees
from ns_jax import workdir as workdir_lib
from ns_jax.checkpoints import checkpoint
from ns_jax.data import crops
from ns_jax.foreign import beside
from ns_jax.model_card import ModelCard
from ns_jax.programs import convert, evaluate, train
from ns_jax.weights import hub_card, hub_config, imported

HOSTILE = (
    *("<script>alert(1)</script>", "---", "a: b", "- c", "`d` | e", '"f"', "g\n---\nh: i"),
    *("{{ 7 * 7 }}", "\u2028x", "[click](javascript:alert(1))"),
)
SCORES = {
    **{"top1": 0.951, "top5": 1.0, "ece": 0.0312, "num_images": 599, "num_corrupt": 2},
    **{"per_class": [0.1 * place for place in range(10)]},
}


def _convert(source, workdir, target=""):
    config = base.get_config()
    config.convert.source, config.convert.target = str(source), str(target)
    return convert.run(config, workdir)


def test_hostile_names_stay_text_in_the_metadata_and_on_the_page(tmp_path):
    view = crops.Preprocessing(16, "none", (0.5,) * 3, (0.5,) * 3)
    card = ModelCard("efficientnet-pico", True, HOSTILE, view)
    training = base.get_config()
    training.data.labelled = "folder:/home/ann/a: b\n---\n<script>alert(2)</script>"
    training.data.test = "folder:/home/ann/secret/- [x]+tfds:a/b:test+wds:/pool/{0..9}.tar"
    directory = tmp_path / "---: [a] <script>alert(3)</script>".replace("/", "_")
    directory.mkdir()
    facts = hub_card.Facts(SCORES, training, iteration=2, base_model="timm/x")
    hub_card.write(directory, card, facts)
    path = directory / "README.md"
    found = HubCard.load(path)
    assert metadata_load(path)["base_model"] == "timm/x" == found.data.base_model
    assert {"license", "language"}.isdisjoint(metadata_load(path))
    (entry,) = metadata_load(path)["model-index"]
    assert entry["name"] == directory.name
    (result,) = entry["results"]
    assert result["dataset"]["name"] == "folder:- [x]+tfds:a/b:test+wds:{0..9}.tar"
    values = {metric["name"]: metric["value"] for metric in result["metrics"]}
    assert values == {
        "top-1": SCORES["top1"],
        "top-5": SCORES["top5"],
        "expected calibration error": SCORES["ece"],
    }
    assert "ann" not in path.read_text()
    assert json.dumps(HOSTILE, ensure_ascii=False).replace("\u2028", "\\u2028") in found.text
    page = markdown.markdown(found.text, extensions=["tables"])
    assert "<script" not in page and "href" not in page
    assert page.count("<table>") == 2 and "<hr" not in page


def test_what_is_not_known_is_not_said(tmp_path, capsys):
    view = crops.Preprocessing(16, "none", (0.5,) * 3, (0.5,) * 3)
    card = ModelCard("efficientnet-b0", False, tuple("abc"), view)
    hub_card.write(tmp_path, card, hub_card.Facts())
    metadata = metadata_load(tmp_path / "README.md")
    assert {"model-index", "license", "base_model"}.isdisjoint(metadata)
    assert "noisy-student" not in metadata["tags"]
    (tmp_path / "README.md").write_text("mine")
    hub_card.write(tmp_path, card, hub_card.Facts(SCORES))
    assert (tmp_path / "README.md").read_text() == "mine"
    assert "stays as it is" in capsys.readouterr().err


def test_timms_config_says_what_the_card_does(tmp_path, capsys):
    view = crops.Preprocessing(380, "0.9", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear")
    card = ModelCard("efficientnet-b4", False, ("cat", "dog"), view)
    hub_config.write(tmp_path, card)
    told = beside.of_timm(json.loads((tmp_path / "config.json").read_text()))
    assert told.pop("class_names") == card.class_names
    assert crops.Preprocessing(**told) == view
    (tmp_path / "config.json").write_text("mine")
    hub_config.write(tmp_path, card)
    assert (tmp_path / "config.json").read_text() == "mine"
    assert "stays as it is" in capsys.readouterr().err


@pytest.mark.large
def test_the_card_of_a_training_has_its_scores_and_a_hub_gives_it_back(
    tiny_config, tmp_path, monkeypatch
):
    from ns_jax import config as config_lib

    config = config_lib.at_role(tiny_config, "teacher")
    workdir = tmp_path / "trained"
    workdir.mkdir()
    workdir_lib.claim_workdir(config, workdir)
    train.run(config, workdir)
    config.evaluate.checkpoint = str(workdir)
    scores = evaluate.run(config, workdir)

    # Where a hub's cache has what was uploaded: the library then needs no network.
    cached = tmp_path / "hub" / "models--me--digits"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    target = _convert(workdir, tmp_path / "unused", cached / "snapshots" / ("0" * 40))
    results = HubCard.load(target / "README.md").data.eval_results
    found = {(one.metric_name, one.metric_value) for one in results}
    assert found == {
        ("top-1", scores["top1"]),
        ("top-5", scores["top5"]),
        ("expected calibration error", scores["ece"]),
    }
    text = (target / "README.md").read_text()
    assert "digits:train" in text and "| `train.epochs` | `1.2` |" in text

    card, variables = imported.load("hf:me/digits")
    assert card == checkpoint.load_card(workdir)
    assert trees.digest(variables) == trees.digest(checkpoint.load_model(workdir)[1])

    other = jax.tree.map(np.zeros_like, variables)  # scores and settings are of other weights
    checkpoint.save_model(workdir / "other", card, other)
    again = _convert(workdir / "other", tmp_path / "other")
    assert "model-index" not in metadata_load(again / "README.md")
    assert "train.epochs" not in (again / "README.md").read_text()
