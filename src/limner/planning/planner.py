"""The verb ``plan``: what a run will need and how to run it fastest, before anything is fetched or computed.

Where the profile of the base is known already, nothing here loads torch: the answer is arithmetic.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any

from limner.assembly.base import PENDING, ResolvedBase, fp16_of, sample_settings
from limner.assembly.phases import phase
from limner.data.order import QUANTILES
from limner.errors import DoesNotFit
from limner.imports import imported
from limner.models.registry import hub_bases
from limner.models.source import hub_page
from limner.nn.memory.plan import OptimizerState, Plan, PreviousPrecision
from limner.planning.advice import Alternative, Misfit, alternatives, misfit
from limner.planning.choice import Choice, PlanRequest, assess, budget, multiplied
from limner.planning.counts import Counts, counts_of
from limner.planning.devices import Device
from limner.planning.disk import fetched_bytes, here, mapped_bytes
from limner.planning.host import PHOTO
from limner.planning.local_device import device_for
from limner.planning.memory import CODES, MASTER, saved_bytes
from limner.planning.mixture import Mixture, at_pace_of, step_sizes, view_count
from limner.planning.profile import Profile
from limner.planning.profile_cache import opened, profile_of, shape_of
from limner.planning.request import ProfileRequest
from limner.planning.search import below, choose, encoded_below
from limner.planning.time import CostModel, Total, total_of
from limner.planning.trained import TRAINED
from limner.recipe.optimizers import optimizer_of
from limner.recipe.schema import Recipe
from limner.reporter import Reporter

WHOLE: tuple[OptimizerState, ...] = ("fp32", "host")
"""Ways to keep an optimizer's state that hold the same numbers."""


