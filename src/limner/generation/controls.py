"""Control images of ``generate``: what an edit model is shown beside a prompt."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from limner.assembly.base import shape_at
from limner.data.images import read_image
from limner.errors import BadUsage
from limner.generation.settings import Settings
from limner.graph.unit import Unit
from limner.models.facts import Objective
from limner.models.family import Controls, Family
from limner.models.registry import families
from limner.models.source import Source


def require_controls(family: Family, settings: Settings) -> None:
    """Raise ``BadUsage`` unless there are as many control images as the base reads, and each is a file."""
    minimum, maximum = families()[family.name].controls
    count = len(settings.controls)
    if count and not maximum:
        raise BadUsage(
            f"--image is {settings.controls[0]}, and {family.name} reads no control image. Remove it."
        )
    if count < minimum:
        raise BadUsage(f"{family.name} is an edit model. Say what to edit: --image FILE.")
    if count > maximum:
        raise BadUsage(f"There are {count} images, and {family.name} reads at most {maximum}. Name fewer.")
    for path in settings.controls:
        if not path.is_file():
            raise BadUsage(f"--image is {path}, and there is no such file. Check the path.")


def shown_images(family: Family, resolution: int, files: Sequence[Path]) -> tuple[Image.Image, ...]:
    """Control images as the stock pipeline is given them.

    Args:
        family: Of the base.
        resolution: Side in pixels of the square that the base was made for.
        files: At most as many as the family reads.

    Raises:
        BadImage: A file cannot be read, or the base cannot read one of its size.
    """
    if not files or not family.controls:
        return ()
    return family.controls.shown(resolution, _read(family.controls, resolution, files))


def _read(controls: Controls, resolution: int, files: Sequence[Path]) -> list[Image.Image]:
    fit = next(iter(controls.fits(resolution).values()))
    images = [read_image(path) for path in files]
    for path, image in zip(files, images, strict=True):
        fit.require(path, *image.size)
    return images


@torch.no_grad()
def prompt_kwargs(  # noqa: PLR0913  what a prompt is read with
    family: Family, source: Source, pipe: Any, prompt: str, options: Mapping[str, Any], files: Sequence[Path]
) -> dict[str, Any]:
    """Arguments of the stock pipeline: ``options`` and a prompt; or what the family reads of it.

    Args:
        family: Of the base.
        source: The base.
        pipe: The stock pipeline.
        prompt: The prompt.
        options: The other arguments, a negative prompt among them.
        files: Control images.
    """
    if not family.controls or not family.controls.text_by_units:
        return {"prompt": prompt, **options}
    images = _read(family.controls, shape_at(source, family).resolution, files)
    units = [unit for unit in family.bound(source, Objective(), len(files)) if not unit.draws]
    inputs = family.controls.tensors(shape_at(source, family).resolution, images)
    kwargs = {name: value for name, value in options.items() if name != "negative_prompt"}
    for prefix, text in (("", prompt), ("negative_", options.get("negative_prompt"))):
        if text is not None:
            values = _texts(units, pipe, {"caption": (text,), **inputs})
            kwargs |= {f"{prefix}{key}": value for key, value in family.prompt_kwargs(values).items()}
    return kwargs


def _texts(units: Sequence[Unit], pipe: Any, values: dict[str, Any]) -> dict[str, Any]:
    """``values`` and what the units that read text make of them, on the pipeline's device."""
    texts = {"caption"}
    for unit in units:
        if texts & set(unit.reads) and set(unit.reads) <= set(values):
            texts |= set(unit.writes)
            inputs = {name: values[name] for name in unit.reads}
            inputs = {
                name: value.to(pipe._execution_device) if isinstance(value, Tensor) else value
                for name, value in inputs.items()
            }
            values |= unit.run(pipe.components, inputs)
    return values
