"""Pictures during training: the stock pipeline of a base, fed with texts that are encoded already."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from limner.models.family import Canvas, Family
from limner.models.scheduler import sampler
from limner.models.source import Source
from limner.nn.padding import pad_collate


def paint(
    family: Family,
    source: Source,
    models: Mapping[str, Any],
    prompts: Sequence[Mapping[str, Tensor]],
    blank: Mapping[str, Tensor],
    canvas: Canvas,
) -> list[Image.Image]:
    """One picture for each prompt, each from its own seed: ``canvas.seed`` and those after it.

    Args:
        family: The family of the base.
        source: The base.
        models: The denoiser and the ``vae``; others are passed over.
        prompts: For each picture the values named in ``family.text``, batch size 1.
        blank: The same values of the empty prompt, which guidance leads away from.
        canvas: Size, steps, guidance.
    """
    pipe = _pipeline(family, source, models, canvas)
    chosen = family.pipeline_kwargs(source, canvas)
    chosen.pop("negative_prompt", None)
    out: list[Image.Image] = []
    count = at_once(canvas)
    for start in range(0, len(prompts), count):
        some = prompts[start : start + count]
        away = {f"negative_{name}": v for name, v in _embeds(family, [blank] * len(some)).items()}
        seeds = range(canvas.seed + start, canvas.seed + start + len(some))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        out += pipe(**_embeds(family, some), **away, **chosen, generator=generators).images
    return out


def at_once(canvas: Canvas) -> int:
    """How many pictures are painted together."""
    return max(1, min(16, 512 * 512 // (canvas.width * canvas.height)))


def _pipeline(family: Family, source: Source, models: Mapping[str, Any], canvas: Canvas) -> Any:
    """The stock pipeline without tokenizers and text encoders."""
    import diffusers  # takes half a second to load

    here = {name: models[name] for name in ("vae", family.denoiser)}
    flags = {name: value for name, value in source.index.items() if isinstance(value, bool)}
    stock: Any = getattr(diffusers, family.pipeline)  # its annotations forbid the None that it accepts
    pipe = stock(
        scheduler=sampler(source, canvas.sampler),
        **{name: here.get(name) for name in (*family.parts, *family.unused_parts)},
        **flags,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _embeds(family: Family, texts: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
    return dict(
        family.prompt_kwargs({name: pad_collate([each[name] for each in texts]) for name in family.text})
    )
