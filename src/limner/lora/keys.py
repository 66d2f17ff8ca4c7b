"""The tensors of one module in a file: their endings, and the change that they make together."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from limner.errors import BadLora
from limner.lora.adapters import Axis, Dora, Loha, Lokr, LokrRows, WeightDelta, kernel_of
from limner.lora.factors import Factors

ENDINGS = tuple(
    (re.compile(pattern), part)
    for pattern, part in (
        (r"\.lora_A(\.\w+)?\.weight", "down"),
        (r"\.lora_B(\.\w+)?\.weight", "up"),
        (r"\.lora_down\.weight", "down"),
        (r"\.lora_up\.weight", "up"),
        (r"\.lora_mid\.weight", "mid"),
        (r"(\.lora|_lora|\.lora_linear_layer|(?<=_lora[12]))\.down\.weight", "down"),
        (r"(\.lora|_lora|\.lora_linear_layer|(?<=_lora[12]))\.up\.weight", "up"),
        (r"\.alpha", "alpha"),
        (r"\.dora_scale", "dora_scale"),
        (r"\.lora_magnitude_vector(\.default)?(\.weight)?", "magnitude"),
        (r"\.(hada_w[12]_[ab]|hada_t[12]|lokr_w[12](_[ab])?|lokr_t2)", ""),
    )
)
"""How names of tensors end, in every spelling, and what they are. Empty: the ending names itself."""

UNREAD_KINDS = (
    (r"\.(lora_[AB]|lora_up|lora_down)(\.\w+)?\.bias$", "biases beside the factors"),
    (r"\.(diff_b|bias_diff)$", "changes of biases (diff_b)"),
    (r"\.(diff|set_weight|reshape_weight)$", "whole weights (diff)"),
    (r"\.(w_norm|b_norm)$", "normalisation layers (w_norm, b_norm)"),
    (r"(norm\w*|_norm)\.(scale|weight|bias)$", "normalisation layers"),
    (r"\.bias$", "biases"),
    (r"^bundle_emb\.", "bundled embeddings (a textual inversion, which limner generate loads)"),
)
"""What may stand beside factors and is not read: they are, and this is named."""

UNREADABLE = (
    (r"\.(oft_\w+|hra_\w+|boft\w*)", "belongs to an orthogonal adapter (OFT, BOFT, HRA)"),
    (
        r"\.(scale_weight|scale_input|weight_scale)$",
        "belongs to an fp8 file with scales beside its numbers",
    ),
    (r"\.[ab][12]\.weight$", "belongs to a GLoRA"),
    (r"\.(hada_t[12]|lokr_t2)$", "belongs to a Tucker-decomposed LoHa or LoKr"),
    (r"\.(vera_lambda_[bd]|ia3_l)$", "belongs to a VeRA or (IA)^3 adapter"),
    (r"^lora_controlnet$", "marks a control LoRA of Stability AI"),
    (
        r"^(\*|emb_params|clip_[lg]|t5|string_to_param\w*)$",
        "is a textual inversion, an embedding and no LoRA; limner generate loads it with --embedding",
    ),
)
"""Kinds that no reader here knows."""

MAGNITUDE = "lora_magnitude_vector"
"""How peft ends the name of a DoRA's magnitude."""


@dataclass(frozen=True)
class ModuleTensors:
    """The tensors of one module, by part."""

    stem: str
    """The module's name as the file spells it."""
    tensors: dict[str, Tensor]

    @property
    def rank(self) -> int | None:
        """Of its factors; None of a LoKr, whose factors do not show what alpha is divided by in peft."""
        side = next((self.tensors[name] for name in ("down", "hada_w1_b") if name in self.tensors), None)
        return None if side is None else side.shape[0]

    @property
    def shape(self) -> tuple[int, int] | None:
        """Rows and columns of the weight, kernels laid flat; None where tensors are missing."""
        sides = {name: tensor.flatten(1).shape for name, tensor in self.tensors.items() if tensor.dim() > 1}
        if "up" in sides and "down" in sides:
            return sides["up"][0], sides["down"][1]
        if "hada_w1_a" in sides and "hada_w1_b" in sides:
            return sides["hada_w1_a"][0], sides["hada_w1_b"][1]
        rows, columns = 1, 1
        for name in ("lokr_w1", "lokr_w2"):
            high, wide = sides.get(name, sides.get(f"{name}_a")), sides.get(name, sides.get(f"{name}_b"))
            if high is None or wide is None:
                return None
            rows, columns = rows * high[0], columns * wide[1]
        return rows, columns

    @property
    def is_convolution(self) -> bool | None:
        """Whether its factors have a kernel; None of LoHa and LoKr, which may not show it."""
        return self.tensors["down"].dim() == 4 if "down" in self.tensors else None

    def delta(self, scale: float | None = None, kernel: tuple[int, ...] = ()) -> WeightDelta:
        """The change they make.

        Args:
            scale: Multiplies dW in place of alpha / rank; None where the file says all itself.
            kernel: Height and width of the kernel of a convolution, which LoHa and LoKr do not show.

        Raises:
            BadLora: A part is missing or too many, or shapes do not belong together.
        """
        tensors = {name: tensor.float() for name, tensor in self.tensors.items()}
        alpha = self._alpha(tensors.pop("alpha", None))
        if alpha is not None and scale is not None:
            raise BadLora(f"{self.stem} has its scale twice, in alpha and in peft's config. Remove one.")
        try:
            norms = {name: tensors.pop(name) for name in ("magnitude", "dora_scale") if name in tensors}
            if any(name.startswith("lokr") for name in tensors):
                return _dora(replace(_lokr(tensors, alpha, scale), kernel=kernel), norms)
            if any(name.startswith("hada") for name in tensors):
                return _dora(replace(_loha(tensors, alpha, scale), kernel=kernel), norms)
            return _dora(_lora(tensors, alpha, scale), norms)
        except KeyError as missing:
            raise BadLora(
                f"{self.stem} has no {WORDS.get(str(missing.args[0]), missing.args[0])}: "
                "the file is incomplete. Export it again."
            ) from missing
        except BadLora as error:
            raise BadLora(f"{self.stem}: {error}") from error

    def _alpha(self, value: Tensor | None) -> float | None:
        if value is None:
            return None
        number = value.item() if value.numel() == 1 else math.nan
        if not math.isfinite(number):
            raise BadLora(f"{self.stem} has an alpha of {number}. Export it again.")
        return number


