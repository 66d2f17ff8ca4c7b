"""Adapters on the linear layers and convolutions of a model: on which layers, of which ranks."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from limner.errors import BadRecipe, BrokenGraph
from limner.nn.layers.adapter import (
    FUSED,
    LORA,
    Adapter,
    AdapterKind,
    AdapterShape,
    LowRank,
    Readers,
    plain,
    wide,
)
from limner.nn.layers.quantized_linear import QuantizedLinear
from limner.nn.rng import PlacedDropout, Places, seed_of

RANGE = re.compile(r"(?<![^.])(\d+)-(\d+)(?![^.])")
"""Numbers from .. to, between dots of a pattern."""


@dataclass(frozen=True)
class NamePattern:
    """A pattern for the endings of module names at a dot: ``transformer_blocks.4-12.attn.*``.

    ``*`` stands for anything, ``4-12`` between dots for the numbers from 4 to 12.

    Raises:
        BadRecipe: A range ends before it begins.
    """

    text: str

    def __post_init__(self) -> None:
        """Check the ranges."""
        for first, last in self._ranges:
            if first > last:
                raise BadRecipe(
                    f"{self.text!r} has the range {first}-{last}. Write the smaller number first."
                )

    @cached_property
    def _ranges(self) -> list[tuple[int, int]]:
        return [(int(first), int(last)) for first, last in RANGE.findall(self.text)]

    @cached_property
    def _form(self) -> re.Pattern[str]:
        parts = RANGE.split(self.text)[::3]  # what stands between ranges
        form = r"(\d+)".join(re.escape(part).replace(r"\*", ".*").replace(r"\?", ".") for part in parts)
        return re.compile(rf"(?:.*\.)?{form}", re.DOTALL)

    def matches(self, name: str) -> bool:
        """Whether a module's name ends so."""
        found = self._form.fullmatch(name)
        return found is not None and all(
            first <= int(number) <= last
            for number, (first, last) in zip(found.groups(), self._ranges, strict=True)
        )


def matching(
    model: nn.Module, endings: Sequence[str], *, layers: str = "", since: int = 0, until: int | None = None
) -> list[str]:
    """Names of the linear layers and convolutions that end in one of ``endings``, less those left out.

    Args:
        model: The model.
        endings: Patterns (:class:`NamePattern`); what one that begins with "!" matches is left out.
        layers: Path of the model's list of layers, needed for ``since`` and ``until``.
        since: Index of the first layer to train; modules below it, or outside the list, are left out.
        until: Index of the first layer that never runs; modules from it on are left out. None: all run.

    Raises:
        BadRecipe: An ending matches nothing, or nothing is left.
    """
    names = [name for name, module in model.named_modules() if _trainable(module)]
    matches, exclusions = set[str](), set[str]()
    for ending in endings:
        pattern = NamePattern(ending.removeprefix("!"))
        hits = [name for name in names if pattern.matches(name)]
        if not hits:
            existing = ", ".join(sorted({_tail(name) for name in names}))
            raise BadRecipe(
                f"lora.targets: no linear layer or convolution ends in {pattern.text!r}. "
                f"Endings here: {existing}."
            )
        (exclusions if ending.startswith("!") else matches).update(hits)
    if not matches - exclusions:
        texts = ", ".join(ending for ending in endings if ending.startswith("!"))
        raise BadRecipe(f"lora.targets: {texts} leave out all {len(matches)} layers. Remove one of them.")
    matches -= exclusions
    layer_numbers = {
        n: int(n[len(layers) + 1 :].split(".")[0]) for n in matches if n.startswith(f"{layers}.")
    }
    if since:
        matches = {n for n, layer in layer_numbers.items() if layer >= since}
    return sorted(n for n in matches if until is None or layer_numbers.get(n, -1) < until)


def by_pattern(names: Iterable[str], table: Mapping[str, float], key: str) -> dict[str, float]:
    """The value of each named layer by the last pattern of a table that matches it; others are left out.

    Args:
        names: Of the layers that are trained.
        table: Pattern -> value.
        key: Of the recipe, for the message.

    Raises:
        BadRecipe: A pattern matches none of them.
    """
    names, values = list(names), dict[str, float]()
    for text, value in table.items():
        pattern = NamePattern(text)
        hits = [name for name in names if pattern.matches(name)]
        if not hits:
            tails = ", ".join(sorted({_tail(name) for name in names}))
            raise BadRecipe(
                f"{key}: none of the {len(names)} trained layers ends in {text!r}. Endings here: {tails}."
            )
        values |= dict.fromkeys(hits, value)
    return values


def _trainable(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear | QuantizedLinear) or plain(layer)


