"""Which machine: the run is planned on each sort of GPU, and the cheapest whole run wins."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from limner.errors import BadUsage, DoesNotFit
from limner.launching.clouds import Gpus, card_of
from limner.launching.offers import Offer
from limner.models.registry import named_base
from limner.planning.devices import of_card
from limner.planning.planner import PlanResult, plan
from limner.recipe.fields import parse_size
from limner.recipe.schema import Recipe
from limner.recipe.toml import change
from limner.reporter import Reporter

SYSTEM_DISK = 30
"""GB of the disk for the system, Python and torch."""
SYSTEM_RAM = 4
"""GiB of the computer's memory for everything else that runs there."""
SHARE = 0.9
"""Of the computer's memory, for the run: the rest is the system's."""


@dataclass(frozen=True, kw_only=True)
class MachinePlan:
    """A machine, and what the run takes there."""

    gpus: Gpus
    cloud: str
    """"": whichever has it."""
    price: float | None
    """US dollars per hour, of the whole machine; None where nobody said."""
    hours: float
    """Of the whole run: fetching left out, caching, training and samples counted."""
    reserved: int
    """Bytes of each GPU's memory."""
    memory: int
    """GiB of the computer's memory that it must have."""
    disk: int
    """GB of disk that it must have."""
    gated: bool
    """Whether the base's licence must be accepted, so that a token is needed to fetch it."""

    @property
    def cost(self) -> float | None:
        """US dollars of the whole run."""
        return None if self.price is None else self.price * self.hours


def planned(recipe: Recipe, gpus: Gpus, reporter: Reporter, offer: Offer | None = None) -> MachinePlan:
    """The run on GPUs of one sort.

    Of several, each process computes its share of a batch; the time of their talk is not counted.

    Args:
        recipe: What to train.
        gpus: The GPUs of the machine.
        reporter: Hears of tracing.
        offer: Whose they are; None where nobody looked.

    Raises:
        DoesNotFit: There is no plan on them.
        BadUsage: There are more of them than images in a step.
    """
    batch = recipe.train.batch
    if gpus.count > batch:
        raise BadUsage(
            f"--gpu is {gpus.text}, and train.batch is {batch}: each GPU computes one image of a "
            f"step at least. Set train.batch to {gpus.count} or more, or take fewer GPUs."
        )
    card = card_of(gpus.name)
    assert card is not None
    device = of_card(card, None if recipe.limits.vram == "auto" else parse_size(recipe.limits.vram))
    if recipe.limits.ram != "auto":
        device = device.with_ram(parse_size(recipe.limits.ram) // gpus.count)
    elif offer and offer.memory:
        device = device.with_ram(int(offer.memory * SHARE * 2**30) // gpus.count)
    share = change(recipe, {"train.batch": ceil(batch / gpus.count)}) if gpus.count > 1 else recipe
    result = plan(share, reporter, device=device)
    if result.choice is None or result.total is None:
        raise DoesNotFit(f"{recipe.base} does not fit {gpus.text}: {result.misfit}")
    return _machine(result, gpus, offer)


def _machine(result: PlanResult, gpus: Gpus, offer: Offer | None) -> MachinePlan:
    assert result.choice is not None and result.total is not None
    disk = result.disk | {"download": result.profile.download}
    base = named_base(result.recipe.base)
    return MachinePlan(
        gpus=gpus,
        cloud=offer.cloud if offer else "",
        price=offer.price if offer else None,
        hours=result.total.seconds / 3600,
        reserved=result.choice.reserved,
        memory=ceil(result.choice.host.total * gpus.count / 2**30) + SYSTEM_RAM,
        disk=SYSTEM_DISK + ceil(1.2 * sum(disk.values()) / 1e9),
        gated=bool(base and base.gate),
    )


def cheapest(recipe: Recipe, choices: Sequence[Offer], reporter: Reporter) -> MachinePlan:
    """The machine on which the whole run costs least.

    Each sort of GPU is planned once for each memory of its computer.

    Raises:
        DoesNotFit: It fits none; the message is that of the largest.
    """
    plans: list[MachinePlan] = []
    planned_before: dict[tuple[str, float | None], MachinePlan | None] = {}
    misfits: list[DoesNotFit] = []
    by_memory = sorted(choices, key=lambda offer: _memory(offer.gpus))
    for offer in by_memory:
        key = (offer.gpus.text, offer.memory)
        if key not in planned_before:
            try:
                planned_before[key] = planned(recipe, offer.gpus, reporter, offer)
            except DoesNotFit as error:
                planned_before[key] = None
                misfits.append(error)
        if machine := planned_before[key]:
            plans.append(replace(machine, cloud=offer.cloud, price=offer.price))
    if not plans:
        raise misfits[-1]
    return min(plans, key=lambda machine: machine.cost or 0.0)


def _memory(gpus: Gpus) -> float:
    card = card_of(gpus.name)
    return card.memory if card else 0.0
