"""A written file seen by stock diffusers: what of it has an effect there, and is it right?"""

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from limner.errors import BadLora
from limner.lora.adapters import Dora, WeightDelta, to_lora
from limner.lora.factors import Factors, rename_for_model
from limner.lora.file import Components, read, require_equal
from limner.lora.formats import from_diffusers, to_diffusers
from limner.models.registry import facts_of, lora_keys


@dataclass(frozen=True)
class LoadReport:
    """What the stock pipeline makes of a file."""

    loaded_modules: dict[str, int]
    """Component -> modules that it will change."""
    ignored_modules: dict[str, int]
    """Component -> modules that it passes over without a word."""
    error: float
    """Largest relative error of a module's product with a random vector."""

    ambiguous: tuple[str, ...] = ()
    """Modules of the base that the stock loader mistakes for ones in the file, and then says so."""

    def advice(self) -> str:
        """What to tell the person of all that will not go as expected, in one line; "" when nothing is."""
        ignored_lines = (
            f"diffusers' load_lora_weights passes over the {count} modules of {name}, as do most tools: "
            f"`limner generate` uses them; in diffusers, call pipe.{name}.load_adapter yourself."
            for name, count in self.ignored_modules.items()
        )
        warnings = (
            f"diffusers will warn of {name}, which ends in the name of a trained module. "
            "The result is right; train both to be rid of the warning."
            for name in self.ambiguous[:1]
        )
        return " ".join((*ignored_lines, *warnings))


def verify(
    path: Path,
    components: Components,
    pipeline: str | type,
    modules: Mapping[str, Collection[str]] | None = None,
    flat: Mapping[str, Tensor] | None = None,
) -> LoadReport:
    """Read ``path`` by the rules of a stock diffusers pipeline and compare it with what should be in it.

    Compares the set of modules, and for each module the product of its change with a random vector.

    Args:
        path: The written file.
        components: What was written.
        pipeline: The diffusers class that people will load it with, or its name.
        modules: Component -> names of all its modules, to look for names that diffusers confuses.
        flat: The tensors to look at in place of the file's.

    Raises:
        BadLora: The pipeline would read other modules or other numbers, or nothing at all.
    """
    import diffusers

    pipeline_class: Any = getattr(diffusers, pipeline) if isinstance(pipeline, str) else pipeline
    reader = pipeline_class.__name__
    flat, alphas, settings = state(pipeline_class, path if flat is None else flat)
    if alphas or settings:
        raise BadLora(
            f"{path}: {reader} finds scales beside the factors; they must be baked in. Export again."
        )
    components_read = from_diffusers(flat)
    dtype = next(tensor.dtype for tensor in flat.values() if tensor.dim() > 1)
    error = require_equal(str(path), reader, components_read, components, dtype)
    loadable = pipeline_class._lora_loadable_modules
    counts = {component: len(adapter) for component, adapter in components_read.items()}
    loaded_modules = {component: count for component, count in counts.items() if component in loadable}
    if not loaded_modules:
        raise BadLora(
            f"{path} changes only {', '.join(counts)}, which {reader} passes over. Train {loadable[0]} too."
        )
    return LoadReport(
        loaded_modules,
        {component: count for component, count in counts.items() if component not in loadable},
        error,
        _ambiguous(components_read, modules or {}),
    )


@contextmanager
def importer_errors() -> Iterator[None]:
    """Turn what stock importers raise into ``BadLora``: they check little, so it may be anything.

    What they warn of is not printed: who asks is told by the error, or by what is missing.
    """
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        NameError,
        RuntimeError,
        StopIteration,
        TypeError,
        ValueError,
    ) as error:
        raise BadLora(f"diffusers' importer fails with {type(error).__name__}.") from error
    finally:
        logging.set_verbosity(level)


