"""Concept sliders (Gandikota et al. 2023, arXiv:2311.12092): a direction between two prompts as a LoRA.

At strength 1 the model with the LoRA is to say of a noisy latent, under the neutral prompt, what the bare
base says under that prompt plus a multiple of the way from what it says under the negative to what it says
under the positive one; at strength -1, less that (equation 8 of the paper, both ways). No image is learned:
latents are those of the base's own pictures, noised. The paper denoises anew for each step as far as a time
that is drawn; a finished picture noised to that time has the same distribution where the base samples what it
was trained on, is computed once, and lies in the cache.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from limner.data.views import View
from limner.graph.unit import run as run_units
from limner.nn.layers import lora
from limner.nn.rng import Draw, Even
from limner.reporter import counted
from limner.run_folder import SLIDER_STRENGTHS

if TYPE_CHECKING:
    from limner.training.model import TrainableModel

Item = TypeVar("Item")
Result = TypeVar("Result")


class SliderLoss:
    """What a slider is asked for, and how far it is from it, both ways.

    Attributes:
        signs: Strengths that it is trained at.

    Args:
        model: What is trained. Whoever reads a loss takes its gradient before the next: adapters are turned
            between the two, and what is recomputed for a gradient must be computed as it was.
    """

    signs = (1.0, -1.0)

    def __init__(self, model: "TrainableModel") -> None:
        """See the class."""
        self.model, self.resolved = model, model.resolved
        self.count, self.guidance = len(self.resolved.own), self.resolved.recipe.slider.guidance
        self.numbers: dict[View, int] = {}
        for number, view in enumerate(self.resolved.own):
            self.numbers.setdefault(view, number)

    def at_strengths(
        self, items: Sequence[Item], compute: Callable[[Sequence[Item]], Sequence[Result]]
    ) -> list[Result]:
        """Something of each sample, computed with the adapters at the strength that the sample is for.

        Args:
            items: Of each prompt one for every strength, in the order of ``SLIDER_STRENGTHS``.
            compute: Given all samples of a strength, so that the seed of a prompt is the same at each.
        """
        results: list[Sequence[Result]] = []
        try:
            for number, strength in enumerate(SLIDER_STRENGTHS):
                self._turn(strength)
                results.append(compute(items[number :: len(SLIDER_STRENGTHS)]))
        finally:
            self._turn(1.0)
        return [result for row in zip(*results, strict=True) for result in row]

    def described(self) -> str:
        """What the slider leads to, in a line."""
        slider = self.resolved.recipe.slider
        texts = sorted({view.caption for view in self.resolved.own})
        positive, negative = slider.texts(texts[0])
        return (
            f'Slider: "{negative[:60]}" at strength -1, "{positive[:60]}" at 1, from '
            f'{counted(len(texts), "prompt")} (the first: "{texts[0][:60]}"), guidance '
            f"{slider.guidance:g}; each step passes both ways."
        )

    def losses(self, rows: Sequence[int], draw: Draw) -> Iterator[Tensor]:
        """The loss of each of some own views at strength 1, (B,), then at -1."""
        model = self.model
        neutral, direction = self._targets(rows, draw)
        for sign in self.signs:
            self._turn(sign)
            values = model.store.batch(rows, model.device)
            values["target"] = neutral + sign * self.guidance * direction
            yield run_units(model.live_units, model.models, values, draw)["loss"]
        self._turn(1.0)

    def validation(self, number: int, draw: Even) -> float:
        """The loss of a validation view, summed over the quantiles of the draw; the mean of both strengths.

        Validation views are some of the own ones, as no image is held out.
        """
        row = self.numbers[self.resolved.held_out[number]]
        return sum(float(loss.sum()) for loss in self.losses([row] * len(draw.quantiles), draw)) / len(
            self.signs
        )

    def _turn(self, sign: float) -> None:
        for name in self.resolved.first_layers:
            lora.turn(self.model.models[name], sign)

    @torch.no_grad()
    def _targets(self, rows: Sequence[int], draw: Draw) -> tuple[Tensor, Tensor]:
        """What the bare base says under the neutral prompt, and its way from the negative to the positive.

        All at the same noise and times, (B, ...).
        """
        model = self.model
        with model.bare():
            neutral, positive, negative = (
                run_units(
                    model.live_units,
                    model.models,
                    model.store.batch([row + pole * self.count for row in rows], model.device),
                    draw,
                )["pred"]
                for pole in range(3)
            )
        return neutral.detach(), (positive - negative).detach()
