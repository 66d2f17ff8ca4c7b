"""The fastest plan whose denoiser is split over processes: of what may be combined with that, all is tried.

What is split is neither swapped, quantized, compiled nor precomputed: what FSDP2 does with such weights is
not proved here. It is checkpointed, and gradients are accumulated. No torch.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from limner.errors import BadRecipe
from limner.nn.memory.plan import Compute, Plan
from limner.planning.choice import Choice, PlanRequest, assess, encoding, fits, mechanism_count
from limner.planning.devices import Device
from limner.planning.profile import Profile
from limner.recipe.schema import Recipe
from limner.recipe.sharding import obstacle

TIE = 0.03
"""Plans that take at most this share longer than the fastest count as equally fast: the simplest is taken."""


def shards_of(recipe: Recipe, processes: int, compute: Compute) -> tuple[int, ...]:
    """Over how many processes weights may be split, fewest first; 1: each has all.

    Args:
        recipe: What a person wishes.
        processes: That compute the run.
        compute: Precision of the arithmetic.

    Raises:
        BadRecipe: The recipe wants them split, and they cannot be.
    """
    mode, full = recipe.limits.shard, recipe.train.method in ("full", "instant")
    if mode == "on" and processes == 1:
        raise BadRecipe(
            'limits.shard is "on", and one process has nobody to split weights with. Start several '
            '(--processes 2), or set limits.shard = "auto".'
        )
    if mode == "on" and full and compute == "fp16":
        raise BadRecipe(
            f'limits.shard is "on", and train.method "{recipe.train.method}" in fp16, which this device '
            "computes in, cannot be split: each process would scale the loss by its own part. Set "
            'limits.compute_dtype = "fp32".'
        )
    if mode == "off" or processes == 1 or obstacle(recipe)[0] or full and compute == "fp16":
        return (1,)
    return (processes,) if mode == "on" else (1, processes)


def sharded(profile: Profile, device: Device, request: PlanRequest) -> Choice | None:
    """The fastest plan with split weights that fits; None where there is none."""
    if (
        profile.on_host
        or "fp32" not in request.optimizer_state
        or request.compute not in request.weights
        or request.matmul_precision != "full"
    ):
        return None
    choices = list(_fitting(profile, device, request))
    if not choices:
        return None
    limit = min(choice.step_time.seconds for choice in choices) * (1 + TIE)
    ties = [choice for choice in choices if choice.step_time.seconds <= limit]
    return min(ties, key=lambda choice: (mechanism_count(choice.plan), choice.step_time.seconds))


def _fitting(profile: Profile, device: Device, request: PlanRequest) -> Iterator[Choice]:
    """Of each micro-batch, the plan that recomputes least and fits."""
    plain = Plan(compute=request.compute, weights=request.compute, shards=request.shards[-1])
    start = encoding(profile, device, plain, request)
    if start is None:
        return
    counts = [0] if "checkpointed_blocks" in request.exclusions else range(len(profile.blocks) + 1)
    for micro_batch, count in product(request.micro_batch_sizes, counts):
        for tiling in (False, True):
            plan = replace(start, micro_batch=micro_batch, checkpointed_blocks=count, decode_tiled=tiling)
            choice = assess(profile, device, request, plan)
            if fits(choice, device):
                yield choice
                break
