"""The optimizers, one record each: what the recipe, the planner, the trainer and doctor know of it.

To add an optimizer, add a record to ``OPTIMIZERS`` and its package, if it has one, to an extra in
``pyproject.toml``. Loads no torch: ``limner.nn.optim`` makes the optimizer that a record describes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from limner.errors import BadRecipe

MOMENT_IN_8_BITS = 1 + 4 / 256
"""Bytes of a number in 8 bits with its share of a scale: bitsandbytes keeps one in fp32 for 256 of them."""


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """One optimizer. Bytes are of device memory, for each trained number unless it says otherwise."""

    name: str
    """As train.optimizer names it."""
    title: str
    """As people write it."""
    source: str
    """Paper, and what sets it apart; for the page of the recipe."""
    factory: str
    """``module:attribute`` of its constructor, imported when it is chosen."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the constructor."""
    package: str = ""
    """What pip installs, where Limner does not depend on it already."""
    extra: str = ""
    """The extra of Limner that brings the package."""

    betas: bool = True
    """Whether it takes ``betas``."""
    fused: bool = False
    """Whether it has a fused kernel, asked for with ``fused`` on the devices that have one."""
    probed: bool = False
    """Whether only a trial step tells if there is a kernel for the device."""
    warmup_flag: str = ""
    """An argument of its constructor that is true when the learning rate warms up."""
    finds_rate: bool = False
    """It finds the learning rate itself: train.learning_rate multiplies it, and is one for everything."""
    averages: bool = False
    """It averages the weights in place of a schedule, and so takes neither a schedule nor train.ema."""

    state_bytes: float = 0
    """Of state."""
    factored: bool = False
    """Its state is a row and a column in fp32 for each weight matrix, in place of ``state_bytes``."""
    paged: bool = False
    """Its state is in memory that CUDA moves to the host when the device is short of it."""
    step_bytes: float = 0
    """Needed beside the state during a step, by an optimizer that goes through all tensors at once."""
    step_bytes_of_largest: float = 0
    """The same for each number of the largest tensor, by one that goes from tensor to tensor."""
    parked_bytes: int = 0
    """While its average is in place: the weights that it trains wait meanwhile."""
    in_8_bits: str = ""
    """The optimizer with the same update and 8-bit state, which the plan may choose instead."""
    in_portions: bool = False
    """Whether it may step some tensors now and others later, and be the same."""
    in_parts: bool = False
    """Whether its step of a number reads what belongs to that number alone, so that a part of a tensor is
    stepped like the whole (``nn.memory.sharding``)."""
    on_host: bool = False
    """Whether the plan may keep its state, and step, in the memory of the host (``nn.memory.offload``)."""


OPTIMIZERS: dict[str, Optimizer] = {
    record.name: record
    for record in (
        Optimizer(
            name="adamw",
            title="AdamW",
            source="Loshchilov 2019, arXiv 1711.05101",
            factory="torch.optim:AdamW",
            fused=True,
            state_bytes=8,  # two moments in fp32
            in_8_bits="adamw8bit",
            in_portions=True,
            in_parts=True,
            on_host=True,
        ),
        Optimizer(
            name="adamw8bit",
            title="8-bit AdamW",
            source="Dettmers 2022, arXiv 2110.02861; bitsandbytes",
            factory="bitsandbytes:optim.AdamW8bit",
            package="bitsandbytes",
            extra="gpu",
            probed=True,
            state_bytes=2 * MOMENT_IN_8_BITS,
            in_portions=True,
        ),
        Optimizer(
            name="pagedadamw8bit",
            title="8-bit AdamW",
            source="the same, of which CUDA moves to the host what the device has no room for",
            factory="bitsandbytes:optim.PagedAdamW8bit",
            package="bitsandbytes",
            extra="gpu",
            probed=True,
            state_bytes=2 * MOMENT_IN_8_BITS,
            paged=True,
            in_portions=True,
        ),
        Optimizer(
            name="adafactor",
            title="Adafactor",
            source="Shazeer 2018, arXiv 1804.04235",
            # transformers' and not torch's, which always scales a step by the size of the weight: LoRA's
            # `up`, which starts at 0, would move at a thousandth of the learning rate
            factory="transformers.optimization:Adafactor",
            options={"lr": 1e-3, "scale_parameter": False, "relative_step": False},
            betas=False,
            factored=True,
            in_portions=True,
            step_bytes_of_largest=12,
        ),
        Optimizer(
            name="prodigy",
            title="Prodigy",
            source="Mishchenko 2024, arXiv 2306.06101",
            factory="prodigyopt:Prodigy",
            package="prodigyopt",
            extra="optim",
            warmup_flag="safeguard_warmup",
            finds_rate=True,
            state_bytes=16,  # two moments, its numerator, and the weights that it started from
            step_bytes_of_largest=8,
        ),
        Optimizer(
            name="schedulefree",
            title="schedule-free AdamW",
            source="Defazio 2024, arXiv 2405.15682",
            factory="schedulefree:AdamWScheduleFree",
            package="schedulefree",
            extra="optim",
            averages=True,
            state_bytes=8,  # one moment, and a second sequence of weights
            step_bytes=4,
            parked_bytes=4,
        ),
    )
}
"""Name -> record."""


CLASS_PATH = re.compile(r"(?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*")
"""The path of a class: ``package.module.Class``."""


def _of_class(path: str) -> Optimizer:
    """A class of torch's optimizers by its dotted path, planned with two moments in fp32, as Adam has."""
    module, _, name = path.rpartition(".")
    return Optimizer(
        name=path,
        title=path,
        source="",
        factory=f"{module}:{name}",
        package=module.partition(".")[0],
        betas=False,
        probed=True,
        state_bytes=8,
    )


def optimizer_of(name: str) -> Optimizer:
    """The record of that name.

    Raises:
        BadRecipe: There is none.
    """
    if CLASS_PATH.fullmatch(name):
        return _of_class(name)
    if name not in OPTIMIZERS:
        raise BadRecipe(f"train.optimizer is {name!r}, which is none of: {', '.join(OPTIMIZERS)}.")
    return OPTIMIZERS[name]


def described() -> str:
    """All of them for the page of the recipe, each with its source."""
    names = ", ".join(f"{record.name} ({record.source})" for record in OPTIMIZERS.values())
    return f'{names}; or a class by its dotted path ("package.Class"), planned with two moments in fp32.'


def _known(name: str) -> str:
    try:
        return optimizer_of(name).name
    except BadRecipe as error:
        raise ValueError(str(error)) from error  # told with the key and what it must be


def _choices(rule: dict[str, Any]) -> None:
    rule.pop("type", None)
    rule["anyOf"] = [{"enum": list(OPTIMIZERS)}, {"type": "string", "format": "class"}]


OptimizerName = Annotated[str, AfterValidator(_known), Field(json_schema_extra=_choices)]
"""The recipe's type of train.optimizer: a name in :data:`OPTIMIZERS` at the time when it is read."""
