import json
from pathlib import Path

import numpy as np
import pytest
import torch

from limner.assembly.resolve import resolve
from limner.errors import BadRecipe
from limner.generation.class_images import taught, with_prior
from limner.graph.unit import run as run_units
from limner.lora import file
from limner.nn.memory.plan import Plan
from limner.nn.rng import KeyedRng
from limner.planning.cards import typical
from limner.planning.counts import counts_of
from limner.planning.devices import of_card
from limner.planning.planner import request_of
from limner.recipe.schema import Recipe
from limner.recipe.toml import change
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.runs import train
from limner.training.cache import fill_cache
from limner.training.model import TrainableModel
from limner.training.samples import prompts_of
from messages import raises
from small import Told, equal, losses, weights

SLIDER = {
    "neutral": ("a cat", "a dog"),
    "positive": "[neutral], red",
    "negative": "blue [neutral]",
    "images_per_prompt": 2,
    "guidance": 2.0,
}


def sliding(base: Path, steps: int = 4, **sections: object) -> Recipe:
    plain = {
        "lora": {"rank": 2},
        "train": {"objective": "slider", "steps": steps, "batch": 2, "learning_rate": 1e-2, "save_every": 2},
        "sample": {"every": -1, "steps": 2},
    }
    return Recipe(base=str(base), **{**plain, "slider": SLIDER, **sections})


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> tuple[Recipe, RunDir]:
    """A slider's recipe with its images, which are generated once for all tests of this module."""
    run = RunDir(tmp_path_factory.mktemp("slider") / "run")
    return taught(sliding(tiny_base), run, Reporter()), run


def model_of(recipe: Recipe, run: RunDir, plan: Plan | None = None) -> TrainableModel:
    resolved = with_prior(resolve(recipe), run, Reporter())
    store, _ = fill_cache(resolved, Reporter())
    return TrainableModel(resolved, store, plan)


