"""LoRA files in every form that trainers write: spelling of names, ending of tensors, choice of layers.

The names are true, of diffusers and of each model's authors; the numbers are random. Nothing here goes
through Limner's own writer, so that what reads these files is tried on files that it did not write.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from limner.models.key_map import FamilyKeys, KeyMatch, KeyStyle, Naming

Shape = tuple[int, ...]
"""Of a weight: rows, columns, and of a convolution its kernel."""

RANK, ALPHA = 2, 1.0
DOTTED_FORMS = (
    *("", "transformer.", "unet.", "diffusion_model.", "model.diffusion_model."),
    *("base_model.model.", "transformer.base_model.model."),
)
FLAT = ("lora_unet_", "lora_transformer_", "lycoris_")
STYLES = (
    *(KeyStyle(prefix, naming) for prefix in DOTTED_FORMS for naming in get_args(Naming)),
    *(KeyStyle(prefix, naming, flat=True) for prefix in FLAT for naming in ("diffusers", "native")),
)
PLAIN = KeyStyle("", "diffusers")
SETS = ("blocks", "all", "text")
"""Layers of blocks alone; those before and after as well; those of blocks and one of CLIP."""


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape) * 0.3


def _pair(shape: Shape) -> tuple[Tensor, Tensor]:
    rows, columns, *kernel = shape
    return _noise(RANK, columns, *kernel), _noise(rows, RANK, *(1 for _ in kernel))


def _named(down: str, up: str, *, alpha: bool = False) -> Callable[[Shape], dict[str, Tensor]]:
    def make(shape: Shape) -> dict[str, Tensor]:
        first, second = _pair(shape)
        return {down: first, up: second} | ({".alpha": torch.tensor(ALPHA)} if alpha else {})

    return make


PEFT = _named(".lora_A.weight", ".lora_B.weight")
KOHYA = _named(".lora_down.weight", ".lora_up.weight", alpha=True)


def _loha(shape: Shape) -> dict[str, Tensor]:
    rows, columns = shape[0], torch.Size(shape[1:]).numel()
    sides = (_noise(rows, RANK), _noise(RANK, columns), _noise(rows, RANK), _noise(RANK, columns))
    names = (".hada_w1_a", ".hada_w1_b", ".hada_w2_a", ".hada_w2_b")
    return dict(zip(names, sides, strict=True)) | {".alpha": torch.tensor(ALPHA)}


def _lokr(shape: Shape) -> dict[str, Tensor]:
    rows, columns, *kernel = shape
    factor = 2 if rows % 2 == columns % 2 == 0 else 1
    first, second = _pair((rows // factor, columns // factor, *kernel))
    sides = {
        ".lokr_w1": _noise(factor, factor),
        ".lokr_w2_a": second.flatten(1),
        ".lokr_w2_b": first.flatten(1),
    }
    return sides | {".alpha": torch.tensor(ALPHA)}


def _whole_lokr(shape: Shape) -> dict[str, Tensor]:
    rows, columns, *kernel = shape
    high = max(side for side in (1, 2, 4, 8, 16) if rows % side == 0)
    wide = max(side for side in (1, 2, 4, 8, 16) if columns % side == 0)
    # two whole sides; of true sizes the second is repeated columns, so that a file stays small
    return {".lokr_w1": _noise(high, wide), ".lokr_w2": _noise(rows // high, columns // wide, *kernel)}


def _dora_of_peft(shape: Shape) -> dict[str, Tensor]:
    return PEFT(shape) | {".lora_magnitude_vector": torch.rand(shape[0]) + 0.5}


def _dora_of_lycoris(shape: Shape) -> dict[str, Tensor]:
    return KOHYA(shape) | {".dora_scale": torch.rand(1, shape[1], *(1 for _ in shape[2:])) + 0.5}


def _dora_by_rows(shape: Shape) -> dict[str, Tensor]:
    return KOHYA(shape) | {".dora_scale": torch.rand(shape[0], 1, *(1 for _ in shape[2:])) + 0.5}


ENDINGS: dict[str, Callable[[Shape], dict[str, Tensor]]] = {
    "lora_A": PEFT,
    "lora_A + alpha": _named(".lora_A.weight", ".lora_B.weight", alpha=True),
    "lora_A.default": _named(".lora_A.default.weight", ".lora_B.default.weight"),
    "lora_down": _named(".lora_down.weight", ".lora_up.weight"),
    "lora_down + alpha": KOHYA,
    "lora.down": _named(".lora.down.weight", ".lora.up.weight"),
    "_lora.down": _named("_lora.down.weight", "_lora.up.weight"),
    "lora_linear_layer": _named(".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    "LoHa": _loha,
    "LoKr": _lokr,
    "LoKr, whole": _whole_lokr,
    "DoRA of peft": _dora_of_peft,
    "DoRA of LyCORIS": _dora_of_lycoris,
    "DoRA by rows": _dora_by_rows,
}
"""How tensors of a module may end, and what makes them for a weight of a shape."""

CLIP_LAYER, CLIP_SHAPE = "encoder.layers.0.mlp.fc1", (3072, 768)
"""A layer of CLIP-L, and its true shape."""


@dataclass(frozen=True)
class Form:
    """A form of a file."""

    style: KeyStyle
    ending: str
    layers: str
    """One of :data:`SETS`."""

    def __str__(self) -> str:
        """For people."""
        names = "flat " if self.style.flat else ""
        return f"{self.style.prefix}<{names}{self.style.naming}> {self.ending}, {self.layers}"


def forms_of(names: FamilyKeys) -> Iterator[Form]:
    """The forms that make sense for a family."""
    for style in STYLES:
        other = {"transformer": "unet", "unet": "transformer"}[names.component]
        if style.prefix.startswith(f"{other}.") or (
            style.naming == "processor" and names.component != "unet"
        ):
            continue
        for ending in ENDINGS:
            if (ending == "_lora.down") != (style.naming == "processor") and ending != "lora_down + alpha":
                continue
            if style.naming == "processor" and ending != "_lora.down":
                continue
            for layers in SETS:
                if layers != "text" or (
                    names.text and ending in ("lora_A", "lora_down + alpha", "lora.down")
                ):
                    yield Form(style, ending, layers)


def _places(names: FamilyKeys, shapes: Mapping[str, Shape], layers: str) -> dict[Any, dict[int, Shape]]:
    """One place of each row of a family's table -> member -> shape."""
    places: dict[Any, dict[int, Shape]] = {}
    first: dict[Any, tuple[str, ...]] = {}
    for module, shape in shapes.items():
        match = names.table.find(module, PLAIN)
        if match is None or match.member is None or (layers != "all" and not match.numbers):
            continue
        if first.setdefault(match.row, match.numbers) == match.numbers:
            places.setdefault((match.row, match.numbers), {})[match.member] = shape
    return places


