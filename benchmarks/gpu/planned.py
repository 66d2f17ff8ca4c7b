"""What Limner says of a cell before anything is computed: the plan, the memory, the seconds, the arithmetic.

``python -m gpu.planned`` needs no GPU and no weights: plans made on one machine are carried to the other, so
that what was predicted is known before anything is measured.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gpu.cells import GIB, RANK, TARGETS, Cell
from gpu.emulation import played
from gpu.fake import described
from limner.assembly.assemble import ModelSpec
from limner.assembly.trainable import LoRA
from limner.nn.memory.plan import Plan
from limner.planning import cards
from limner.planning.choice import Choice, PlanRequest, assess
from limner.planning.devices import Device, of_card, of_cpu
from limner.planning.dry_run import TraceSpec
from limner.planning.profile import Block, OpCounts, Profile
from limner.planning.profiling import profile
from limner.planning.search import choose
from limner.recipe.train import Lora

LONG = 2000
"""Steps of the run that plans are made for: as many as a LoRA of FLUX.1 commonly takes."""


def device(cell: Cell, card: str, *, tiny: bool, ram: int = 0) -> Device:
    """What the cell is planned for: the named card with the memory of the one that is played.

    Args:
        cell: Whose card is played.
        card: The one that is there, as drivers call it; its rates are taken.
        tiny: A processor instead.
        ram: GiB of the host. 0: as Limner assumes of a computer that is not here.

    Raises:
        SystemExit: The card is none that Limner knows.
    """
    if tiny:
        return of_cpu(1, 8 * GIB, 4 * GIB)
    card = cell.planned_for or card
    card_record = cards.known(card)
    if card_record is None:
        raise SystemExit(
            f"Limner knows no card {card!r}. Name one of {', '.join(c.name for c in cards.CARDS)}."
        )
    small = played(cell.card)
    device_name = of_card(card_record, small.memory)
    device_name = device_name.with_ram(ram * GIB) if ram else device_name
    name = f"{card_record.name} as a card of {cell.card} GB"
    return replace(device_name, name=name, free=small.usable, reserve=small.memory - small.usable)


def rehearsed(cell: Cell, *, tiny: bool, shallow: bool = False) -> Profile:
    """What the cell needs, in numbers, from the base's configs alone."""
    family, source = described(cell.base, tiny=tiny, shallow=shallow)
    spec = ModelSpec(
        family=family,
        source=source,
        trainable=LoRA(Lora(rank=RANK, targets=TARGETS[cell.base])),
        compute="fp32" if tiny else "bf16",
        kind="cpu" if tiny else "cuda",
    )
    return profile(spec, TraceSpec(size=cell.largest))


def wished(cell: Cell, *, tiny: bool) -> PlanRequest:
    """What decides the plan: that of a long run, as what is done once is not in the table's seconds."""
    return PlanRequest(
        compute="fp32" if tiny else "bf16",
        min_weight_precision=cell.quality,
        batches=(cell.batch,),
        steps=LONG,
        sampling=False,
        exclusions=frozenset({"compile"} if cell.eager else ()),
    )


def prediction(
    cell: Cell, card: str, *, tiny: bool, ram: int = 0, plan: Plan | None = None
) -> dict[str, Any]:
    """Plan, bytes, seconds and arithmetic of a cell, as the table reads them.

    Args:
        cell: Which.
        card: As in :func:`device`.
        tiny: As in :func:`device`.
        ram: As in :func:`device`.
        plan: One that is given, instead of the fastest.

    Raises:
        DoesNotFit: No plan fits the card.
    """
    cost_profile, target, wish = (
        rehearsed(cell, tiny=tiny),
        device(cell, card, tiny=tiny, ram=ram),
        wished(cell, tiny=tiny),
    )
    choice = assess(cost_profile, target, wish, plan) if plan else choose(cost_profile, target, wish)
    return {"cell": cell.name, "device": target.name, **figures(cost_profile, choice, cell.batch)}


def figures(cost_profile: Profile, choice: Choice, batch: int) -> dict[str, Any]:
    """What is kept of a choice."""
    micros = batch // choice.plan.micro_batch
    return {
        "plan": choice.plan.to_json(),
        "causes": dict(choice.needs["train"].causes),
        "context": choice.needs["train"].causes.get("context", 0),
        "load": choice.needs["load"].reserved,
        "peak": choice.needs["train"].total,
        "reserved": choice.needs["train"].reserved,
        "pinned": choice.hosts["train"].pinned if "train" in choice.hosts else 0,  # a processor locks nothing
        "seconds": choice.step_time.seconds,
        "waiting": choice.step_time.waiting,
        "pace": asdict(choice.step_time),
        "trained": cost_profile.trained,
        "blocks": len(cost_profile.blocks),
        "useful": micros * useful(cost_profile, choice.plan.micro_batch),
        "repeated": micros * repeated(cost_profile, choice.plan),
        "whole_forward": micros
        * sum(_flops(block.forward, choice.plan.micro_batch) for block in cost_profile.blocks),
    }


def useful(cost_profile: Profile, images: int) -> float:
    """FLOPs of one pass forward and backward, nothing computed twice."""
    return sum(
        _flops(work, images)
        for block in (*cost_profile.blocks, cost_profile.rest)
        for work in (block.forward, block.backward)
    )


def repeated(cost_profile: Profile, plan: Plan) -> float:
    """FLOPs that a plan computes again in one micro-batch."""
    return sum(_again(block, plan) for block in cost_profile.blocks[: plan.checkpointed_blocks])


def _again(block: Block, plan: Plan) -> float:
    images = plan.micro_batch
    saving = _flops(block.tail, images) if plan.tail_skip else 0.0
    saving += block.forward.attention.at(images) if plan.keep_attention else 0.0
    return _flops(block.forward, images) - saving


def _flops(work: OpCounts, images: int) -> float:
    return work.gemm.at(images) + work.attention.at(images)


def keep(path: Path, predictions: list[dict[str, Any]]) -> None:
    """Write predictions to be carried to another machine."""
    path.write_text(json.dumps({forecast["cell"]: forecast for forecast in predictions}, indent=1) + "\n")


def kept(path: Path) -> dict[str, dict[str, Any]]:
    """Cell -> what :func:`keep` wrote."""
    return json.loads(path.read_text())
