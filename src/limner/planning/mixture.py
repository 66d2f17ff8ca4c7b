"""Runs whose images have several sizes: memory is that of the largest, time the mean over the draws."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from limner.assembly.base import ImageSizes
from limner.data.views import sizes_at
from limner.planning.advice import Alternative
from limner.planning.choice import Choice, PlanRequest, assess
from limner.planning.devices import Device
from limner.planning.profile import Profile
from limner.planning.time import StepTime, Total

Seconds = TypeVar("Seconds", StepTime, Total)


def step_sizes(sizes: ImageSizes, images: Sequence[tuple[int, int]]) -> dict[tuple[int, int], float]:
    """The bucket with the most tokens of each resolution that a run uses -> its share of the draws.

    From the smallest to the largest. Where there are no images yet: the squares.

    Args:
        sizes: By the recipe and its base.
        images: (width, height) of the images, pixels.
    """
    draws: Counter[int] = Counter()
    maxima: dict[int, tuple[int, int]] = {}
    for width, height in images or [(sizes.resolution, sizes.resolution)]:
        image_sizes = sizes_at(width, height, sizes.scales)
        for scale, size in zip(sizes.scales, image_sizes, strict=True):
            number = image_sizes.index(size)  # of the resolution whose bucket it is
            draws[number] += scale.draws
            maxima[number] = max(maxima.get(number, size), size, key=lambda size: (size[0] * size[1], size))
    shares: Counter[tuple[int, int]] = Counter()
    for number, count in draws.items():
        shares[maxima[number]] += count
    sizes_by_area = sorted(shares, key=lambda size: (size[0] * size[1], size))
    return {size: shares[size] / draws.total() for size in sizes_by_area}


def view_count(sizes: ImageSizes, images: Sequence[tuple[int, int]]) -> float:
    """Buckets that an image is seen in, in the mean over a folder."""
    square = (sizes.resolution, sizes.resolution)
    counts = [len({*sizes_at(width, height, sizes.scales)}) for width, height in images or [square]]
    return sum(counts) / len(counts)


@dataclass(frozen=True)
class Mixture:
    """Profiles of the smaller sizes of a run, beside that of the largest, and the share of the draws of each.

    Empty where all steps are of one size.
    """

    parts: tuple[tuple[Profile, float], ...] = ()

    def average(self, largest: Profile, seconds_of: Callable[[Profile], Seconds]) -> Seconds:
        """The mean over the draws of what each size takes."""
        rest = 1 - sum(share for _, share in self.parts)
        terms = [(seconds_of(profile), share) for profile, share in ((largest, rest), *self.parts)]
        first = terms[0][0]
        if len(terms) == 1:
            return first
        names = [field.name for field in fields(first)]
        return replace(first, **{name: sum(getattr(term, name) * s for term, s in terms) for name in names})

    def timed(self, choice: Choice, largest: Profile, device: Device, request: PlanRequest) -> Choice:
        """A choice for the largest size, with the mean time of a step."""
        if not self.parts:
            return choice

        def step_time(profile: Profile) -> StepTime:
            return assess(profile, device, request, choice.plan).step_time

        return replace(choice, step_time=self.average(largest, step_time))

    def entry(self, largest: Profile) -> float:
        """Bytes of a view in the cache, likewise."""
        return largest.entry + sum(share * (profile.entry - largest.entry) for profile, share in self.parts)


def at_pace_of(
    mean: Choice | None, choice: Choice, options: Sequence[Alternative]
) -> tuple[Alternative, ...]:
    """Alternatives for the largest size, each as much slower or faster than the mean as it is there."""
    factor = mean.step_time.seconds / choice.step_time.seconds if mean else 1.0
    if factor == 1.0:
        return tuple(options)

    def scaled(time: StepTime) -> StepTime:
        return replace(time, **{part.name: factor * getattr(time, part.name) for part in fields(time)})

    return tuple(
        replace(option, choice=replace(option.choice, step_time=scaled(option.choice.step_time)))
        for option in options
    )