WORDS = {"down": "lora_A (lora_down)", "up": "lora_B (lora_up)"}


def group_by_module(flat: Mapping[str, Tensor]) -> list[ModuleTensors]:
    """The tensors of a file by module, in the order of the file, less those beside the factors.

    Raises:
        BadLora: A tensor is none that an adapter has, or there twice; or the adapter is of a kind that is not
            read, which the message names.
    """
    modules: dict[str, dict[str, Tensor]] = {}
    _refuse_control(flat)
    for key, tensor in flat.items():
        if _unread_kind(key):
            continue
        for pattern, reason in UNREADABLE:
            if re.search(pattern, key):
                raise BadLora(f"{key} {reason}. Limner does not read that kind: use the tool that wrote it.")
        stem, part = _split(key)
        parts = modules.setdefault(stem, {})
        if part in parts:
            raise BadLora(
                f"{stem} has its {part} twice, the second as {key}: two LoRAs in one file. Split them."
            )
        parts[part] = tensor
    if not modules:
        kinds = " and ".join(sorted({_unread_kind(key) for key in flat}))
        raise BadLora(f"It holds {kinds} and no factors: it is no LoRA. Use the tool that wrote it.")
    return [ModuleTensors(stem, parts) for stem, parts in modules.items()]


def stems(names: Iterable[str]) -> set[str]:
    """The modules that tensors of these names belong to.

    Raises:
        BadLora: A name is none that an adapter has.
    """
    return {_split(key)[0] for key in names if not _unread_kind(key)}


def _refuse_control(flat: Mapping[str, Tensor]) -> None:
    """A control LoRA of FLUX.1 (Depth, Canny) widens the image input by a control image, and trains norms."""
    wide = any(
        key.endswith("img_in.lora_A.weight") and tensor.shape[1] == 128 for key, tensor in flat.items()
    )
    if wide and any(key.endswith(".norm.key_norm.scale") for key in flat):
        raise BadLora(
            "It is a control LoRA of FLUX.1 (Depth, Canny), which reads a control image beside the noise: "
            "Limner has none to give. Use it in ComfyUI, or with diffusers' FluxControlPipeline."
        )


def unread(flat: Mapping[str, Tensor]) -> tuple[str, ...]:
    """What stands beside the factors and is not read, one sentence for each kind."""
    kinds = Counter(kind for key in flat if (kind := _unread_kind(key)))
    return tuple(f"{count} tensors are {kind}, which are not read." for kind, count in kinds.items())


def _unread_kind(key: str) -> str:
    """The kind of a tensor that may stand beside factors; "" for any other."""
    return next((kind for pattern, kind in UNREAD_KINDS if re.search(pattern, key)), "")


def _split(key: str) -> tuple[str, str]:
    for pattern, part in ENDINGS:
        for ending in pattern.finditer(key):
            if ending.end() == len(key) and ending.start():
                return key[: ending.start()], part or ending[1]
    raise BadLora(
        f"{key} does not end as a tensor of an adapter does (lora_A.weight ..). Is this a LoRA file?"
    )


def _only(tensors: dict[str, Tensor], *names: str) -> None:
    if extra := sorted(tensors.keys() - set(names)):
        raise BadLora(f"it has {' and '.join(extra)} besides. Export it again.")


def _lora(tensors: dict[str, Tensor], alpha: float | None, scale: float | None) -> Factors:
    _only(tensors, "down", "up", "mid")
    down, up = tensors["down"], tensors["up"]
    if "mid" in tensors:
        down = _through(tensors["mid"], down)
    if down.dim() == 4 and up.dim() == 2:
        up = up[..., None, None]
    return Factors(down, up * (_ratio(alpha, down.shape[0]) if scale is None else scale))


