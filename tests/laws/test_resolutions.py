"""Several resolutions: a list of one is a number, to the bit; resumed = whole; the cache holds every size."""

import json
import shutil

import torch

from limner.assembly.resolve import cache_root, resolve
from limner.graph.cache import Cache
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.runs import train
from limner.training import checkpoint
from limner.training.cache import all_rows, fill_cache
from limner.training.encode import survey
from limner.training.model import TrainableModel


def recipe(base, photos, resolution, **data):
    return Recipe(
        base=str(base),
        data={"images": str(photos), "resolution": resolution, "flip": True, "trigger": "zorb", **data},
        lora={"rank": 3},
        train={"steps": 4, "batch": 2, "learning_rate": 1e-2, "save_every": 2},
        sample={"every": -1},
    )


def outcome(run):
    parts, _ = checkpoint.load(RunDir(run).checkpoint_path(4))
    weights = {(model, key): value for model, part in parts["weights"].items() for key, value in part.items()}
    return [(row.get("loss"), row.get("held_out")) for row in RunDir(run).metrics()], weights


def gradients(wish):
    """Of three steps, with the losses: what training is made of."""
    resolved = resolve(wish)
    store, _ = fill_cache(resolved, Reporter())
    model = TrainableModel(resolved, store)
    losses = [loss for step in range(3) for loss in model.losses(step)]
    torch.stack(losses).sum().backward()
    return [loss.item() for loss in losses], [weight.grad for weight in model.parameters]


def test_a_list_of_one_resolution_is_a_number_to_the_bit(tiny_base, photos):
    losses, slopes = gradients(recipe(tiny_base, photos, 32))
    other_losses, other_slopes = gradients(recipe(tiny_base, photos, [32], resolution_shares=[1.0]))
    assert losses == other_losses and all(map(torch.equal, slopes, other_slopes))


def test_a_run_of_several_resolutions_resumed_is_the_whole_run_and_the_cache_holds_every_size(
    tiny_base, photos, tmp_path
):
    several = recipe(tiny_base, photos, [48, 16], resolution_shares=[0.25, 0.75])
    train(several, tmp_path / "whole", Reporter())
    half = RunDir(shutil.copytree(tmp_path / "whole", tmp_path / "half"))
    half.checkpoint_path(4).unlink()
    half.lora_path.unlink()
    train(several, half.path, Reporter())
    (losses, weights), (whole_losses, whole_weights) = outcome(half.path), outcome(tmp_path / "whole")
    assert losses == whole_losses and all(torch.equal(weights[key], whole_weights[key]) for key in weights)

    resolved = resolve(several)
    assert not survey(resolved, Cache(cache_root(several)), all_rows(resolved)).missing_keys
    seen = {view.size: view.draws for view in resolved.own if view.example.path.name == "0.png"}
    assert seen == {(16, 16): 3, (48, 48): 1}
    assert {view.size for view in resolved.held_out if view.example.path.name == "0.png"} == {(48, 48)}
    cards = {entry["name"]: entry for entry in json.loads(half.data_path.read_text())["images"]}
    assert (cards["0.png"]["size"], cards["0.png"]["smaller"]) == ([48, 48], [[16, 16]])
