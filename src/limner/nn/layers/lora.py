"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) on the linear layers and convolutions of a model."""

import fnmatch
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import BadRecipe, BrokenGraph
from limner.nn.layers.convolution import LowRankConv, plain, wide
from limner.nn.layers.quantized_linear import QuantizedLinear
from limner.nn.rng import PlacedDropout, Places, seed_of

SAVED = {"down": "lora_A.default.weight", "up": "lora_B.default.weight"}
"""What checkpoints call the factors: peft's names, as they always have."""


class LowRank(nn.Module):
    """y = W x + scale * U (D x): a frozen linear layer and the pair that is trained beside it.

    The factors are fp32 masters; the arithmetic is that of the layer's output. For its gradient the pair
    keeps D x, and x itself: one tensor for all the layers that read it. Only autocast makes it a copy.
    Where ``readers`` is set, D x comes from there, unless dropout gives each pair an input of its own.

    Args:
        base: ``nn.Linear``, ``QuantizedLinear``, or whatever takes its place; is called as a module.
        rank: At least 1.
        scale: alpha / rank.
        dropout: On what the pair reads; knows when it is on.
    """

    def __init__(
        self, base: nn.Linear | QuantizedLinear, rank: int, scale: float, dropout: nn.Module
    ) -> None:
        """See the class. The factors are zero."""
        super().__init__()
        self.base: nn.Module = base
        self.in_features, self.out_features = base.in_features, base.out_features
        device = next(chain(base.parameters(), base.buffers())).device
        self.down = nn.Parameter(torch.zeros(rank, base.in_features, device=device))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank, device=device))
        self.scale, self.dropout = scale, dropout
        self.readers: Readers | None = None
        self.enabled = True

    @property
    def weight(self) -> Tensor:
        """That of the layer beneath: some models ask a layer for its dtype."""
        return self.base.weight  # pyright: ignore[reportReturnType]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        y = self.base(x)
        if not self.enabled:
            return y
        drops = isinstance(self.dropout, PlacedDropout) and self.dropout.training
        if self.readers is None or drops:
            inner = F.linear(self.dropout(x.to(y.dtype)), self.down.to(y.dtype))
        else:
            inner = self.readers.inner(self, x, y.dtype)
        flat = y.reshape(-1, self.out_features), inner.reshape(-1, len(self.down))
        return torch.addmm(*flat, self.up.to(y.dtype).t(), alpha=self.scale).view(y.shape)

    def extra_repr(self) -> str:
        """For people."""
        return f"rank={len(self.down)}, scale={self.scale:g}"


FUSED = (
    ("to_q", "to_k", "to_v"),
    ("add_q_proj", "add_k_proj", "add_v_proj"),
    ("q_proj", "k_proj", "v_proj"),
    ("q", "k", "v"),
)
"""Layers of one attention that read one tensor: diffusers' names, those of CLIP and Qwen, those of T5."""


class Readers:
    """Pairs that read one tensor: their D x are one product, made by the first and freed by the last.

    Not the same to the bit as a product for each: of other shapes, kernels sum in another order. In fp32 the
    gradients are within 1e-6 of those; what is recomputed or streamed is the same to the bit as ever. A pair
    that is given another tensor than the one before it costs time, and changes nothing.
    """

    def __init__(self, pairs: Sequence[LowRank]) -> None:
        """See the class."""
        self.pairs = list(pairs)
        self.forget()

    def forget(self) -> None:
        """Let go of what no pair came for: a step that failed half way leaves it."""
        self.input: Tensor | None = None
        self.outputs: list[Tensor | None] = [None] * len(self.pairs)

    def inner(self, pair: LowRank, x: Tensor, dtype: torch.dtype) -> Tensor:
        """D x of one of the pairs, (..., rank)."""
        index = next(number for number, reader in enumerate(self.pairs) if reader is pair)
        if self.input is not x or self.outputs[index] is None:
            down = torch.cat([reader.down for reader in self.pairs]).to(dtype)
            ranks = [len(reader.down) for reader in self.pairs]
            self.input, self.outputs = x, list(F.linear(x.to(dtype), down).split(ranks, dim=-1))
        output = self.outputs[index]
        self.outputs[index] = None
        if all(reader is None for reader in self.outputs):
            self.input = None
        assert output is not None
        return output


