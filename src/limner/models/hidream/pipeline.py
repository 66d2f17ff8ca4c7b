"""diffusers' pipeline of HiDream-I1, as large as it is asked to paint, and from its seed."""

import inspect
import math
from functools import partial, wraps
from typing import Any

from diffusers import HiDreamImagePipeline

from limner.models.hidream.forward import prepare


class HiDreamPipeline(HiDreamImagePipeline):
    """The stock pipeline, which makes of any size one of a million pixels, and of Dev and Fast other noise.

    Their sampler draws noise at each step, for which the pipeline gives it no generator.
    """

    @wraps(HiDreamImagePipeline.__call__)  # whoever asks which arguments there are is told the pipeline's
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, *, width: int, height: int, generator: Any = None, **options: Any
    ) -> Any:
        """Pictures, as ``images`` of what is given back.

        Args:
            width: Pixels, a multiple of 16.
            height: Likewise.
            generator: Of the noise, one or one for each picture.
            options: As the pipeline knows them.
        """
        prepare(self.transformer)
        side = math.sqrt(width * height) * (1 + 1e-9)  # that it rounds down to the sides themselves
        self.default_sample_size = side / self.vae_scale_factor  # pyright: ignore[reportAttributeAccessIssue]
        step = self.scheduler.step
        if "generator" in inspect.signature(step).parameters:
            self.scheduler.step = partial(step, generator=generator)
        try:
            return super().__call__(width=width, height=height, generator=generator, **options)
        finally:
            vars(self.scheduler).pop("step", None)