def stems(names: FamilyKeys, style: KeyStyle, shapes: Mapping[str, Shape], layers: str) -> dict[str, Shape]:
    """Names of modules in a file -> shape of the weight; of each kind of layer one.

    Args:
        names: The family.
        style: The spelling.
        shapes: Module in diffusers' names -> shape, of the model.
        layers: Which of them.
    """
    result: dict[str, Shape] = {}
    for (row, numbers), members in _places(names, shapes, layers).items():
        if style.naming == "native":
            if len(members) == len(row.modules):
                rows = sum(shape[0] for shape in members.values())
                name = names.table.name_of(KeyMatch(row, None, numbers), "native")
                result[style.render(name)] = (rows, *next(iter(members.values()))[1:])
            continue
        for member, shape in members.items():
            name = names.table.name_of(KeyMatch(row, member, numbers), style.naming)
            if style.naming != "processor" or ".processor." in name:
                result[style.render(name)] = shape
    return result


def tensors(form: Form, names: FamilyKeys, shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
    """The tensors of a file of a form; the same each time."""
    torch.manual_seed(0)
    make = ENDINGS[form.ending]
    flat = {
        f"{stem}{ending}": tensor
        for stem, shape in stems(names, form.style, shapes, form.layers).items()
        for ending, tensor in make(shape).items()
    }
    if form.layers == "text" and flat:
        stem = "lora_te1_text_model_" + CLIP_LAYER.replace(".", "_")
        stem = stem if form.style.flat else f"text_encoder.text_model.{CLIP_LAYER}"
        flat |= {f"{stem}{ending}": tensor for ending, tensor in make(CLIP_SHAPE).items()}
    return {name: tensor.contiguous() for name, tensor in flat.items()}