def ranks(model: nn.Module, names: Sequence[str], rank: int, kernels: int | None) -> dict[str, int]:
    """The rank of each named layer: ``kernels`` that of convolutions with kernels larger than 1 x 1.

    Raises:
        BadRecipe: ``kernels`` is given and there are none.
    """
    layer_ranks = {name: kernels if kernels and wide(model.get_submodule(name)) else rank for name in names}
    if kernels and not any(wide(model.get_submodule(name)) for name in names):
        raise BadRecipe(
            f"lora.conv_rank is {kernels}, but none of the {len(names)} layers of lora.targets is a "
            'convolution. Set lora.targets = "locon" on a base that has them, or remove lora.conv_rank.'
        )
    return layer_ranks


def _tail(name: str) -> str:
    """What is left of a name behind the index of its layer: an ending that matches it in every layer."""
    return re.split(r"\.\d+\.", name, maxsplit=1)[-1]


def attach(  # noqa: PLR0913  everything that an adapter is made of
    model: nn.Module,
    names: Sequence[str] | Mapping[str, int],
    *,
    rank: int,
    alpha: float,
    dropout: float,
    seed: int,
    places: Places | None = None,
    kind: AdapterKind = LORA,
) -> nn.Module:
    """Freeze ``model`` and put an adapter on each named layer, which becomes the ``base`` of it.

    Each is of the ``rank``, or of its own where ``names`` says one (:func:`ranks`); the scale of all is
    alpha / ``rank``.

    First values are drawn on the CPU from ``seed`` and the layer's name, so that neither the device nor other
    layers change them; step 0 is the base model. On meta there are shapes alone. Dropout is off until
    :func:`dropping` switches it on; its masks depend on ``places``, which the caller keeps up to date
    (``nn.rng``).

    Raises:
        BrokenGraph: A name is that of no linear layer and of no plain convolution.
    """
    model.requires_grad_(requires_grad=False)
    for name in names:
        parent, _, attribute = name.rpartition(".")
        owner = model.get_submodule(parent)
        base = owner.get_submodule(attribute)
        drop = PlacedDropout(dropout, name, [] if places is None else places) if dropout else nn.Identity()
        shape = AdapterShape(names[name] if isinstance(names, Mapping) else rank, alpha / rank)
        if isinstance(base, nn.Linear | QuantizedLinear):
            adapter = kind.linear(base, shape, drop)
        elif plain(base):
            adapter = kind.convolution(base, shape, drop)
        else:
            raise BrokenGraph(
                f"{name} is a {type(base).__name__}, and a LoRA needs a linear layer or a plain convolution."
            )
        if not next(adapter.parameters()).is_meta:
            adapter.draw(torch.Generator().manual_seed(seed_of(seed, name)))
        setattr(owner, attribute, adapter)
    dropping(model, enabled=False)
    return model


def together(model: nn.Module) -> None:
    """Have the pairs of each attention that read one tensor share a product (:class:`Readers`).

    It saves a GPU 6 to 9 % of a step's launches, and a CPU nothing
    (``benchmarks/speed/adapter_products.py``).
    """
    for owner in model.modules():
        for names in FUSED:
            reader_names = names[1:] if getattr(owner, "is_cross_attention", False) else names
            adapters = [
                getattr(owner, name)
                for name in reader_names
                if isinstance(getattr(owner, name, None), LowRank)
            ]
            if len(adapters) > 1 and len({adapter.in_features for adapter in adapters}) == 1:
                readers = Readers(adapters)
                for adapter in adapters:
                    adapter.readers = readers


def forget(model: nn.Module) -> None:
    """Let go of what a step that failed half way has left: it would keep all that came before it alive."""
    for adapter in attached(model).values():
        if isinstance(adapter, LowRank) and adapter.readers is not None:
            adapter.readers.forget()


def attached(model: nn.Module) -> dict[str, Adapter]:
    """Layer -> the adapter that was put on it."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Adapter)}


def named(model: nn.Module) -> dict[str, nn.Parameter]:
    """Everything trained, by the names of checkpoints, in a fixed order."""
    factors = {
        f"{layer}.{adapter.names[name].saved}": factor
        for layer, adapter in attached(model).items()
        for name, factor in adapter.factors().items()
    }
    return dict(sorted(factors.items()))


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The same without names."""
    return list(named(model).values())


def enable(model: nn.Module, *, enabled: bool) -> None:
    """Have the adapters compute, or leave the frozen model as it is."""
    for adapter in attached(model).values():
        adapter.enabled = enabled


def turn(model: nn.Module, sign: float) -> None:
    """Have the adapters change the model one way, 1.0, or the other, -1.0."""
    for adapter in attached(model).values():
        adapter.sign = sign


def dropping(model: nn.Module, *, enabled: bool) -> None:
    """Switch the adapters' own dropout; the frozen model's stays off, or T5 would be trained with noise."""
    for adapter in attached(model).values():
        adapter.dropout.train(enabled)
