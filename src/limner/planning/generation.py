"""How images are generated on a card: the peak is predicted, and what is kept off the card follows from it.

What is fast comes first. All models on the card; else one at a time (model offload), which costs copies for
each image; else as few of the denoiser's blocks as will do come one by one (block swap), and text encoders
layer by layer. All of that gives the same image, to the bit. An autoencoder works in tiles only where it does
not fit with the card to itself, as its seams change the image a little.

Nothing is refused by prediction: what is strongest is tried, and where memory runs out the next stronger way
takes over.
"""

from dataclasses import dataclass
from functools import cached_property

from limner.assembly.assemble import ModelSpec
from limner.models.family import SamplingParams
from limner.nn.arch import bytes_of
from limner.nn.memory.turns import SLOTS
from limner.planning import memory
from limner.planning.choice import budget
from limner.planning.describe import device_label
from limner.planning.devices import Device
from limner.planning.phases import outside
from limner.planning.profile import Stage
from limner.recipe.fields import label

LESS = 0.85
"""Share of a peak that a stronger plan may take at most, after memory has run out at it."""


@dataclass(frozen=True, kw_only=True)
class GenerationPlan:
    """Where the models of a pipeline are while it generates."""

    model_offload: bool = False
    """Models are on the device one at a time."""
    swapped_blocks: int = 0
    """So many blocks of the denoiser, spread evenly, come one by one."""
    layerwise_encoders: bool = False
    """Layers of text encoders come one by one."""
    decode_tiled: bool = False
    """The autoencoder works in tiles."""


RESIDENT = GenerationPlan()
"""All models on the device."""


