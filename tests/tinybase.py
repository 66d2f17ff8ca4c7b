"""A tiny base of a case, whole: what the tests of families and of the engine train."""

import inspect
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cases import Case
from limner.graph.unit import Unit, run, split
from limner.models.family import Family, Objective, pad_collate
from limner.models.loading import hush, load
from limner.models.registry import family_of
from limner.models.source import Source, locate
from limner.nn.layers import lora
from limner.nn.layers.adapter import LORA, AdapterKind
from limner.nn.rng import KeyedRng

DEVICE = torch.device(os.environ.get("LIMNER_TEST_DEVICE", "cpu"))
"""Where the laws of the engine are tried; "cuda" on a machine that has one."""
CAPTIONS = ("a cat, sitting on a mat", "dog")
IMAGE = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 32, 64), dtype=np.uint8))
FRAME = torch.tensor([[600, 900, 0, 1, 32, 64], [40, 80, 3, 0, 32, 64]])
PLACES = [(0, 5, 0), (0, 5, 1)]


class Base:
    """A tiny base of a case: its source, its models, the stock pipeline on the same files."""

    def __init__(self, case: Case, folder: Path) -> None:
        hush()
        self.case = case
        self.source: Source = locate(str(case.save(folder)), folders={})
        self.family: Family = family_of(case.pipeline)
        stock_class = getattr(diffusers, case.pipeline)
        self.pipe: Any = stock_class.from_pretrained(
            folder, **dict.fromkeys(self.family.unused_parts), **case.given(folder)
        )
        self.pipe.set_progress_bar_config(disable=True)
        self.pipe = case.complete(self.pipe)
        self.models = {name: self.load(name) for name in self.family.parts}

    def load(self, name: str) -> Any:
        device = DEVICE if name == self.family.denoiser else torch.device("cpu")
        return load(self.family, self.source, name, dtype=torch.float32, device=device)

    def pipe_with(self, models: Mapping[str, Any]) -> Any:
        """The stock pipeline with some of its models replaced, and all that it is told besides."""
        names = inspect.signature(type(self.pipe).__init__).parameters
        settings = {name: value for name, value in self.pipe.config.items() if name in names}
        return type(self.pipe)(**{**settings, **self.pipe.components, **models})

    def row(self, number: int) -> dict[str, Tensor]:
        """The frozen values of one image and caption."""
        given = {
            "image": IMAGE[number : number + 1],
            "frame": FRAME[number : number + 1],
            "caption": CAPTIONS[number : number + 1],
            **self.inputs(number),
        }
        cut = split(self.bound(), {self.family.denoiser: 0})
        with torch.no_grad():
            values = run(cut.frozen, self.models, given)
        return {name: values[name] for name in cut.boundary}

    def bound(self, objective: Objective | None = None) -> tuple[Unit, ...]:
        """The family's units for the control images of the case."""
        return self.family.bound(self.source, objective or self.case.objective, self.case.controls)

    def pictures(self, number: int) -> list[Image.Image]:
        """The control images of a row, as they are in their files."""
        draw = np.random.default_rng(7 + number)
        return [
            Image.fromarray(draw.integers(0, 256, (80, 96 + 16 * index, 3), dtype=np.uint8))
            for index in range(self.case.controls)
        ]

    def shown(self, number: int) -> list[Image.Image]:
        """The control images as the stock pipeline is given them."""
        controls = self.family.controls
        return (
            list(controls.shown(self.source.facts["resolution"], self.pictures(number))) if controls else []
        )

    def encode(self, pipe: Any, captions: list[str]) -> Mapping[str, Tensor]:
        """What a stock pipeline reads of captions, beside the control images of row 0."""
        return self.case.encode(pipe, captions, *([self.pictures(0)] if self.case.text_sees else []))

    def inputs(self, number: int) -> dict[str, Tensor]:
        """The control images of a row as inputs of the graph."""
        controls = self.family.controls
        return controls.tensors(self.source.facts["resolution"], self.pictures(number)) if controls else {}

    def batch(self, *numbers: int) -> dict[str, Tensor]:
        rows = [self.row(number) for number in numbers]
        ragged = self.family.padded_values
        made = {n: (pad_collate if n in ragged else torch.cat)([r[n] for r in rows]) for n in rows[0]}
        return {name: value.to(DEVICE) for name, value in made.items()}

    def moved(self, kind: AdapterKind = LORA, targets: str | tuple[str, ...] = "") -> nn.Module:
        """The denoiser with an adapter that has moved from where it began."""
        model = self.load(self.family.denoiser)
        endings = self.family.endings(self.family.denoiser, targets or self.case.targets)
        names = lora.matching(model, endings)
        lora.attach(model, names, rank=2, alpha=1, dropout=0.0, seed=1, kind=kind)
        lora.together(model)
        for number, factor in enumerate(lora.trained(model)):
            if factor.dim() > 1:  # magnitudes stay the lengths that they are
                nn.init.normal_(factor, std=0.1, generator=torch.Generator().manual_seed(number))
        return model

    def live(self, denoiser: nn.Module, values: dict[str, Tensor], places: list) -> dict[str, Tensor]:
        units = split(self.bound(), {self.family.denoiser: 0}).live
        return run(units, {**self.models, self.family.denoiser: denoiser}, values, KeyedRng(places))

    def masked(self, denoiser: nn.Module, values: dict[str, Tensor], mask: Tensor, floor: float) -> Tensor:
        """The losses of a batch, (B,), where ``mask`` (B, 1, H, W) says what counts."""
        units = self.bound(replace(self.case.objective, mask_floor=floor))
        cut = split(units, {self.family.denoiser: 0})
        models = {**self.models, self.family.denoiser: denoiser}
        weigh = [unit for unit in cut.frozen if "mask" in unit.reads]
        given = run(weigh, {}, {**values, "mask": mask.to(DEVICE)})
        return run(cut.live, models, given, KeyedRng(PLACES))["loss"]
