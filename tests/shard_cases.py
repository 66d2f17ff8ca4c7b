"""Profiles and devices whose weights may be split over processes."""

from dataclasses import replace

from blueprints import flux
from limner.planning.cards import known
from limner.planning.choice import PlanRequest
from limner.planning.devices import Device, of_card
from limner.planning.profile import Profile
from limner.planning.several import one_of

GB = 2**30
FLUX = flux(doubles=4, singles=6)


def whole_model(profile: Profile = FLUX, numbers: int = 200_000_000) -> Profile:
    """A profile as that of a full fine-tune: so many trained numbers in each block, none frozen."""
    blocks = tuple(
        replace(
            block,
            weight_bytes=dict.fromkeys(block.weight_bytes, 0),
            other=0,
            modulation=0,
            trained=numbers,
        )
        for block in profile.blocks
    )
    count = numbers * len(blocks)
    rest = replace(
        profile.rest, weight_bytes=dict.fromkeys(profile.rest.weight_bytes, 0), other=0, modulation=0
    )
    return replace(profile, blocks=blocks, rest=rest, trained=count, largest=40_000_000)


def card(name: str, gigabytes: float, processes: int, ram: int = 256) -> Device:
    entry = known(name)
    assert entry is not None
    return one_of(of_card(entry, round(gigabytes * GB)).with_ram(ram * GB), processes, processes)


REQUEST = PlanRequest(compute="bf16", min_weight_precision="16bit")