@dataclass(frozen=True, kw_only=True)
class GenerationProfile:
    """What generating takes, in bytes."""

    encoders: tuple[Stage, ...]
    """What reads the prompt."""
    decoders: tuple[Stage, ...]
    """What the autoencoder does: decode, and encode control images where there are some."""
    blocks: tuple[int, ...]
    """Weights of the denoiser's blocks, in running order."""
    rest: int
    """Its other weights, and the LoRAs."""
    activations: int
    """Of one of its passes."""
    negative_model: int = 0
    """Weights of a model as large as the denoiser that makes the negative pass; 0: the denoiser does."""

    @cached_property
    def _denoiser(self) -> int:
        return sum(self.blocks) + self.rest

    def resident(self) -> int:
        """Peak with all models on the device."""
        weights = self._denoiser + self.negative_model + sum(stage.weights for stage in self.encoders)
        weights += max(stage.weights for stage in self.decoders)
        moments = [self.activations, *(stage.activations for stage in (*self.encoders, *self.decoders))]
        return _peak(weights, max(moments))

    def encoding(self, *, layerwise: bool) -> int:
        """Peak while the prompt is read, with no other model on the device."""
        return max(
            (
                _peak(stage.layerwise_weights if layerwise else stage.weights, stage.activations)
                for stage in self.encoders
            ),
            default=0,
        )

    def denoising(self, count: int) -> int:
        """The same while the denoiser computes, with so many blocks swapped."""
        total = len(self.blocks)
        sizes = [self.blocks[number * total // count] for number in range(count)]
        slots = min(SLOTS, count) * max(sizes, default=0)
        return _peak(self._denoiser - sum(sizes) + slots, self.activations)

    def decoding(self, *, in_tiles: bool) -> int:
        """The same while the autoencoder works."""
        return max(_peak(stage.weights, _decoding(stage, in_tiles=in_tiles)) for stage in self.decoders)

    @property
    def can_tile(self) -> bool:
        """Whether tiles take less than whole images."""
        return self.decoding(in_tiles=True) < self.decoding(in_tiles=False)

    def peak(self, plan: GenerationPlan) -> int:
        """Bytes of the device at the fullest moment."""
        if not plan.model_offload:
            return self.resident()
        return max(
            self.encoding(layerwise=plan.layerwise_encoders),
            self.denoising(plan.swapped_blocks),
            self.decoding(in_tiles=plan.decode_tiled),
        )


def _peak(weights: int, activations: int) -> int:
    constant = memory.CONTEXT["cuda"] + memory.WORKSPACE["cuda"] + memory.GRAIN
    return weights + constant + round(activations * (1 + memory.SLACK))


def _decoding(stage: Stage, *, in_tiles: bool) -> int:
    whole = stage.activations
    return whole if not in_tiles or stage.tiled_activations is None else min(whole, stage.tiled_activations)


def generation_profile(spec: ModelSpec, params: SamplingParams, lora_bytes: int) -> GenerationProfile:
    """Trace what a pipeline does, from configs alone: a few seconds.

    Args:
        spec: The base.
        params: Of the largest image.
        lora_bytes: Of the LoRAs that are loaded with it.

    Raises:
        BadBase: A config means nothing.
    """
    stages = outside(spec, (params.width, params.height), params=params).stages
    denoiser = spec.skeleton(spec.family.denoiser)
    negative_model = spec.family.guidance.model and spec.skeleton(spec.family.guidance.model)
    blocks = [
        bytes_of([*block.parameters(), *block.buffers()])
        for block in spec.family.arch.blocks_of(denoiser).values()
    ]
    whole = bytes_of([*denoiser.parameters(), *denoiser.buffers()])
    (sampling,) = (stage for stage in stages if stage.times == "sample step")
    with_controls = {"sample", "image"} if params.controls else {"sample"}
    return GenerationProfile(
        encoders=tuple(stage for stage in stages if stage.times == "caption"),
        decoders=tuple(stage for stage in stages if stage.times in with_controls),
        blocks=tuple(blocks),
        rest=whole - sum(blocks) + lora_bytes,
        activations=sampling.activations,
        negative_model=bytes_of([*negative_model.parameters(), *negative_model.buffers()])
        if negative_model
        else 0,
    )


def choose(profile: GenerationProfile, room: int) -> GenerationPlan:
    """The fastest plan that is predicted to fit into so many bytes; where none is, what takes least."""
    if profile.resident() <= room:
        return RESIDENT
    total = len(profile.blocks)
    # two denoisers that take turns at each step come block by block, which hides behind what they compute
    counts = range(total if profile.negative_model else 0, total + 1)
    return GenerationPlan(
        model_offload=True,
        swapped_blocks=next((count for count in counts if profile.denoising(count) <= room), counts[-1]),
        layerwise_encoders=profile.encoding(layerwise=False) > room,
        decode_tiled=profile.decoding(in_tiles=False) > room and profile.can_tile,
    )


def stronger(profile: GenerationProfile, plan: GenerationPlan) -> GenerationPlan | None:
    """The plan to go on by where memory ran out at ``plan``; None: there is none."""
    less = choose(profile, round(LESS * profile.peak(plan)))
    if profile.peak(less) < profile.peak(plan):
        return less
    smallest = choose(profile, 0)  # a prediction may be wrong about what is the fullest moment
    return None if smallest == plan else smallest


def words(plan: GenerationPlan, blocks: int) -> str:
    """A plan for people, in the field's terms."""
    if not plan.model_offload:
        return "all models on the card"
    parts = ["model offload: one model on the card at a time"]
    if plan.swapped_blocks:
        parts.append(f"block swap: {plan.swapped_blocks} of {blocks} blocks in CPU RAM")
    if plan.layerwise_encoders:
        parts.append("text encoders layer by layer")
    if plan.decode_tiled:
        parts.append("VAE tiling")
    return "; ".join(parts)


def line(profile: GenerationProfile, plan: GenerationPlan, device: Device, params: SamplingParams) -> str:
    """What is predicted and how it is met, in one line."""
    peak, room = profile.peak(plan), budget(device)
    trial = " That is more than is free; trying it all the same." if peak > room else ""
    return (
        f"Generating {params.width} x {params.height} takes about {label(peak)} of {label(room)} free on "
        f"{device_label(device)}: {words(plan, len(profile.blocks))}.{trial}"
    )