def test_each_image_is_read_under_three_prompts(painted):
    recipe, run = painted
    resolved = with_prior(resolve(recipe), run, Reporter())
    captions = [view.caption for view in resolved.views]
    assert captions[:4] == ["a cat", "a cat", "a dog", "a dog"] and resolved.own == resolved.views[:4]
    assert captions[4:8] == ["a cat, red", "a cat, red", "a dog, red", "a dog, red"]
    assert captions[8:] == ["blue a cat", "blue a cat", "blue a dog", "blue a dog"]
    assert {view.example for view in resolved.views} == {view.example for view in resolved.own}
    rows = [json.loads(row) for row in (run.teacher_path / "metadata.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == captions[:4]


@pytest.mark.parametrize("plan", [{}, {"checkpointed_blocks": 2}, {"micro_batch": 1}])
def test_the_targets_lie_either_way_of_what_the_bare_base_says(painted, plan):
    recipe, run = painted
    model = model_of(recipe, run, Plan(**{"compute": "fp32", "weights": "fp32", "micro_batch": 2, **plan}))
    bare = []
    for sample in model.order.step(0):
        draw = KeyedRng([(recipe.seed, 0, sample.position)])
        rows = [model.store.batch([sample.view_index + pole], model.device) for pole in (0, 4, 8)]
        bare += [[run_units(model.live_units, model.models, row, draw)["pred"].detach() for row in rows]]
    # untrained, the model says what the base says: at either strength it is as far away as the way is long
    expected = sum(2.0**2 * (one[1] - one[2]).square().mean() for one in bare) / len(bare)
    both = [loss.item() for loss in model.losses(0)]
    assert len(both) == 4 // model.plan.micro_batch and sum(both) == pytest.approx(expected.item(), rel=1e-4)
    assert sum(both[::2]) == pytest.approx(sum(both[1::2]), rel=1e-4)


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr"])
def test_the_other_way_is_the_same_change_taken_away(painted, kind):
    recipe, run = painted
    recipe = recipe.model_copy(update={"lora": recipe.lora.model_copy(update={"kind": kind})})
    model = model_of(recipe, run)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters:
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    layer = next(one for one in model.assembly.denoiser.modules() if hasattr(one, "sign"))
    x = torch.randn(3, layer.in_features, generator=generator)
    outputs = []
    for sign in (1.0, -1.0):
        layer.sign = sign
        outputs.append(layer(x))
    assert torch.allclose(outputs[0] + outputs[1], 2 * layer.base(x), atol=1e-5)
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-3)
    layer.sign = 1.0
    list(model.losses(0))
    assert layer.sign == 1.0, "after a step the model is at strength 1"


def test_a_slider_goes_on_to_the_bit(tiny_base, tmp_path):
    told = Told()
    train(sliding(tiny_base, 2), tmp_path / "parts", Told())
    train(sliding(tiny_base), tmp_path / "parts", Told())
    done = train(sliding(tiny_base), tmp_path / "whole", told)
    assert equal(weights(tmp_path / "parts", 4), weights(tmp_path / "whole", 4))
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert '"blue a cat" at strength -1, "a cat, red" at 1, from 2 prompts' in told.text
    measured = [value for _, _, value in losses(tmp_path / "whole") if value is not None]
    assert measured[-1] < measured[0]
    assert done.lora is not None and file.read(done.lora).components


def test_each_prompt_is_sampled_at_three_strengths_from_one_seed(painted):
    recipe, run = painted
    model = model_of(change(recipe, {"sample.every": 0}), run)
    prompts = prompts_of(model.resolved)
    assert prompts == [
        f"{text} (strength {strength})" for text in SLIDER["neutral"] for strength in (-1, 0, 1)
    ]
    with torch.no_grad():
        for weight in model.parameters:
            weight.add_(0.2)
    images = [np.asarray(image) for image in model.sample(len(prompts))]
    with model.bare():
        base = [np.asarray(image) for image in model.sample(len(prompts))]
    assert all(np.array_equal(images[number], base[number]) for number in (1, 4)), "strength 0 is the base"
    assert all(not np.array_equal(images[number], base[number]) for number in (0, 2, 3, 5))
    assert not np.array_equal(images[0], images[2]) and np.array_equal(base[0], base[2])
    assert counts_of(change(recipe, {"sample.every": 0}), []).samples == 2 * 2 * 3 + 4


def test_images_of_ones_own_may_take_the_place_of_the_bases(tiny_base, photos, tmp_path):
    slider = {key: value for key, value in SLIDER.items() if key != "neutral"}
    recipe = sliding(tiny_base, 1, slider=slider, data={"images": str(photos)})
    resolved = with_prior(
        resolve(taught(recipe, RunDir(tmp_path / "run"), Reporter())), RunDir(tmp_path), Reporter()
    )
    assert resolved.recipe.data.validation_count == 0 and set(resolved.held_out) <= set(resolved.own)
    assert resolved.poles == 2 * len(resolved.own) and not (tmp_path / "run" / "teacher").exists()
    with raises(BadRecipe):
        taught(sliding(tiny_base, data={"images": str(photos)}), RunDir(tmp_path / "both"), Reporter())


def test_what_cannot_be_trained_is_told_before_an_image_is_generated(tiny_base, tmp_path):
    for faults in ({"lora": {"targets": ["nowhere"]}}, {"export": {"for": ["musubi"]}}):
        with raises(BadRecipe):
            train(sliding(tiny_base, **faults), tmp_path / "run", Told())
    assert not RunDir(tmp_path / "run").teacher_path.exists()


def test_a_plan_counts_both_ways_and_the_images_that_are_generated(tiny_base):
    recipe = sliding(tiny_base)
    request = request_of(recipe, of_card(typical(8)))
    assert request.batches == (2, 2) and request.teacher_share(Plan()) == 1.5
    counts = counts_of(recipe, [])
    assert (counts.images, counts.images_unknown, counts.captions, counts.samples) == (4, False, 12, 4)
