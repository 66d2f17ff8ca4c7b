"""The stock pipeline of a base with LoRAs in it, loaded exactly as other tools load them."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from limner.assembly.assemble import DTYPES
from limner.assembly.base import fp16_of
from limner.assembly.resolve import device_of, precision_of
from limner.errors import BadBase, first_line
from limner.imports import hush
from limner.lora import diffusers_loader
from limner.models.facts import is_tokenizer
from limner.models.family import Family, SamplingParams
from limner.models.loading import LOAD_ERRORS, library_model, load, skeleton
from limner.models.registry import families
from limner.models.sampling import pipeline_class_of, put_together, sampler
from limner.models.source import Source
from limner.nn.memory.offload import in_fp32


@contextmanager
def refusing(source: Source) -> Iterator[None]:
    """Say in a line that a base cannot compute: its configs fit its weights and not each other.

    Raises:
        BadBase: It cannot.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except LOAD_ERRORS as error:
        raise BadBase(f"{source.name} cannot generate: {first_line(error)}. {source.again}") from error


def pipeline(
    family: Family,
    source: Source,
    loras: Mapping[str, Path] = MappingProxyType({}),
    overrides: Mapping[str, Any] | None = None,
) -> Any:
    """The stock pipeline of a base with LoRAs in it, each at full strength, all on the best device here.

    Args:
        family: The family of the base.
        source: The base.
        loras: Name of an adapter -> its file. What they do adds up.
        overrides: Settings of the sampler, over those of its config.
    """
    device = device_of("auto")
    pipe = on_host(family, source, overrides).to(device)
    for name, path in loras.items():
        diffusers_loader.load(pipe, path, name)
    if loras:
        set_strengths(pipe, dict.fromkeys(loras, 1.0))
    return pipe.to(device)


def on_host(family: Family, source: Source, overrides: Mapping[str, Any] | None = None) -> Any:
    """The stock pipeline of a base, in the precision of the best device here, on the host.

    Raises:
        BadBase: It cannot be loaded.
    """
    hush()
    device = device_of("auto")
    dtype = DTYPES[precision_of("auto", device, fp16=fp16_of(source))]
    for part in family.parts:
        source.weights(part)
    dtypes = {"vae": torch.float32} if dtype == torch.float16 else {}
    try:
        # part by part, as the pipeline's own loader goes on with random numbers where tensors are missing
        models = {
            part: library_model(family, source, part, dtypes.get(part, dtype))
            for part in family.parts
            if not is_tokenizer(part)
        }
        pipe = _with_tokenizers(family, source, models)
    except torch.OutOfMemoryError:  # the files are whole
        raise
    except LOAD_ERRORS as error:
        for part in family.parts:
            if not is_tokenizer(part):
                skeleton(family, source, part, dtype=torch.float32)  # a config that means nothing is named
        raise BadBase(f"{source.name} cannot be loaded: {first_line(error)}. {source.again}") from error
    if dtype == torch.float16:  # SDXL's autoencoder overflows in it
        pipe.vae.decode = in_fp32(pipe.vae.decode)
    if overrides:
        pipe.scheduler = sampler(source, overrides)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _with_tokenizers(family: Family, source: Source, models: Mapping[str, Any]) -> Any:
    """The stock pipeline on models that are there, with its sampler and tokenizers from the base."""

    def loaded(parts: Iterable[str]) -> dict[str, Any]:
        return {part: load(family, source, part, dtype=torch.float32, device=CPU) for part in parts}

    processors = families()[family.name].processors  # which want packages to read images with
    if family.pipeline_class:
        tokenizers = loaded(filter(is_tokenizer, family.parts))
        return put_together(family, source, {**models, **tokenizers}, {})
    if family.processors:
        tokenizers = loaded(processors)
        stand_ins = {part: make(tokenizers[part]) for part, make in family.processors.items()}
        return put_together(family, source, {**models, **stand_ins}, {})
    unread_parts = set(source.parts_listed) - {*family.parts, "scheduler"}
    absent = {*family.unused_parts, *unread_parts, *processors}
    pipe = pipeline_class_of(family).from_pretrained(
        source.root,
        local_files_only=True,
        **models,
        **dict.fromkeys(absent),  # a name of a class in the index loads nothing
    )
    pipe.register_modules(**loaded(processors))
    return pipe


CPU = torch.device("cpu")
BATCH_PIXELS = 512 * 512
"""Of pictures that are computed at once: a batch takes no more memory than one picture of most bases."""


def batch_size(params: SamplingParams, family: Family) -> int:
    """How many pictures may be computed at once: of large ones, one."""
    if params.controls or family.one_prompt:
        return 1
    return max(1, BATCH_PIXELS // (params.width * params.height))


def batch_kwargs(prompts: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the stock pipeline for several prompts.

    Args:
        prompts: Of each picture.
        options: How they are sampled.
    """
    negative = options.get("negative_prompt")
    texts = {"negative_prompt": [negative] * len(prompts)} if isinstance(negative, str) else {}
    return {"prompt": list(prompts), **options, **texts}


def set_strengths(pipe: Any, strengths: Mapping[str, float]) -> None:
    """Have a pipeline sample with these adapters and no others; all its models, text encoders included.

    Args:
        pipe: From :func:`pipeline`.
        strengths: Name of an adapter -> strength. At 0 it is left out, so that the base is what it was.
    """
    scales = {name: strength for name, strength in strengths.items() if strength}
    for model in pipe.components.values():
        if isinstance(model, nn.Module):
            diffusers_loader.activate(model, scales)


def drop_adapters(pipe: Any, names: Collection[str]) -> None:
    """Take adapters out of a pipeline for good, so that it is as if they had never been loaded.

    Args:
        pipe: From :func:`pipeline`.
        names: Of the adapters; those that are not there are passed over.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for model in pipe.components.values():
        for layer in model.modules() if isinstance(model, nn.Module) else ():
            if isinstance(layer, BaseTunerLayer):
                for name in names:
                    layer.delete_adapter(name)
        for name in names:
            getattr(model, "peft_config", {}).pop(name, None)
