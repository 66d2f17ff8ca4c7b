"""Planning in one thread changes nothing in another: torch's functions are imitated for the planner alone."""

from threading import Event, Thread

import pytest
import torch

from limner.assembly.base import ResolvedBase
from limner.models.flux.family import FAMILY
from limner.models.loading import load
from limner.models.source import locate
from limner.planning.estimate import estimate
from limner.planning.profile import Profile
from limner.planning.profile_cache import opened, shape_of
from limner.planning.request import ProfileRequest
from limner.recipe.schema import Recipe
from limner.recipe.toml import change
from limner.runs import train
from small import Told, equal, losses, weights, wish


@pytest.mark.slow
def test_training_beside_planning_gives_the_same_bits_and_the_same_plan(tiny_base, photos, tmp_path):
    recipe = wish(tiny_base, photos, lora={"rank": 2, "dropout": 0.2}, train={"steps": 8, "save_every": 8})
    source = opened(recipe, lambda line: None)
    base = ResolvedBase(recipe=recipe, source=source, shape=shape_of(source), kind="cuda", compute="bf16")
    asked = ProfileRequest(base, (64, 64))
    alone, over = estimate(asked), Event()
    profiles: list[Profile] = []

    def plan() -> None:
        while not over.is_set():
            profiles.append(estimate(asked))

    train(recipe, tmp_path / "alone", Told())
    planner = Thread(target=plan)
    planner.start()
    try:
        train(recipe, tmp_path / "beside", Told())
    finally:
        over.set()
        planner.join()
    assert profiles
    assert all(profile == alone for profile in profiles)
    assert losses(tmp_path / "beside") == losses(tmp_path / "alone")
    assert equal(weights(tmp_path / "beside", 8), weights(tmp_path / "alone", 8))


def test_loading_in_another_thread_changes_no_plan(tiny_base):
    """The libraries' own loaders set the dtype that tensors get in every thread."""
    recipe = change(Recipe(), {"base": "glyph", "lora.rank": 4})
    base_source, source = opened(recipe, lambda line: None), locate(str(tiny_base), folders={})
    base = ResolvedBase(
        recipe=recipe, source=base_source, shape=shape_of(base_source), kind="cpu", compute="fp32"
    )
    request = ProfileRequest(base, (64, 64))
    alone, over, counts = estimate(request), Event(), []

    def load_models() -> None:
        while not over.is_set():
            for part in ("text_encoder", "text_encoder_2", "vae"):
                load(FAMILY, source, part, dtype=torch.bfloat16, device=torch.device("cpu"))
            counts.append(torch.get_default_dtype())

    loader = Thread(target=load_models)
    loader.start()
    try:
        beside = [estimate(request)]
        while not counts:
            beside.append(estimate(request))
    finally:
        over.set()
        loader.join()
    assert all(profile == alone for profile in beside) and set(counts) == {torch.float32}
