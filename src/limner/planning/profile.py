"""What a run needs, as numbers that a plan turns into bytes and seconds. No torch; kept as JSON."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

from pydantic import TypeAdapter

from limner.nn.memory.plan import Weights


@dataclass(frozen=True)
class Affine:
    """A quantity that grows with the images of a micro-batch: ``offset + per_image * images``."""

    offset: float = 0.0
    per_image: float = 0.0
    single: float | None = None
    """Its value for one image, where that is not on the line: slices of a batch of one need no copies."""

    def at(self, images: int) -> float:
        """Its value for so many images."""
        return (
            self.single if images == 1 and self.single is not None else self.offset + self.per_image * images
        )


@dataclass(frozen=True, kw_only=True)
class OpCounts:
    """What a device has to do for one pass over some layers."""

    gemm: Affine = field(default_factory=Affine)
    """Floating-point operations of matrix products and convolutions, 2 per multiply-add."""
    w8a8: Affine = field(default_factory=Affine)
    """The same, of products of 8 bits by 8 bits."""
    coding: Affine = field(default_factory=Affine)
    """Bytes, of ``traffic``, of making the codes that those multiply and of scaling what they give."""
    attention: Affine = field(default_factory=Affine)
    """The same, of attention kernels."""
    traffic: Affine = field(default_factory=Affine)
    """Bytes read and written by everything else."""
    kernels: int = 0
    """Launches: what bounds small models on fast devices."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """One of the denoiser's repeated blocks, in running order. Sizes in bytes."""

    kind: str
    """Blocks of one kind share one compiled graph: the class, or class and width."""
    weight_bytes: Mapping[Weights, int]
    """Weights of the linear layers that can be quantised, by how they are stored, scales included."""
    other: int
    """Frozen weights that are never quantised: norms, biases, convolutions."""
    modulation: int
    """Weights of modulations, which are not in ``weight_bytes``; 0 where the family has none."""
    widest: int
    """The largest single weight at the precision of the arithmetic: what is dequantised at a time."""
    saved: Affine
    """What the backward pass needs of the forward pass, when the block is not checkpointed."""
    input: Affine
    """The same when it is."""
    attention_kept: Affine
    """What keeping the attention's output adds to ``input``."""
    forward: OpCounts
    backward: OpCounts
    """Without recomputation."""
    tail: OpCounts
    """Part of ``forward`` that the recomputation may leave out."""
    trained: int = 0
    """Numbers in it that learn: that are trained, and that a gradient comes to."""
    backward_room: Affine | None = None
    """Its own :attr:`Profile.backward`, where blocks differ. None: the profile's."""
    recompute_room: Affine | None = None
    """Its own :attr:`Profile.recompute`, where blocks differ. None: the profile's."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One thing that a run does outside its training steps: encoding, decoding, sampling."""

    phase: str
    """"cache" or "sample"."""
    name: str
    """For people: "text_encoder_2 reads a caption"."""
    weights: int
    """Bytes of the models that it needs, on the device; a denoiser that the plan holds anyway left aside."""
    layerwise_weights: int
    """Bytes of them when streamed layer by layer; ``weights`` where that is not possible."""
    activations: int
    """Most bytes of everything else at the same time, for one image."""
    work: OpCounts
    """For one image."""
    times: str
    """What it is done for: "image", "caption", "sample step", "sample"."""
    copy_bytes: int = 0
    """Bytes of host memory that its weights take on their way to the device: those whose files are of another
    precision. Others are mapped."""
    swapped_bytes: int = 0
    """Bytes of weights in full precision that rest in locked host memory and pass through the device
    each time it runs."""
    resident: bool = False
    """Whether its models take part in training, too."""
    tiled_activations: int | None = None
    """The same as ``activations`` when images are cut into tiles; ``None`` where that is not possible."""


@dataclass(frozen=True, kw_only=True)
class TargetGroup:
    """Layers that get an adapter and differ in the number of their block alone."""

    component: str
    """The model that they are of."""
    layers: str
    """Their name, the blocks' numbers as ranges: ``transformer_blocks.0-18.attn.to_q``."""
    count: int
    rank: int
    trained: int
    """Numbers that are trained, in all of them."""


def ranges(numbers: Iterable[int]) -> str:
    """Whole numbers as people write them: ``ranges([0, 1, 2, 5]) == "0-2,5"``."""
    runs = groupby(enumerate(sorted(numbers)), key=lambda entry: entry[1] - entry[0])
    spans = [[number for _, number in run] for _, run in runs]
    return ",".join(f"{span[0]}-{span[-1]}" if len(span) > 1 else str(span[0]) for span in spans)


