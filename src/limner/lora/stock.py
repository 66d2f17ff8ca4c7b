"""A written file seen by stock diffusers: what of it has an effect there, and is it right?"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limner.errors import BadLora
from limner.lora.adapter import Adapter, Factors, localise
from limner.lora.file import read
from limner.lora.formats import from_diffusers, to_diffusers

TOLERANCE = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Largest |dW' x - dW x| / |dW x| that rounding to the file's dtype explains: two factors, two units each."""


@dataclass(frozen=True)
class Verdict:
    """What the stock pipeline makes of a file."""

    loaded: dict[str, int]
    """Component -> modules that it will change."""
    ignored: dict[str, int]
    """Component -> modules that it passes over without a word."""
    error: float
    """Largest relative error of a module's product with a random vector."""

    blurred: tuple[str, ...] = ()
    """Modules of the base that the stock loader mistakes for ones in the file, and then says so."""

    def advice(self) -> str:
        """What to tell the person of all that will not go as expected, in one line; "" when nothing is."""
        passed = (
            f"diffusers' load_lora_weights passes over the {count} modules of {name}, as do most tools: "
            f"`limner generate` uses them; in diffusers, call pipe.{name}.load_adapter yourself."
            for name, count in self.ignored.items()
        )
        alike = (
            f"diffusers will warn of {name}, which ends in the name of a trained module. "
            "The result is right; train both to be rid of the warning."
            for name in self.blurred[:1]
        )
        return " ".join((*passed, *alike))


def verify(
    path: Path,
    components: Mapping[str, Adapter],
    pipeline: str | type = "FluxPipeline",
    modules: Mapping[str, Collection[str]] | None = None,
) -> Verdict:
    """Read ``path`` by the rules of a stock diffusers pipeline and compare it with what should be in it.

    Compares the set of modules, and for each module the product of its change with a random vector.

    Args:
        path: The written file.
        components: What was written.
        pipeline: The diffusers class that people will load it with, or its name.
        modules: Component -> names of all its modules, to look for names that diffusers confuses.

    Raises:
        BadLora: The pipeline would read other modules or other numbers, or nothing at all.
    """
    import diffusers

    stock: Any = getattr(diffusers, pipeline) if isinstance(pipeline, str) else pipeline
    pipeline = stock.__name__
    flat, *rest = stock.lora_state_dict(
        str(path), return_alphas=True, return_lora_metadata=True, use_safetensors=True, local_files_only=True
    )
    if any(rest):  # alphas, where the pipeline has them, and peft's own description
        raise BadLora(
            f"{path}: {pipeline} finds scales beside the factors; they must be baked in. Export again."
        )
    found, wished = from_diffusers(flat), from_diffusers(to_diffusers(components))
    missing = {(c, m) for c in wished for m in wished[c]} ^ {(c, m) for c in found for m in found[c]}
    if missing:
        component, module = sorted(missing)[0]
        raise BadLora(
            f"{path}: {pipeline} reads {len(missing)} modules otherwise, the first is {component}.{module}. "
            "Export again; if it stays so, report it with your version of diffusers."
        )
    loadable = stock._lora_loadable_modules
    counts = {component: len(adapter) for component, adapter in found.items()}
    loaded = {component: count for component, count in counts.items() if component in loadable}
    if not loaded:
        raise BadLora(
            f"{path} changes only {', '.join(counts)}, which {pipeline} passes over. Train {loadable[0]} too."
        )
    return Verdict(
        loaded,
        {component: count for component, count in counts.items() if component not in loadable},
        _largest_error(path, found, wished, next(iter(flat.values())).dtype),
        _blurred(found, modules or {}),
    )


def _blurred(found: Mapping[str, Adapter], modules: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """Stock loaders hand full names to peft as targets, and peft takes a target for the end of a name."""
    return tuple(
        name
        for component, names in modules.items()
        for name in names
        if name not in found.get(component, {})
        and any(name.endswith(f".{trained}") for trained in found.get(component, {}))
    )


def _largest_error(
    path: Path,
    found: Mapping[str, Adapter],
    wished: Mapping[str, Adapter],
    dtype: torch.dtype,
) -> float:
    draw = torch.Generator().manual_seed(0)
    worst = 0.0
    for component, adapter in wished.items():
        for module, factors in adapter.items():
            error = _error(found[component][module], factors, draw)
            if not error <= TOLERANCE[dtype]:
                raise BadLora(
                    f"{path}: {component}.{module} is {error:.1%} off when read as {dtype}. Write float32."
                )
            worst = max(worst, error)
    return worst


def _error(found: Factors, wished: Factors, draw: torch.Generator) -> float:
    probe = torch.randn(wished.down[0].numel(), generator=draw, dtype=torch.float64)
    if found.down[0].numel() != probe.numel() or found.up.shape[0] != wished.up.shape[0]:
        return float("inf")
    right, got = wished.times(probe), found.times(probe)
    size = right.norm().item()
    off = (got - right).norm().item()
    return off / size if size else float(off > 0)


def load(pipeline: Any, path: Path) -> Verdict:
    """Load ``path`` into a diffusers pipeline: its own way for what it knows, and what it passes over too.

    Text encoders that the pipeline ignores (T5 of FLUX.1) get their part from transformers' ``load_adapter``.

    Raises:
        BadLora: The file is not safe (it is read by ``limner.lora.file.read`` first) or fits another base.
    """
    components = read(path).components
    verdict = verify(path, components, type(pipeline))
    for component, adapter in components.items():
        _require_fit(path, pipeline.components[component], adapter)
    pipeline.load_lora_weights(str(path), use_safetensors=True, local_files_only=True)
    for component in verdict.ignored:
        _load_text_encoder(pipeline.components[component], component, components[component])
    return verdict


def _require_fit(path: Path, model: Any, adapter: Adapter) -> None:
    """Raise ``BadLora`` unless every module is in the model with its shape: the loader would pass over it."""
    layers = {name: each for name, each in model.named_modules() if isinstance(each, nn.Linear | nn.Conv2d)}
    try:
        named = localise(adapter, layers)
    except BadLora as error:
        raise BadLora(f"{path}: {error}") from error
    for name, factors in named.items():
        weight, change = layers[name].weight, (factors.up.shape[0], factors.down.shape[1])
        if tuple(weight.shape[:2]) != change:
            raise BadLora(
                f"{path} changes {name} as {change[0]} x {change[1]}, and this base has "
                f"{weight.shape[0]} x {weight.shape[1]}. Load it on the base it was trained on."
            )


def _load_text_encoder(encoder: Any, component: str, adapter: Adapter) -> None:
    from peft import LoraConfig

    names = localise(adapter, {name for name, _ in encoder.named_modules()})
    ranks = {name: factors.rank for name, factors in names.items()}
    most = max(ranks.values())
    setting = LoraConfig(
        r=most, lora_alpha=most, target_modules=list(names), rank_pattern=ranks, alpha_pattern=dict(ranks)
    )
    state: dict[str, Tensor] = {}
    for name, factors in names.items():
        state[f"{name}.lora_A.weight"], state[f"{name}.lora_B.weight"] = factors.down, factors.up
    encoder.load_adapter(peft_config=setting, adapter_state_dict=state)
