"""What a run wants of the disk: one rule for the plan, and for the look at the disk before the first step."""

from pathlib import Path

from huggingface_hub import constants

from limner.errors import BadBase
from limner.files import user_path
from limner.models.facts import is_tokenizer
from limner.models.registry import hub_id_of
from limner.models.single_file import look
from limner.models.source import Source
from limner.nn.memory.plan import Plan
from limner.planning.memory import frozen_bytes
from limner.planning.profile import Profile


def fetched_bytes(base: str, source: Source, profile: Profile) -> int:
    """Bytes that are to be fetched of a base that is not on this disk; of one in one file, what it lacks.

    Args:
        base: As the recipe names it.
        source: Its configs, or those of the base that lends what the file lacks.
        profile: Says how large the whole base is.
    """
    path = user_path(base)
    if not path.is_file():
        return profile.download
    components = look(path).parts
    networks = {part for part in source.models if not is_tokenizer(part)}
    if networks <= set(components):
        return 0
    blocks = (profile.rest, *profile.blocks)
    denoiser = sum(block.weight_bytes["bf16"] + block.other + block.modulation for block in blocks)
    return max(0, profile.download - denoiser)  # FLUX.1 alone comes without its encoders, and in bf16


def here(source: Source) -> Source:
    """The same base with its files, where it is known by its configs and the hub's cache has it."""
    hub_id = hub_id_of(source.name)
    if source.bytes_on_disk is not None or hub_id.count("/") != 1:
        return source
    home = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}"
    try:
        root = home / "snapshots" / (home / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return source
    snapshot = Source(root, source.name)
    try:
        return source if snapshot.bytes_on_disk is None else snapshot
    except BadBase:  # no model_index.json: only parts of it were fetched
        return source


def mapped_bytes(profile: Profile, plan: Plan) -> int:
    """Bytes of weights that lie in files of their own because the computer's memory is short."""
    swapped_bytes = [
        frozen_bytes(profile.blocks[number], plan) for number in plan.swapped_of(len(profile.blocks))
    ]
    encoders = [stage.weights for stage in profile.stages if stage.layerwise_weights < stage.weights]
    return max(
        sum(swapped_bytes) if plan.mmap_weights else 0,
        max(encoders, default=0) if plan.encode_mapped else 0,
    )