def require_lokr(path: Path, flat: Mapping[str, Tensor]) -> None:
    """Raise ``BadLora`` unless diffusers would make layers of the shapes in the file.

    A LoKr's file does not say how its weights were factored. diffusers looks for one number that peft would
    have factored all of them by (``_create_lokr_config``); by the rank, peft decides which sides are in two.
    """
    from diffusers.utils.peft_utils import _create_lokr_config
    from peft.tuners.lokr.layer import factorization

    modules: dict[str, dict[str, Tensor]] = {}
    for key, tensor in flat.items():
        stem, _, ending = key.rpartition(".")
        modules.setdefault(stem, {})[ending] = tensor
    try:
        config: Any = _create_lokr_config(dict(flat), None)
    except ValueError as error:
        raise BadLora(
            f"{path.name}: diffusers finds no decompose_factor that all {len(modules)} LoKr modules share. "
            "Use --flatten."
        ) from error
    for stem, sides in modules.items():
        rank = config.rank_pattern.get(stem, config.r)
        w1, w2 = (_shape(sides, name) for name in ("lokr_w1", "lokr_w2"))
        heights = factorization(w1[0] * w2[0], config.decompose_factor)
        widths = factorization(w1[1] * w2[1], config.decompose_factor)
        expected = (
            config.decompose_both and rank < max(heights[0], widths[0]) / 2,
            rank < max(heights[1], widths[1]) / 2,
        )
        if expected != ("lokr_w1_a" in sides, "lokr_w2_a" in sides):
            raise BadLora(
                f"{path.name}: diffusers would make other factors for {stem} at rank {rank}. Use --flatten."
            )