def matching(
    model: nn.Module, endings: Sequence[str], *, layers: str = "", since: int = 0, until: int | None = None
) -> list[str]:
    """Names of the linear layers and convolutions that end in one of ``endings``.

    Args:
        model: The model.
        endings: Endings at a dot, such as ``attn.to_q``; ``*`` stands for anything.
        layers: Path of the model's list of layers, needed for ``since`` and ``until``.
        since: Index of the first layer to train; modules below it, or outside the list, are left out.
        until: Index of the first layer that never runs; modules from it on are left out. None: all run.

    Raises:
        BadRecipe: An ending matches nothing.
    """
    names = [name for name, module in model.named_modules() if _trainable(module)]
    matches: set[str] = set()
    for ending in endings:
        hits = [n for n in names if fnmatch.fnmatchcase(n, ending) or fnmatch.fnmatchcase(n, f"*.{ending}")]
        if not hits:
            existing = ", ".join(sorted({_tail(name) for name in names}))
            raise BadRecipe(
                f"lora.targets: no linear layer or convolution ends in {ending!r}. Endings here: {existing}."
            )
        matches.update(hits)
    layer_numbers = {
        n: int(n[len(layers) + 1 :].split(".")[0]) for n in matches if n.startswith(f"{layers}.")
    }
    if since:
        matches = {n for n, layer in layer_numbers.items() if layer >= since}
    return sorted(n for n in matches if until is None or layer_numbers.get(n, -1) < until)


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


def attach(
    model: nn.Module,
    names: Sequence[str] | Mapping[str, int],
    *,
    rank: int,
    alpha: float,
    dropout: float,
    seed: int,
    places: Places | None = None,
) -> nn.Module:
    """Freeze ``model`` and put a LoRA on each named layer, which becomes the ``base`` of it.

    Each is of the ``rank``, or of its own where ``names`` says one (:func:`ranks`); the scale of all is
    alpha / ``rank``.

    D is drawn on the CPU from ``seed`` and the layer's name, so that neither the device nor other layers
    change it; U is zero, so step 0 is the base model. On meta there are shapes alone. Dropout is off until
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
        layer_rank = names[name] if isinstance(names, Mapping) else rank
        if isinstance(base, nn.Linear | QuantizedLinear):
            pair = LowRank(base, layer_rank, alpha / rank, drop)
        elif isinstance(base, nn.Conv2d) and plain(base):
            pair = LowRankConv(base, layer_rank, alpha / rank, drop)
        else:
            raise BrokenGraph(
                f"{name} is a {type(base).__name__}, and a LoRA needs a linear layer or a plain convolution."
            )
        if not pair.down.is_meta:
            width = 1 / math.sqrt(pair.down[0].numel())  # as nn.Linear and nn.Conv2d are drawn
            noise = torch.rand(pair.down.shape, generator=torch.Generator().manual_seed(seed_of(seed, name)))
            pair.down.data.copy_(noise.mul_(2 * width).sub_(width))
        setattr(owner, attribute, pair)
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
    for _, pair in _pairs(model):
        if isinstance(pair, LowRank) and pair.readers is not None:
            pair.readers.forget()


def pairs(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Layer -> down (rank, in) and up (out, rank) with the scale in it: float32 copies on the CPU.

    Of a convolution (rank, in, height, width) and (out, rank, 1, 1).
    """
    return {
        name: (
            pair.down.detach().to("cpu", torch.float32, copy=True),
            pair.up.detach().cpu().float() * pair.scale,
        )
        for name, pair in _pairs(model)
    }


def _pairs(model: nn.Module) -> Iterator[tuple[str, LowRank | LowRankConv]]:
    return (
        (name, module) for name, module in model.named_modules() if isinstance(module, LowRank | LowRankConv)
    )


def attached(model: nn.Module) -> dict[str, LowRank | LowRankConv]:
    """Layer -> the adapter that was put on it."""
    return dict(_pairs(model))


def named(model: nn.Module) -> dict[str, nn.Parameter]:
    """Everything trained, by the names of checkpoints, in a fixed order."""
    factors = {
        f"{name}.{saved}": getattr(pair, factor)
        for name, pair in _pairs(model)
        for factor, saved in SAVED.items()
    }
    return dict(sorted(factors.items()))


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The same without names."""
    return list(named(model).values())


def enable(model: nn.Module, *, enabled: bool) -> None:
    """Have the adapters compute, or leave the frozen model as it is."""
    for _, pair in _pairs(model):
        pair.enabled = enabled


def dropping(model: nn.Module, *, enabled: bool) -> None:
    """Switch the adapters' own dropout; the frozen model's stays off, or T5 would be trained with noise."""
    for _, pair in _pairs(model):
        pair.dropout.train(enabled)
