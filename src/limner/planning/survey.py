"""All registered bases on one device, before anybody has chosen one: what fits, how fast, what it takes.

Arithmetic on profiles that come with the package (``planning.shipped``), so the table takes seconds. They are
of the square that each base was made for, and of its preset's LoRA; what is wished otherwise, such as another
resolution, is traced, and kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from limner.assembly.base import ResolvedBase, fp16_of
from limner.errors import BadRecipe, DoesNotFit
from limner.models.facts import RegisteredBase
from limner.models.registry import registered_bases
from limner.planning.advice import SIZES, larger_cards, least
from limner.planning.cards import typical
from limner.planning.choice import Choice, PlanRequest, fits
from limner.planning.counts import counts_of, sizes_of_sets
from limner.planning.devices import Device, of_card
from limner.planning.disk import fetched_bytes, here
from limner.planning.local_device import device_for
from limner.planning.mixture import step_sizes
from limner.planning.planner import request_of, total_of_run
from limner.planning.profile import Profile
from limner.planning.profile_cache import opened, profile_of, shape_of
from limner.planning.request import ProfileRequest
from limner.planning.search import choose
from limner.planning.shipped import SHIPPED_COMPUTE, shipped_profile
from limner.planning.time import Total
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from limner.target import template

COMMON = 8
"""Size of the card by which a base is estimated that the processor cannot train, in units of 2^30 bytes."""
EVENING = 3 * 3600
"""Seconds that a run of the base that is suggested may take."""


@dataclass(frozen=True)
class BaseEstimate:
    """One base on the device."""

    base: RegisteredBase
    choice: Choice | None
    """None: it does not fit."""
    total: Total | None
    missing_bytes: int
    """Bytes that are to be fetched."""
    card: int | None = None
    """Where it does not fit: the smallest card that it does, in units of 2^30 bytes; None: none is sold."""
    refusal: str = ""
    """Why its family cannot do what the recipe asks; empty where it can."""

    def plain(self) -> dict[str, Any]:
        """The same as JSON knows it. Bytes and seconds."""
        choice = self.choice
        return {
            "base": self.base.name,
            "fits": choice is not None,
            "seconds_per_step": choice.step_time.seconds if choice else None,
            "seconds": self.total.seconds if self.total else None,
            "reserved_bytes": choice.reserved if choice else None,
            "ram_bytes": choice.host.total if choice else None,
            "weights": choice.plan.weights if choice else None,
            "fetch_bytes": self.missing_bytes,
            "licence": self.base.licence,
            "gated": bool(self.base.gate),
            "needs_card_bytes": self.card * 2**30 if self.card else None,
            "purpose": self.base.purpose,
            "refusal": self.refusal,
        }


@dataclass(frozen=True)
class Survey:
    """All bases on one device."""

    device: Device
    images: int
    images_unknown: bool
    estimates: tuple[BaseEstimate, ...]
    """The fastest first; then those that do not fit or cannot do it, and the toy."""

    @property
    def suggestion(self) -> RegisteredBase | None:
        """The base to begin with on this device; None where none trains in an evening.

        The largest that trains in that time and whose licence need not be accepted first, nor keeps it to
        research or out of commerce. A distilled base loses what it was distilled to, and is not suggested.
        """
        candidates = [
            estimate
            for estimate in self.estimates
            if estimate.total and estimate.total.seconds <= EVENING
            if not (estimate.base.toy or estimate.base.train_on or estimate.base.gate)
            if not any(word in estimate.base.licence.lower() for word in ("research", "non-commercial"))
        ]
        return max(
            (estimate.base for estimate in candidates), key=lambda base: base.weight_bytes, default=None
        )


def survey(
    recipe_of: Callable[[str], Recipe],
    reporter: Reporter,
    *,
    card: str | None = None,
    names: Sequence[str] = (),
) -> Survey:
    """Estimate a run of every registered base.

    Args:
        recipe_of: Gives the recipe of a base by name.
        reporter: Hears of profiles that have to be traced.
        card: A card's name, to estimate for another than is here.
        names: The bases; all where left out.

    Raises:
        BadUsage: No such card is known.
    """
    names = names or tuple(registered_bases())
    recipe = recipe_of(names[0])
    device, sizes = device_for(recipe.limits, card=card), sizes_of_sets(recipe)
    estimates = [_estimate(recipe_of(name), device, sizes, reporter) for name in names]
    counts = counts_of(recipe, sizes)

    def order(estimate: BaseEstimate) -> tuple[bool, float, int]:
        return (
            estimate.base.toy,
            estimate.total.seconds if estimate.total else float("inf"),
            estimate.base.weight_bytes,
        )

    return Survey(device, counts.images, counts.images_unknown, tuple(sorted(estimates, key=order)))


PHOTOGRAPH = 4
"""Images whose shorter side has so many times the pixels of a toy base are no toy pictures."""


def photograph_size(recipe: Recipe) -> tuple[int, int] | None:
    """The size of the image in the middle, by its shorter side, where that is too large for a toy base.

    None where the images are small enough for it, there are none, or the base is no toy.
    """
    base = registered_bases().get(recipe.base)
    if base is None or not base.toy:
        return None
    sizes = sorted(sizes_of_sets(recipe), key=min)
    middle = sizes[len(sizes) // 2] if sizes else (0, 0)
    return middle if min(middle) >= PHOTOGRAPH * base.resolution else None


def survey_for_photographs(recipe: Recipe) -> Survey | None:
    """What open bases would do with the images of a run on the toy; None on a processor."""
    if device_for(recipe.limits).kind != "cuda":
        return None
    names = [
        base.name for base in registered_bases().values() if not (base.toy or base.train_on or base.gate)
    ]
    limits = {f"limits.{name}": getattr(recipe.limits, name) for name in ("vram", "ram", "device")}
    overrides = {"data.images": recipe.data.images, "concept_type": recipe.concept_type, **limits}

    def recipe_of(base: str) -> Recipe:
        return template({"base": base, **overrides}, max(1, len(sizes_of_sets(recipe))))

    return survey(recipe_of, Reporter(), names=names)


def _estimate(
    recipe: Recipe, device: Device, sizes: list[tuple[int, int]], reporter: Reporter
) -> BaseEstimate:
    base, counts = registered_bases()[recipe.base], counts_of(recipe, sizes)
    source = opened(recipe, lambda line: None)  # what a name says of itself is in the table
    reachable = device.kind == "cuda" or base.toy  # a processor takes days for any other
    target = device if reachable else of_card(typical(COMMON))
    request = request_of(recipe, target, sizes, fp16=fp16_of(source))
    resolved = ResolvedBase(
        recipe=recipe, source=source, shape=shape_of(source), kind=target.kind, compute=request.compute
    )
    start = BaseEstimate(base=base, choice=None, total=None, missing_bytes=0)
    if refusal := _refusal(resolved):
        return replace(start, refusal=refusal)
    profile = _profile(resolved, reporter)
    is_here = here(source).bytes_on_disk is not None
    start = replace(start, missing_bytes=0 if is_here else fetched_bytes(recipe.base, source, profile))
    try:
        choice = choose(profile, target, request) if reachable else None
    except DoesNotFit:
        choice = None
    if choice is None:
        sizes_sold = larger_cards(target) if reachable else SIZES
        return replace(start, card=_smallest_card(profile, request, sizes_sold))
    total = total_of_run(profile, device, request, choice, counts, recipe)
    return replace(start, choice=choice, total=total)


def _refusal(resolved: ResolvedBase) -> str:
    """Why the family of a base cannot do what the recipe asks; empty where it can.

    Where that is what the base's preset has, no torch is loaded to find out.
    """
    recipe = resolved.recipe
    preset = template({"base": recipe.base, "concept_type": recipe.concept_type})
    request, default_request = (
        (values.train.method == "inversion", values.lora.targets, values.lora.text_encoders)
        for values in (recipe, preset)
    )
    if request == default_request and resolved.objective == replace(resolved, recipe=preset).objective:
        return ""
    try:
        family = resolved.spec.family
        assert resolved.spec.cut.live
        if isinstance(recipe.lora.targets, str):
            family.endings(family.denoiser, recipe.lora.targets)
    except BadRecipe as error:
        return str(error)
    return ""


def _profile(resolved: ResolvedBase, reporter: Reporter) -> Profile:
    """The one that is shipped where it is of this run's resolution, precision and method; else a traced one.

    Of what else may differ, such as the rank, the table says what it assumes.
    """
    recipe, base = resolved.recipe, registered_bases()[resolved.recipe.base]
    plain = recipe.train.method == "lora" and recipe.limits.matmul_precision == "full"
    plain = plain and recipe.train.objective != "distill"  # a step is several passes
    as_shipped = resolved.compute == SHIPPED_COMPUTE[resolved.kind] and resolved.resolution == base.resolution
    profile = shipped_profile(base.name, resolved.kind) if plain and as_shipped else None
    size = [*step_sizes(resolved.sizes, [])][-1]
    return profile or profile_of(ProfileRequest(resolved, size), reporter.line)


def _smallest_card(profile: Profile, request: PlanRequest, sizes: Sequence[int]) -> int | None:
    """The first of ``sizes`` of cards that fits a run, in units of 2^30 bytes."""
    card = of_card(typical(COMMON))
    for size in sizes:
        device = card.with_memory(size * 2**30)
        if fits(least(profile, device, request), device):
            return size
    return None
