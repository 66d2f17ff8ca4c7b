"""Pictures during training: the stock pipeline of a base, fed with texts that are encoded already."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from limner.models.family import Family, SamplingParams
from limner.models.guidance import Select, by_branch
from limner.models.scheduler import sampler
from limner.models.source import Source
from limner.nn.batch import pad_collate


def sample_images(
    family: Family,
    source: Source,
    models: Mapping[str, Any],
    prompts: Sequence[Mapping[str, Tensor]],
    empty_prompt: Mapping[str, Tensor],
    params: SamplingParams,
    select: Select | None = None,
) -> list[Image.Image]:
    """One picture for each prompt, each from its own seed: ``params.seed`` and those after it.

    Args:
        family: The family of the base.
        source: The base.
        models: The denoiser and the ``vae``; others are passed over.
        prompts: For each picture the values named in ``family.text``, batch size 1.
        empty_prompt: The same values of the empty prompt, which guidance leads away from.
        params: Size, steps, guidance.
        select: Where the branches of guidance differ in the denoiser's adapters: gives it those of a branch.
    """
    branches = by_branch(family.guidance, models[family.denoiser], (), select) if select else nullcontext()
    with branches:
        return list(_images(family, source, models, prompts, empty_prompt, params))


def _images(  # noqa: PLR0913  as above
    family: Family,
    source: Source,
    models: Mapping[str, Any],
    prompts: Sequence[Mapping[str, Tensor]],
    empty_prompt: Mapping[str, Tensor],
    params: SamplingParams,
) -> Iterator[Image.Image]:
    pipe = _pipeline(family, source, models, params)
    options = family.pipeline_kwargs(source, params)
    options.pop("negative_prompt", None)
    count = batch_size(params)
    for start in range(0, len(prompts), count):
        texts = prompts[start : start + count]
        positives, negatives = _embeds(family, texts, [empty_prompt] * len(texts))
        negatives = {f"negative_{name}": value for name, value in negatives.items()}
        seeds = range(params.seed + start, params.seed + start + len(texts))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        yield from pipe(**positives, **negatives, **options, generator=generators).images


def batch_size(params: SamplingParams) -> int:
    """How many pictures are painted together."""
    return max(1, min(16, 512 * 512 // (params.width * params.height)))


def _pipeline(family: Family, source: Source, models: Mapping[str, Any], params: SamplingParams) -> Any:
    """The stock pipeline without tokenizers and text encoders."""
    import diffusers  # takes half a second to load

    components = {name: models[name] for name in ("vae", family.denoiser)}
    flags = {name: value for name, value in source.index.items() if isinstance(value, bool)}
    # Any: its annotations forbid the None that it accepts
    pipeline_class: Any = getattr(diffusers, family.pipeline)
    pipe = pipeline_class(
        scheduler=sampler(source, params.sampler),
        **{name: components.get(name) for name in (*family.parts, *family.unused_parts)},
        **flags,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _embeds(
    family: Family, prompts: Sequence[Mapping[str, Tensor]], negatives: Sequence[Mapping[str, Tensor]]
) -> list[dict[str, Any]]:
    """What the stock pipeline is given of the prompts, and of what guidance leads away from."""
    sides: list[dict[str, Tensor]] = [{}, {}]
    for name in family.text:
        rows = [[text[name] for text in texts] for texts in (prompts, negatives)]
        if family.equal_text_lengths:
            batch = pad_collate(rows[0] + rows[1])
            sides[0][name], sides[1][name] = batch[: len(prompts)], batch[len(prompts) :]
        else:
            sides[0][name], sides[1][name] = pad_collate(rows[0]), pad_collate(rows[1])
    return [dict(family.prompt_kwargs(side)) for side in sides]