def _dora(factors: Factors | Loha | Lokr, norms: Mapping[str, Tensor]) -> WeightDelta:
    """The change with its norms, by peft's name or LyCORIS'; without any it is no DoRA."""
    if "magnitude" in norms:
        return Dora(factors, norms["magnitude"].flatten(), "out")
    if "dora_scale" not in norms:
        return factors
    scale, height = norms["dora_scale"], factors.shape[0]
    width = factors.shape[1] // math.prod(kernel_of(factors))
    shape = tuple(scale.shape)
    if scale.dim() > 1 and shape[0] == 1 and scale.numel() == width:
        return Dora(factors, scale.flatten(), "in")
    if shape[0] == height == scale.numel():
        return Dora(factors, scale.flatten(), "out")
    raise BadLora(f"dora_scale {shape} is neither ({height}, 1) nor (1, {width}). Export again.")


def _ratio(alpha: float | None, rank: int) -> float:
    return 1.0 if alpha is None else alpha / rank


def _through(mid: Tensor, down: Tensor) -> Tensor:
    """A 1 x 1 convolution and one after it, as one."""
    if mid.dim() != 4 or down.flatten(1).shape[1] != down.shape[1] or mid.shape[1] != down.shape[0]:
        raise BadLora(
            f"lora_mid {tuple(mid.shape)} does not follow lora_down {tuple(down.shape)}. Export again."
        )
    return torch.einsum("rshw,si->rihw", mid, down.flatten(1)).contiguous()


def _loha(tensors: dict[str, Tensor], alpha: float | None, scale: float | None) -> Loha:
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    _only(tensors, *names)
    w1_a, w1_b, w2_a, w2_b = (tensors[name] for name in names)
    scale = _ratio(alpha, w1_b.shape[0]) if scale is None else scale
    return Loha(w1_a * scale, w1_b, w2_a, w2_b)


def _lokr(tensors: dict[str, Tensor], alpha: float | None, scale: float | None) -> Lokr:
    _only(tensors, *(f"lokr_w{n}{side}" for n in (1, 2) for side in ("", "_a", "_b")))
    sides = [_side(tensors, name) for name in ("lokr_w1", "lokr_w2")]
    lokr = Lokr(sides[0], sides[1])
    ratio = scale if scale is not None else 1.0 if lokr.dim is None else _ratio(alpha, lokr.dim)
    first, *factors = lokr.w1
    return Lokr((first * ratio, *factors), lokr.w2)


def _side(tensors: dict[str, Tensor], name: str) -> tuple[Tensor, ...]:
    if name in tensors:
        _only({key: value for key, value in tensors.items() if key.startswith(name)}, name)
        return (tensors[name],)
    return tensors[f"{name}_a"], tensors[f"{name}_b"]


def encode(change: WeightDelta, *, peft: bool, norms: Axis | None = None) -> dict[str, Tensor]:
    """The tensors of a change by ending, its scale baked in.

    Args:
        change: Any kind.
        peft: lora_A and lora_B without alpha, as peft has them; else lora_down, lora_up and alpha = rank.
        norms: The axis of a DoRA's norms that the reader computes: peft's word for "out", LyCORIS' for "in".
            Left out: that of the form.

    Raises:
        BadLora: A DoRA has its norms along the other axis.
    """
    match change:
        case Factors():
            if peft:
                return {"lora_A.weight": change.down, "lora_B.weight": change.up}
            return {
                "lora_down.weight": change.down,
                "lora_up.weight": change.up,
                "alpha": _number(change.rank),
            }
        case Dora():
            return encode(change.factors, peft=peft) | _magnitude(change, norms or ("out" if peft else "in"))
        case Loha():
            first = {"hada_w1_a": change.w1_a, "hada_w1_b": change.w1_b}
            return first | {
                "hada_w2_a": change.w2_a,
                "hada_w2_b": change.w2_b,
                "alpha": _number(change.rank),
            }
        case LokrRows():
            return encode(change.unfused(), peft=peft)
        case Lokr():
            tensors = {}
            for name, side in (("lokr_w1", change.w1), ("lokr_w2", change.w2)):
                tensors |= {name: side[0]} if len(side) == 1 else {f"{name}_a": side[0], f"{name}_b": side[1]}
            # of two whole matrices alpha means nothing, but LyCORIS' own reader asks for one
            return tensors if peft else tensors | {"alpha": _number(change.dim or 1)}


def _magnitude(change: Dora, norms: Axis) -> dict[str, Tensor]:
    if norms == change.axis == "out":
        return {MAGNITUDE: change.magnitude}
    if norms == change.axis == "in":
        return {"dora_scale": change.magnitude.reshape(1, -1, *[1] * len(kernel_of(change.factors)))}
    raise BadLora(
        f"This DoRA has its norms along '{change.axis}', and the form wanted has them along the other axis. "
        "Give the base with --base to make a plain LoRA of it, or merge it into the base."
    )


def _number(value: int) -> Tensor:
    return torch.tensor(float(value))