def _shape(sides: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    whole = sides.get(name)
    if whole is not None:
        return whole.shape[0], whole.shape[1]
    return sides[f"{name}_a"].shape[0], sides[f"{name}_b"].shape[1]


def state(
    pipeline: Any, file: Path | Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """What a stock pipeline's class makes of a file: tensors in diffusers' names, alphas, settings.

    Args:
        pipeline: The class.
        file: A path, or the tensors themselves.

    Raises:
        BadLora: The importer fails.
    """
    from diffusers.loaders import StableDiffusionXLLoraLoaderMixin

    source = str(file) if isinstance(file, Path) else dict(file)
    # The number of residual blocks per level, by which the authors' names of a U-Net are told apart: the only
    # ``load_lora_weights`` that hands it on is that of SDXL.
    unet = (
        {"unet_config": SimpleNamespace(layers_per_block=2)}
        if issubclass(pipeline, StableDiffusionXLLoraLoaderMixin)
        else {}
    )
    with importer_errors():
        flat, *rest = pipeline.lora_state_dict(
            source,
            return_alphas=True,
            return_lora_metadata=True,
            use_safetensors=True,
            local_files_only=True,
            **unet,
        )
    return flat, (rest[0] if len(rest) > 1 else None) or {}, rest[-1] or {}


def _ambiguous(components: Components, modules: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """Stock loaders hand full names to peft as targets, and peft takes a target for the end of a name."""
    return tuple(
        name
        for component, names in modules.items()
        for name in names
        if name not in components.get(component, {})
        and any(name.endswith(f".{trained}") for trained in components.get(component, {}))
    )


def load(pipeline: Any, path: Path, name: str = "lora") -> LoadReport:
    """Load ``path`` into a diffusers pipeline: its own way for what it knows, and what it passes over too.

    A file of another form than diffusers' own is put into it first; LoHa and LoKr become the LoRA that they
    are. Text encoders that the pipeline ignores (T5 of FLUX.1) get theirs by transformers' ``load_adapter``.

    Args:
        pipeline: The pipeline. It may have other adapters already.
        path: The file.
        name: What the adapter is called from now on.

    Raises:
        BadLora: The file is not safe (it is read by ``limner.lora.file.read`` first) or fits another base.
    """
    lora = read(path, _family(type(pipeline).__name__))
    components = {
        name: _shaped_for(path, pipeline.components[name], adapter)
        if name in pipeline.components
        else adapter
        for name, adapter in lora.components.items()
    }
    native_form = lora.form == "diffusers" and not lora.repairs and set(lora.kinds) <= {"LoRA", "DoRA"}
    source = path if native_form else to_diffusers(components)
    report = verify(path, components, type(pipeline), flat=None if isinstance(source, Path) else source)
    source = str(source) if isinstance(source, Path) else source
    with warnings.catch_warnings():
        # of a second adapter, which is meant
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        pipeline.load_lora_weights(source, adapter_name=name, use_safetensors=True, local_files_only=True)
        for component in report.ignored_modules:
            _load_text_encoder(pipeline.components[component], components[component], name)
    return report


def activate(model: nn.Module, scales: Mapping[str, float]) -> None:
    """Have a model compute with these adapters, each at its strength, and with no others.

    Args:
        model: A component of the pipeline.
        scales: Name of an adapter -> strength; none of them leaves the base. Those it lacks are passed over.
    """
    for layer in _adapted(model).values():
        for name, scale in scales.items():
            layer.set_scale(name, scale)
        layer.set_adapter(list(scales), inference_mode=True)


def has_adapters(model: Any) -> bool:
    """Whether a component of a pipeline has adapters."""
    return isinstance(model, nn.Module) and bool(_adapted(model))


def _adapted(model: nn.Module) -> dict[str, Any]:
    """Layer -> peft's layer around it."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: layer for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)}


def _family(pipeline: str) -> str | None:
    facts = facts_of(pipeline)
    if facts:
        return facts.keys_of or facts.name
    return next((names.family for names in lora_keys().values() if pipeline in names.pipelines), None)


def _shaped_for(path: Path, model: Any, adapter: Mapping[str, WeightDelta]) -> dict[str, WeightDelta]:
    """The changes as LoRA or DoRA, in the shapes of the model's weights.

    Raises:
        BadLora: A module is not in the model, or has another shape: the loader would pass over it.
    """
    layers = {
        name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)
    } | {name: layer.get_base_layer() for name, layer in _adapted(model).items()}
    try:
        model_names = rename_for_model(adapter, layers)
    except BadLora as error:
        raise BadLora(f"{path}: {error}") from error
    fitting = {}
    for (name, change), module in zip(model_names.items(), adapter, strict=True):
        weight, shape = layers[name].weight, change.shape
        if shape != (weight.shape[0], weight[0].numel()):
            raise BadLora(
                f"{path} changes {name} as {shape[0]} x {shape[1]}, and this base has "
                f"{weight.shape[0]} x {weight[0].numel()}. Load it on the base it was trained on."
            )
        is_dora = isinstance(change, Dora)
        factors = _shaped(to_lora(change.factors if is_dora else change), weight)
        fitting[module] = Dora(factors, change.magnitude, change.axis) if is_dora else factors
    return fitting


def _shaped(factors: Factors, weight: Tensor) -> Factors:
    """Factors of a convolution that were laid flat, with its kernel again."""
    if weight.dim() == factors.down.dim():
        return factors
    return Factors(factors.down.reshape(-1, *weight.shape[1:]), factors.up[..., None, None])


def _load_text_encoder(encoder: Any, adapter: Mapping[str, WeightDelta], name: str) -> None:
    from peft import LoraConfig

    factors_by_module = {name: to_lora(change) for name, change in adapter.items()}
    names = rename_for_model(factors_by_module, {module for module, _ in encoder.named_modules()})
    ranks = {module: factors.rank for module, factors in names.items()}
    max_rank = max(ranks.values())
    config = LoraConfig(
        r=max_rank,
        lora_alpha=max_rank,
        target_modules=list(names),
        rank_pattern=ranks,
        alpha_pattern=dict(ranks),
    )
    state: dict[str, Tensor] = {}
    for module, factors in names.items():
        state[f"{module}.lora_A.weight"], state[f"{module}.lora_B.weight"] = factors.down, factors.up
    encoder.load_adapter(peft_config=config, adapter_state_dict=state, adapter_name=name)