def folded(groups: Iterable[TargetGroup]) -> list[TargetGroup]:
    """Groups that differ in further numbers of their names as one, of a U-Net those of all its levels.

    The numbers are those that occur in each place: not every combination of them need be there.
    """
    members: dict[tuple[str, str, int], list[TargetGroup]] = {}
    for group in groups:
        members.setdefault((group.component, INNER.sub("*", group.layers), group.rank), []).append(group)
    result: list[TargetGroup] = []
    for (component, form, rank), parts in members.items():
        layers = form
        for texts in zip(*(INNER.findall(part.layers) for part in parts), strict=True):
            layers = layers.replace("*", ranges({number for text in texts for number in _numbers(text)}), 1)
        counts = sum(part.count for part in parts), sum(part.trained for part in parts)
        result.append(
            TargetGroup(component=component, layers=layers, count=counts[0], rank=rank, trained=counts[1])
        )
    return result


INNER = re.compile(r"(?<=\.)\d+(?:[-,]\d+)*(?=\.)")
"""Numbers within the name of a layer, as ``ranges`` writes them."""


def _numbers(text: str) -> Iterator[int]:
    """The numbers that ``ranges`` wrote."""
    for span in text.split(","):
        first, _, last = span.partition("-")
        yield from range(int(first), int(last or first) + 1)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """All that a plan needs to know of a base, an adapter and a size. Bytes, FLOPs, counts."""

    base: str
    family: str
    size: tuple[int, int]
    """Width and height in pixels of the bucket that was traced: the one with the most tokens."""
    blocks: tuple[Block, ...]
    """In running order."""
    rest: Block
    """Everything of the live units outside the blocks, trained text encoders among it.

    Its ``input`` is the part of ``saved`` that lies before the first block.
    """
    trained: int
    """Numbers that are trained."""
    tensors: int
    """Tensors that those of them come in that learn."""
    forward: Affine
    """Most bytes that are alive in the forward pass beyond those kept when it ends, no block checkpointed."""
    backward: Affine
    """Most bytes alive in the backward pass of a block beyond what it and all before it keep."""
    recompute: Affine
    """The same of a checkpointed block, which by then keeps what it would have kept without."""
    decoding: int | None = None
    """What of ``widest`` shows in the fullest moment of a block, bytes, where it was measured with int8.

    NF4 takes no more by bitsandbytes' kernel; by torch's, on a processor, 6 bytes more for each number of a
    layer, of which 4 million at a time are turned back: 24 MiB at most, which shows in a tiny model."""
    factored: int = 0
    """Numbers in a second moment that is factored: rows and columns of every matrix that learns."""
    largest: int = 0
    """Numbers of the largest tensor that learns."""
    idle: int = 0
    """Numbers of ``trained`` that no gradient comes to, so that they have no state of the optimizer: what a
    last block does to the text, which nobody reads."""
    whole: int = 0
    """Bytes of the trained weights on the device when all of the denoiser is trained; 0 for a LoRA."""
    exact: int = 0
    """Numbers of a full fine-tune that learn outside of linear layers and convolutions, such as those of
    norms: their gradients are in fp32 whatever the plan."""
    on_host: bool = False
    """Whether their masters, gradients and moments are on the host, and what is here is a working copy."""
    head: int = 0
    """Numbers that are trained behind the last block: the first whose gradients are there."""
    heads: int = 0
    """Numbers of ``trained`` that belong to one layer each: the heads of a predictor."""
    factors: int = 0
    """Numbers of the LoRA that a predictor writes for an image."""
    constants: int = 0
    """Bytes that live as long as the run and belong to no layer: plain tensors of the models, constants."""
    stages: tuple[Stage, ...] = ()
    targets: tuple[TargetGroup, ...] = ()
    """The layers that get an adapter; none in a full fine-tune."""
    entry: int = 0
    """Bytes on disk of one image in the cache, its caption included."""
    download: int = 0
    """Bytes of the base's files."""
    passes: int = 1
    """Passes of the denoiser through which a gradient goes, each computed once more for it: the steps of a
    student."""
    cast: bool = True
    """Whether the denoiser's files may be of another precision than the run, so that to read is to copy."""

    @property
    def learning(self) -> int:
        """Numbers that are trained and that a gradient comes to."""
        return self.trained - self.idle


def to_json(profile: Profile) -> dict[str, Any]:
    """A profile as plain numbers, to keep: tracing takes seconds, reading none."""
    return asdict(profile)


def from_json(value: Any) -> Profile:
    """Read what :func:`to_json` gave.

    Raises:
        ValueError: It is no profile.
    """
    return TypeAdapter(Profile).validate_python(value)