@dataclass(frozen=True)
class PlanResult:
    """A plan, or why there is none, and what was known when it was made."""

    recipe: Recipe
    device: Device
    profile: Profile
    request: PlanRequest
    counts: Counts
    choice: Choice | None
    total: Total | None
    alternatives: tuple[Alternative, ...]
    misfit: Misfit | None
    price: float | None
    """US dollars per hour."""
    missing_bytes: int = 0
    """Bytes of the base's files that are not on this disk yet."""
    first: "PlanResult | None" = None
    """Of pairs: the phase before this one, on the images before."""
    mixture: Mixture = Mixture()
    """Of the smaller sizes, where images are seen at several; ``profile`` is that of the largest."""

    @property
    def fits(self) -> bool:
        """Whether there is a plan."""
        return self.choice is not None

    @property
    def gate(self) -> str:
        """Page where the licence is to be accepted before the base is fetched; "" where it need not be."""
        base = hub_bases().get(self.recipe.base)
        return hub_page(base.gate) if base and base.gate and self.missing_bytes else ""

    @property
    def cost(self) -> float | None:
        """US dollars of the whole run on a rented device, or on several, each of which costs the price."""
        if self.price is None or self.total is None:
            return None
        return self.price * self.device.processes * self.total.seconds / 3600

    @property
    def disk(self) -> dict[str, int]:
        """Bytes on disk: files to fetch, the cache, all checkpoints that are there at once.

        And the LoRA of each, the trained model of a full fine-tune, and weights that lie in files because
        memory is short.
        """
        plan = self.choice.plan if self.choice else Plan()
        first = self.first.disk if self.first else {}
        checkpoint_bytes = saved_bytes(
            self.profile, plan, self.request.optimizer, average=self.request.average
        )
        return {
            "download": self.missing_bytes,
            "cache": round(self.mixture.entry(self.profile) * self.counts.views) + first.get("cache", 0),
            "checkpoints": self.recipe.train.checkpoints_held * checkpoint_bytes
            + first.get("checkpoints", 0),
            "loras": self._lora_bytes + first.get("loras", 0),
            "model": 0 if self.request.trained.leaves_loras else self.profile.download,
            "mapped": mapped_bytes(self.profile, plan),
        }

    @property
    def _lora_bytes(self) -> int:
        """Of the LoRA of each checkpoint, which all stay, and of the newest one once more.

        Of a predictor the newest in 16 bits, and a draft beside it.
        """
        if self.recipe.train.method == "instant":
            return 2 * (MASTER // 2) * self.profile.trained
        files = self.recipe.train.checkpoints_written + 1 if self.request.trained.leaves_loras else 0
        return files * MASTER * self.profile.trained

    def down(self, used_bytes: int) -> "PlanResult":
        """The same run by a plan that needs clearly less than this one, which ran out of memory.

        Args:
            used_bytes: Bytes that it had taken by then.

        Raises:
            DoesNotFit: There is none.
        """
        assert self.choice is not None
        choice = below(self.profile, self.device, self.request, self.choice.plan, used_bytes=used_bytes)
        return self.timed(choice)

    def timed(self, choice: Choice) -> "PlanResult":
        """The same run by another plan for the largest size."""
        choice = self.mixture.timed(choice, self.profile, self.device, self.request)

        def total_at(profile: Profile) -> Total:
            return total_of_run(profile, self.device, self.request, choice, self.counts, self.recipe)

        total = self.mixture.average(self.profile, total_at)
        total = replace(
            total, measure=total_at(self.profile).measure
        )  # validation views have the largest size
        return replace(self, choice=choice, total=total, alternatives=())

    def following(self, first: "PlanResult") -> "PlanResult":
        """The plan of a second phase, with the time of both."""
        if None in (totals := (self.total, first.total)):
            return self if first.fits else first
        seconds = {entry.name: sum(getattr(total, entry.name) for total in totals) for entry in fields(Total)}
        return replace(self, total=Total(**seconds), first=first)

    def encode_down(self, used_bytes: int) -> "PlanResult":
        """The same run with a way to fill the cache that needs clearly less. As :meth:`down`."""
        assert self.choice is not None
        plan = encoded_below(self.profile, self.device, self.request, self.choice.plan, used_bytes=used_bytes)
        return self.timed(assess(self.profile, self.device, self.request, plan))

    def plain(self) -> dict[str, Any]:
        """What ``--json`` prints and ``plan.json`` holds. Bytes, seconds, US dollars."""
        choice, device = self.choice, self.device
        basis = choice or (self.misfit.smallest if self.misfit else None)
        assert basis is not None
        return {
            "fits": self.fits,
            "peak_bytes": {phase: need.total for phase, need in basis.needs.items()},
            "reserved_bytes": basis.reserved,
            "plan": basis.plan.to_json(),
            "seconds_per_step": basis.step_time.seconds if choice else None,
            "alternatives": [_alternative(entry) for entry in self.alternatives],
            "why_not": str(self.misfit) if self.misfit else None,
            "would_fit": list(self.misfit.remedies) if self.misfit else [],
            "causes": {phase: dict(need.causes) for phase, need in basis.needs.items()},
            "host_bytes": asdict(basis.host)
            | {"phases": {phase: asdict(entry) for phase, entry in basis.hosts.items()}},
            "disk_bytes": self.disk,
            "pace": asdict(basis.step_time) if choice else None,
            "seconds": asdict(self.total) | {"all": self.total.seconds} if self.total else None,
            "cost": self.cost,
            "gate": self.gate or None,
            "base": self.profile.base,
            "size": list(self.profile.size),
            "trained": self.profile.trained,
            "targets": [asdict(group) for group in self.profile.targets],
            "images": self.counts.images,
            "device": {
                "name": device.name,
                "kind": device.kind,
                "memory": device.memory,
                "free": budget(device),
                "ram": device.ram,
                "ram_assumed": device.ram_assumed,
                "rates": device.source,
                "measured": device.measured,
                "processes": device.processes,
                "link": device.rates.link,
            },
        }


def _alternative(alternative: Alternative) -> dict[str, Any]:
    return {
        "what": alternative.label,
        "fits": alternative.fits,
        "change": alternative.change,
        "batch": alternative.batch,
        "seconds_per_step": alternative.choice.step_time.seconds,
        "reserved_bytes": alternative.choice.reserved,
        "plan": alternative.choice.plan.to_json(),
    }


def plan(
    recipe: Recipe,
    reporter: Reporter,
    *,
    card: str | None = None,
    price: float | None = None,
    whole: bool = False,
    device: Device | None = None,
    previous: PreviousPrecision | None = None,
) -> PlanResult:
    """Say what a run will need, and how to run it fastest on a device. Fetches no weights.

    Args:
        recipe: What a person wishes. Its folder of images may be missing: then ``IMAGES`` are assumed.
        reporter: Hears of configs that are fetched and of tracing.
        card: A card's name, to plan for another than is here.
        price: US dollars per hour of a rented device, in place of the table's.
        whole: Trace every block, though they repeat.
        device: In place of what the recipe's limits and ``card`` say.
        previous: What a run that goes on may not change.

    Raises:
        LimnerError: The recipe, the base or the device cannot be used.
    """
    way = partial(
        _plan, reporter=reporter, card=card, price=price, whole=whole, device=device, previous=previous
    )
    if recipe.pairs:
        return way(phase(recipe, "after", PENDING)).following(way(phase(recipe, "before")))
    return way(recipe)


def _plan(
    recipe: Recipe,
    reporter: Reporter,
    *,
    card: str | None,
    price: float | None,
    whole: bool,
    device: Device | None,
    previous: PreviousPrecision | None,
) -> PlanResult:
    """The plan of one phase. As :func:`plan`."""
    device = device or device_for(recipe.limits, card=card)
    counts = counts_of(recipe)
    request = _request(recipe, device, counts, previous)
    source = opened(recipe, reporter.line)
    if not fp16_of(source, recipe.limits.compute_dtype):
        request = _request(recipe, device, counts, previous, fp16=False)
    files = here(source).bytes_on_disk
    base = ResolvedBase(
        recipe=recipe, source=source, shape=shape_of(source), kind=device.kind, compute=request.compute
    )
    shares = step_sizes(base.sizes, counts.sizes)
    counts = replace(counts, views=round(counts.views * view_count(base.sizes, counts.sizes)))
    price = device.price if price is None else price
    misfits: list[tuple[Misfit, Callable[..., PlanResult]]] = []
    profile_request = ProfileRequest(base, [*shares][-1], whole, matmul_precision=request.matmul_precision)
    for way in _ways(profile_request, request):
        *smaller, profile = _profiles(way, [*shares], files, reporter)
        missing_bytes = fetched_bytes(recipe.base, source, profile) if files is None else 0
        rest = {
            "missing_bytes": missing_bytes,
            "mixture": Mixture(tuple(zip(smaller, shares.values(), strict=False))),
        }
        build = partial(PlanResult, recipe, device, profile, request, counts, price=price, **rest)
        try:
            choice = choose(profile, device, request)
        except DoesNotFit:
            misfits.append(
                (misfit(profile, device, request, profile_at=partial(_at, way, base.shape.multiple)), build)
            )
            continue
        options = alternatives(profile, device, request, choice)
        mean = build(choice=choice, total=None, alternatives=(), misfit=None).timed(choice)
        return replace(mean, alternatives=at_pace_of(mean.choice, choice, options))
    last, build = misfits[-1]
    remedies = tuple(dict.fromkeys(remedy for entry, _ in reversed(misfits) for remedy in entry.remedies))
    return build(choice=None, total=None, alternatives=(), misfit=replace(last, remedies=remedies))


def _request(
    recipe: Recipe, device: Device, counts: Counts, previous: PreviousPrecision | None, *, fp16: bool = True
) -> PlanRequest:
    """What a plan is asked for: by the recipe, the device, and a run that goes on."""
    request = request_of(recipe, device, counts.sizes, fp16=fp16)
    if device.processes > 1 or recipe.limits.shard == "on":
        shards_of = imported("limner.planning.sharded:shards_of")  # most runs have one process
        request = replace(request, shards=shards_of(recipe, device.processes, request.compute))
    return multiplied(_within(previous, request) if previous else request, device)


def _within(previous: PreviousPrecision, request: PlanRequest) -> PlanRequest:
    """The request without plans that the run cannot go on by."""
    quantized = previous.weights in CODES
    optimizer_state: tuple[OptimizerState, ...] = (previous.optimizer_state,)
    if "host" in request.trained.optimizer_states and previous.optimizer_state in WHOLE:
        # the same numbers, elsewhere
        optimizer_state = tuple(state for state in request.optimizer_state if state in WHOLE)
    return replace(
        request,
        weight_kinds=(previous.weights if quantized else request.compute,),
        optimizer_state=optimizer_state,
        matmul_precision=previous.matmul_precision,
        code_modulations=previous.code_modulations,
    )


def _ways(profile_request: ProfileRequest, request: PlanRequest) -> list[ProfileRequest]:
    """Where the weights of a full fine-tune may be: on the device, or on the host, from where AdamW comes."""
    on_host = "host" in request.optimizer_state and profile_request.base.kind == "cuda"
    on_host = on_host and optimizer_of(request.optimizer).on_host
    return [profile_request, replace(profile_request, on_host=True)] if on_host else [profile_request]


def _at(profile_request: ProfileRequest, multiple: int, resolution: int) -> Profile:
    """The same at another resolution, in the same shape."""
    width, height = profile_request.size
    scale = resolution / (width * height) ** 0.5
    size = (max(1, round(width * scale / multiple)), max(1, round(height * scale / multiple)))
    return profile_of(replace(profile_request, size=(size[0] * multiple, size[1] * multiple)))


def request_of(
    recipe: Recipe, device: Device, sizes: Iterable[tuple[int, int]] = (), *, fp16: bool = True
) -> PlanRequest:
    """What of a recipe decides how it can be computed.

    Args:
        recipe: What a person wishes.
        device: Where.
        sizes: (width, height) of the picture files, pixels; none: there are none yet.
        fp16: Whether the base computes in fp16.
    """
    prior = (recipe.prior.batch,) if recipe.prior.wanted else ()
    trained, is_slider = TRAINED[recipe.train.method], recipe.train.objective == "slider"
    states: tuple[OptimizerState, ...] = trained.optimizer_states
    learns_word = recipe.train.method == "inversion"
    if recipe.train.optimizer_args:  # another class may not take them
        states = tuple(state for state in states if state != "8bit")
    return PlanRequest(
        compute=device.computes(recipe.limits.compute_dtype, fp16=fp16),
        trained=trained,
        optimizer_state=states,
        min_weight_precision=recipe.limits.weights_precision,
        matmul_precision=recipe.limits.matmul_precision,
        batches=(recipe.train.batch, *prior) * (2 if is_slider else 1),
        has_teacher=recipe.prior.taught,
        is_led_back=recipe.instant.target == "base",
        is_slider=is_slider,
        micro_batch=recipe.limits.micro_batch,
        optimizer=recipe.train.optimizer,
        average=recipe.train.ema > 0,
        steps=recipe.train.steps,
        sampling=recipe.sample.every != -1,
        image_pixels=max((width * height for width, height in sizes), default=PHOTO),
        exclusions=frozenset(
            {"precompute_modulation"} if recipe.lora.text_encoders or learns_word else ()
        ),  # modulations read what they give
    )


def _profiles(
    way: ProfileRequest, sizes: Sequence[tuple[int, int]], files: int | None, reporter: Reporter
) -> list[Profile]:
    """The profile at each size, with the bytes of the base's files where they are here."""
    profiles = [profile_of(replace(way, size=size), reporter.line) for size in sizes]
    return profiles if files is None else [replace(profile, download=files) for profile in profiles]


def total_of_run(
    profile: Profile, device: Device, request: PlanRequest, choice: Choice, counts: Counts, recipe: Recipe
) -> Total:
    """Seconds of the whole run."""
    times = {
        "image": counts.views,
        "caption": counts.captions,
        "sample step": counts.samples * sample_settings(recipe)[1],
        "sample": counts.samples,
    }
    total = total_of(profile, choice.plan, device, choice.step_time, steps=request.steps, counts=times)
    images = min(len(QUANTILES), choice.plan.micro_batch)
    cost_model = CostModel(profile, replace(choice.plan, micro_batch=images), device)
    passes = counts.validation_passes / images
    saved = saved_bytes(profile, choice.plan, request.optimizer, average=request.average)
    return replace(
        total,
        measure=passes * (sum(cost_model.forward) + cost_model.outside_seconds),
        save=2 * recipe.train.checkpoints_written * saved / device.rates.disk,
    )
