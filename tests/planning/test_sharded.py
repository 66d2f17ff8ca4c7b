from dataclasses import replace

import pytest

from blueprints import flux
from limner.errors import BadRecipe, DoesNotFit
from limner.planning.advice import misfit
from limner.planning.search import choose
from limner.planning.sharded import shards_of
from limner.planning.trained import WHOLE_MODEL
from limner.recipe import Recipe
from messages import raises
from shard_cases import FLUX, REQUEST, card, whole_model


def test_a_lora_is_split_only_where_nothing_else_fits():
    both = replace(REQUEST, shards=(1, 4), sampling=False, exclusions=frozenset({"swapped_blocks"}))
    profile = replace(flux(), stages=())
    assert choose(replace(FLUX, stages=()), card("H100", 80, 4), both).plan.shards == 1
    tight = card("RTX 4090", 16, 4)
    with pytest.raises(DoesNotFit):
        choose(profile, tight, replace(both, shards=(1,)))
    plan = choose(profile, tight, both).plan
    assert plan.shards == 4 and (plan.weights, plan.swapped_blocks, plan.compile) == ("bf16", 0, False)


def test_a_full_fine_tune_is_split_where_that_is_faster():
    request = replace(REQUEST, trained=WHOLE_MODEL, shards=(1, 2), sampling=False)
    profile, device = replace(whole_model(), stages=()), card("H100", 80, 2)
    whole, split = (choose(profile, device, replace(request, shards=(n,))) for n in (1, 2))
    assert split.step_time.seconds < whole.step_time.seconds
    assert choose(profile, device, request).plan.shards == 2
    slow = replace(device, rates=replace(device.rates, link=1e8))
    assert choose(profile, slow, request).step_time.seconds == min(
        choose(profile, slow, replace(request, shards=(n,))).step_time.seconds for n in (1, 2)
    )


def test_where_even_parts_do_not_fit_it_says_what_would():
    request = replace(REQUEST, shards=(4,))
    reason = misfit(FLUX, card("RTX 3060", 2, 4), request)
    assert reason.smallest.plan.shards == 4 and "a card of" in str(reason)


def recipe(**tables: object) -> Recipe:
    return Recipe.model_validate(tables)


def test_whether_to_split_is_the_recipes_word_first():
    full = {"method": "full"}
    assert shards_of(recipe(), 4, "bf16") == (1, 4)
    assert shards_of(recipe(limits={"shard": "on"}), 4, "bf16") == (4,)
    assert shards_of(recipe(limits={"shard": "off"}), 4, "bf16") == (1,)
    assert shards_of(recipe(), 1, "bf16") == (1,)
    assert shards_of(recipe(train={**full, "optimizer": "adafactor"}), 4, "bf16") == (1,)
    assert shards_of(recipe(train=full), 4, "fp16") == (1,)
    with raises(BadRecipe):
        shards_of(recipe(limits={"shard": "on"}), 1, "bf16")
    with raises(BadRecipe):
        shards_of(recipe(limits={"shard": "on"}, train=full), 2, "fp16")
