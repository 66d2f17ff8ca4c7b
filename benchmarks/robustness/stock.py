"""Stock diffusers' ``load_lora_weights``, run on models of true widths without weights."""

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from limner.errors import BadLora
from limner.lora import file
from limner.lora.adapters import Dora, Lokr, WeightDelta
from limner.lora.detection import split
from limner.lora.factors import Factors
from limner.models.bundled import known
from limner.models.key_map import FamilyKeys, KeyStyle
from limner.models.registry import family_of

BASES = {
    "flux": "flux-dev",
    "chroma": "chroma1-hd",
    "flux2": "flux2-klein-4b",
    "krea2": "krea2",
    "qwen-image": "qwen-image",
    "sd15": "sd15",
    "sd3": "sd35-medium",
    "sdxl": "sdxl",
    "z-image": "z-image",
}
"""Family -> the base whose widths its model has."""
CLIP = {"num_hidden_layers": 1, "hidden_size": 768, "intermediate_size": 3072}
SMALL = {"num_layers": 1, "num_single_layers": 1, "n_layers": 1, "n_refiner_layers": 1}
"""How many blocks a model has here, by the entries of configs."""
ADAPTER = "default_0"
"""What diffusers calls the first adapter."""


@cache
def _models(family: str) -> dict[str, nn.Module]:
    """The parts that take LoRAs, of true widths; each weight is one zero, expanded."""
    source = known(BASES[family])
    kinds = family_of(source.index["_class_name"])
    config = {**source.config(kinds.denoiser)}
    config |= {key: value for key, value in SMALL.items() if key in config}
    with torch.device("meta"):
        cls = getattr(diffusers, source.index[kinds.denoiser][1])
        models: dict[str, nn.Module] = {kinds.denoiser: cls.from_config(config)}
        if "text_encoder" in getattr(diffusers, kinds.pipeline)._lora_loadable_modules:
            models["text_encoder"] = CLIPTextModel(CLIPTextConfig(**CLIP))
    for model in models.values():
        for layer in model.modules():
            for name, value in list(layer.named_parameters(recurse=False)):
                zeros = torch.zeros(()).expand(value.shape)  # on meta peft would leave its own there too
                setattr(layer, name, nn.Parameter(zeros, requires_grad=False))
            for name, value in list(layer.named_buffers(recurse=False)):
                setattr(layer, name, torch.zeros(value.shape, dtype=value.dtype))
    return models


def _copied(model: nn.Module) -> nn.Module:
    """The same, to put layers into; the weights are shared."""
    return copy.deepcopy(model, {id(value): value for value in model.parameters()})


def shapes(names: FamilyKeys) -> dict[str, tuple[int, ...]]:
    """Layer of the denoiser in diffusers' names -> shape of its weight."""
    model = _models(names.family)[names.component]
    layers = (nn.Linear, nn.Conv2d)
    return {n: tuple(m.weight.shape) for n, m in model.named_modules() if isinstance(m, layers)}


def pipeline(names: FamilyKeys) -> Any:
    """A stock pipeline with those parts alone, and no adapter."""
    stock: Any = getattr(diffusers, names.pipelines[0])
    bare: Any = type(stock.__name__, (stock,), {"components": {}, "hf_device_map": None})
    pipe = object.__new__(bare)
    for part in ("text_encoder", "text_encoder_2"):
        vars(pipe)[part] = None
    vars(pipe).update({part: _copied(model) for part, model in _models(names.family).items()})
    return pipe


def loaded(path: Path, names: FamilyKeys) -> dict[str, dict[str, WeightDelta]]:
    """What stock diffusers puts into its models of a file.

    Raises:
        BadLora: It raises, or leaves adapters without numbers.
    """
    pipe = pipeline(names)
    try:
        with quiet():
            pipe.load_lora_weights(str(path), use_safetensors=True, local_files_only=True)
    except Exception as error:  # noqa: BLE001  stock loaders raise anything
        raise BadLora(f"{type(error).__name__}: {str(error)[:200]}") from error
    return {
        part: adapter
        for part in _models(names.family)
        if (adapter := adapters(vars(pipe)[part], names if part == names.component else None))
    }


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing that diffusers warns of is printed."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def adapters(model: nn.Module, names: FamilyKeys | None) -> dict[str, WeightDelta]:
    """The changes that peft's layers of a model make, by diffusers' names.

    Raises:
        BadLora: A layer has no numbers, being on meta still.
    """
    result: dict[str, WeightDelta] = {}
    for name, layer in model.named_modules():
        sides = {key: getattr(layer, key)[ADAPTER] for key in SIDES if ADAPTER in getattr(layer, key, ())}
        if not sides:
            continue
        tensors = {key: _tensor(side) for key, side in sides.items()}
        if meta_keys := [key for key, tensor in tensors.items() if tensor.is_meta]:
            raise BadLora(f"{name} has its {meta_keys[0]} on meta.")
        change = _change(tensors, float(vars(layer)["scaling"][ADAPTER]))
        match = names.table.find(name, KeyStyle("", "diffusers")) if names else None
        if match and match.member is None:
            parts = zip(match.modules, split(match.row, change), strict=True)
            result |= {module: part for module, part in parts if part is not None}
        else:
            result[name] = change
    return result


SIDES = (
    *("lora_A", "lora_B", "lora_magnitude_vector"),
    *(f"lokr_w{n}{side}" for n in (1, 2) for side in ("", "_a", "_b")),
)


def _tensor(side: Any) -> Tensor:
    value = side if isinstance(side, Tensor) else side.weight
    return value.detach().float()


def _change(tensors: Mapping[str, Tensor], scale: float) -> WeightDelta:
    if "lora_A" in tensors:
        factors = Factors(tensors["lora_A"], tensors["lora_B"] * scale)
        norms = tensors.get("lora_magnitude_vector")
        return factors if norms is None else Dora(factors, norms.flatten(), "out")
    sides = [
        (tensors[key],) if key in tensors else (tensors[f"{key}_a"], tensors[f"{key}_b"])
        for key in ("lokr_w1", "lokr_w2")
    ]
    return Lokr((sides[0][0] * scale, *sides[0][1:]), sides[1])


def outcome_of(path: Path, names: FamilyKeys, expected: file.LoraFile) -> str:
    """What stock diffusers does with a file: "yes", or what is not as it should be."""
    try:
        file.require_equal(path.name, "diffusers", loaded(path, names), expected.components, expected.dtype)
    except BadLora as error:
        return str(error)
    return "yes"
