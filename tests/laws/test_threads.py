"""Planning in one thread changes nothing in another: torch's functions are imitated for the planner alone."""

from threading import Event, Thread

import pytest

from limner.assembly.base import ResolvedBase
from limner.planning.estimate import estimate
from limner.planning.profile import Profile
from limner.planning.profile_cache import opened, shape_of
from limner.planning.request import ProfileRequest
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
