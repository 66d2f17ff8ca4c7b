from dataclasses import replace

import pytest

from blueprints import flux
from limner.errors import DoesNotFit
from limner.planning.advice import CAUSES, GAIN, MAX_ALTERNATIVES, WORTH, alternatives, least, misfit
from limner.planning.cards import known
from limner.planning.choice import PlanRequest, fits
from limner.planning.devices import of_card, of_cpu
from limner.planning.search import choose

GB = 2**30
SHALLOW = {size: flux(size, doubles=4, singles=6) for size in (256, 512, 768, 1024)}
REQUEST = PlanRequest(compute="bf16")


def device(memory: float = 24):
    card = known("RTX 4090")
    assert card is not None
    return of_card(card, round(memory * GB))


def test_the_alternatives_are_other_plans_nearest_in_speed_first():
    card, profile = device(6), SHALLOW[1024]
    chosen = choose(profile, card, REQUEST)
    others = alternatives(profile, card, REQUEST, chosen)
    nearest = others[-MAX_ALTERNATIVES:]
    assert chosen.plan not in [each.choice.plan for each in others]
    assert [abs(each.change) for each in nearest] == sorted(abs(each.change) for each in nearest)
    for each in others:
        images = each.batch or 1
        assert each.fits == fits(each.choice, card)
        assert each.change == pytest.approx(
            each.choice.step_time.seconds / images / chosen.step_time.seconds - 1
        )


def test_memory_of_the_computer_that_saves_time_comes_first():
    card, profile = device(8).with_ram(8 * GB), flux(1024)
    request = replace(REQUEST, min_weight_precision="16bit")
    chosen = choose(profile, card, request)
    assert chosen.plan.mmap_weights
    first = alternatives(profile, card, request, chosen)[0]
    size = int(first.label.split()[0])
    assert first.label == f"{size} GB of RAM (limits.ram)"
    assert not first.fits and first.change < -WORTH
    again = choose(profile, card.with_ram(size * GB), request)
    assert again == first.choice, "what is offered is what the plan says then"
    assert not any(
        "of RAM" in option.label for option in alternatives(profile, card.with_ram(256 * GB), request, again)
    )


def test_a_larger_batch_is_offered_where_the_card_is_empty():
    profile = SHALLOW[256]
    chosen = choose(profile, device(24), REQUEST)
    (option,) = [one for one in alternatives(profile, device(24), REQUEST, chosen) if one.batch]
    assert option.fits and option.change < -GAIN
    assert option.label == f"batch {option.batch} (--batch {option.batch})"
    assert option.choice.plan == replace(chosen.plan, micro_batch=option.batch)
    full = choose(SHALLOW[1024], device(6), REQUEST)
    assert not any(one.batch for one in alternatives(SHALLOW[1024], device(6), REQUEST, full))
    limited = replace(REQUEST, micro_batch=1)
    assert not any(one.batch for one in alternatives(profile, device(24), limited, chosen))


def test_a_precision_below_the_floor_is_shown_as_what_it_would_buy():
    card, profile = device(6), SHALLOW[1024]
    chosen = choose(profile, card, replace(REQUEST, min_weight_precision="16bit"))
    others = alternatives(profile, card, replace(REQUEST, min_weight_precision="16bit"), chosen)
    assert {"weights int8", "weights nf4"} & {each.label for each in others}
    for each in others:
        if each.label.startswith("weights"):
            assert each.label == f"weights {each.choice.plan.weights}"


def test_a_larger_card_is_shown_as_not_fitting_this_one():
    card, profile = device(6), SHALLOW[1024]
    chosen = choose(profile, card, REQUEST)
    bought = [each for each in alternatives(profile, card, REQUEST, chosen) if "card of" in each.label]
    assert all(not each.fits and each.change <= 0 for each in bought)


def test_the_least_plan_needs_no_more_than_any_that_fits():
    profile = SHALLOW[512]
    smallest = least(profile, device(2.5), REQUEST)
    for memory in (2.5, 3, 4, 8):
        assert smallest.reserved <= choose(profile, device(memory), REQUEST).reserved


def test_what_does_not_fit_names_the_cause_and_what_would_do():
    card, profile, request = device(1.9), SHALLOW[1024], replace(REQUEST, min_weight_precision="16bit")
    with pytest.raises(DoesNotFit):
        choose(profile, card, request)
    found = misfit(profile, card, request, profile_at=SHALLOW.__getitem__)
    assert found.cause in CAUSES
    assert found.need.causes[found.cause] == max(
        size for cause, size in found.need.causes.items() if cause not in ("context", "workspace")
    )
    text = str(found)
    assert "\n" not in text
    assert "Most of it is activations" in text
    assert any(each.startswith("a card of") for each in found.remedies)


def test_memory_of_the_computer_that_is_short_is_told_with_the_phase():
    card, request = device(24).with_ram(6 * GB), replace(REQUEST, weight_kinds=("int8",))
    profile = replace(SHALLOW[512], cast=True, stages=(replace(SHALLOW[512].stages[0], copy_bytes=9 * GB),))
    with pytest.raises(DoesNotFit):
        choose(profile, card, request)
    found = misfit(profile, card, request)
    assert "while it fills the cache it takes 10.3 GB of the computer's memory" in str(found)
    assert "may use 6.0 GB" in str(found)
    assert found.remedies == ("12 GB of memory in the computer (limits.ram)",)


def test_the_limit_that_is_exceeded_is_the_one_that_is_named():
    """Little may be locked, and there is memory enough."""
    card = replace(device(5), pinned=GB // 32)
    with pytest.raises(DoesNotFit):
        choose(SHALLOW[1024], card, replace(REQUEST, min_weight_precision="16bit"))
    text = str(misfit(SHALLOW[1024], card, replace(REQUEST, min_weight_precision="16bit")))
    assert "it locks 64 MB of the computer's memory for the device at least, and may lock 32 MB." in text
    assert "in the computer (limits.ram)" in text


def test_every_remedy_is_one():
    profile, request = SHALLOW[1024], replace(REQUEST, min_weight_precision="16bit")
    for memory in (1.5, 1.9, 2.1):
        for remedy in misfit(profile, device(memory), request, profile_at=SHALLOW.__getitem__).remedies:
            word = remedy.split()[-1]
            match remedy.split()[0]:
                case "--weights-precision":
                    assert choose(profile, device(memory), replace(request, min_weight_precision=word))
                case "--resolution":
                    assert choose(SHALLOW[int(word)], device(memory), request)
                case "a":
                    size = int(remedy.removeprefix("a card of ").split()[0])
                    assert choose(profile, device(size), request)
                    assert size > memory
                case other:
                    raise AssertionError(other)


def test_on_a_processor_the_remedy_is_memory():
    cpu = of_cpu(2, 2 * GB, 2 * GB)
    found = misfit(SHALLOW[512], cpu, PlanRequest(compute="fp32"))
    assert any("GB of memory" in each for each in found.remedies)
    assert not any("card" in each for each in found.remedies)
