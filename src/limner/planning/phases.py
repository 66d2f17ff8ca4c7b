"""What a run does outside its training steps: encoders fill the cache, samples are generated.

Every stage is run from configs alone, on the meta device and without gradient, for one image at the size of
the largest bucket and with captions as long as they can be, and watched: weights, memory beyond them, work.
Workspaces that cuDNN takes for convolutions are not seen.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from limner.assembly.assemble import ModelSpec
from limner.graph.unit import Split, Unit
from limner.graph.unit import run as run_units
from limner.models import sampling
from limner.models.bundled import stored_precision, weight_bytes
from limner.models.facts import is_tokenizer
from limner.models.family import SamplingParams
from limner.models.loading import precision_of
from limner.nn.arch import bytes_of, heaviest
from limner.nn.layers.quantized_linear import freeze, storable
from limner.nn.memory.engine import TILE_SIDE, can_tile
from limner.nn.memory.offload import cast_once
from limner.planning.alike import once
from limner.planning.meta_inputs import Longest, batch, inputs
from limner.planning.profile import Affine, OpCounts, Stage
from limner.planning.trace import GPU, Machine
from limner.planning.tracker import Tracker

SLOTS = 2
"""Layers that are on the device at once when an encoder is streamed: one works, the next arrives."""
BYTES = 2
"""Of a number in the files of a base that nothing is known of."""
ENTRY = 512
"""Bytes of the header of a cache entry."""
_A = {"caption": "a caption", "image": "an image"}


@dataclass(frozen=True)
class Outside:
    """What a profile holds beyond the training step."""

    stages: tuple[Stage, ...]
    entry: int
    """Bytes on disk of one image in the cache, its caption included."""
    download: int
    """Bytes of the base's files; for a base that is no registered one, as if they were in 16 bits."""
    boundary: Mapping[str, Tensor] = field(repr=False)
    """What the live units read of one image and its caption, on the meta device."""


def outside(
    spec: ModelSpec,
    size: tuple[int, int],
    *,
    params: SamplingParams | None = None,
    machine: Machine = GPU,
) -> Outside:
    """Trace every stage.

    Args:
        spec: The base, with its units cut; weights and tokenizers are not needed.
        size: (width, height) of the largest bucket in pixels.
        params: How samples are generated; ``None``: at the size of the bucket. Width and height are whole
            multiples of the family's.
        machine: Whose kernels and whose allocator are imitated.

    Raises:
        BadBase: A config means nothing.
    """
    width, height = size
    params = params or SamplingParams(width=width, height=height, steps=20)
    values: dict[str, Any] = inputs(spec, size)
    of_caption, stages, entry = {"caption"}, [], 0
    base = _Base(spec, size, machine)
    cut = spec.cut
    for unit in spec.still_cut.frozen:  # captions without a new word, if there is one: more than of others
        caption = set(unit.reads) <= of_caption
        if caption:
            of_caption |= set(unit.writes)
        times, resident = "caption" if caption else "image", bool({*unit.uses} & {*cut.loaded})
        outputs, stage = base.encode(unit, values, times=times, resident=resident)
        stages += [stage] if stage else []
        values |= outputs
        if set(unit.writes) & cut.boundary:
            entry += ENTRY + sum(tensor.numel() * tensor.element_size() for tensor in outputs.values())
    boundary = {name: values[name] for name in sorted(cut.boundary)}
    stages += [base.sample_step(cut, boundary, params), base.decode(params)]
    numbers = sum(parameter.numel() for net in base.networks for parameter in net.parameters())
    return Outside(tuple(stages), entry, weight_bytes(spec.source.name) or BYTES * numbers, boundary)


@dataclass(frozen=True)
class _StageCost:
    """What a stage was. Bytes."""

    weights: int
    layerwise_weights: int
    activations: int
    work: OpCounts
    out: Any


class _Base:
    """The models of a base, without weights, and what is done with them outside the training steps."""

    def __init__(self, spec: ModelSpec, size: tuple[int, int], machine: Machine) -> None:
        self.spec, self.family, self.source, self.size = spec, spec.family, spec.source, size
        self.dtype = spec.dtype
        self.plain = replace(machine, autocast=None)
        """The cache is filled without autocast, and the denoiser samples without."""
        self.decoding = replace(machine, autocast=spec.dtype if spec.compute == "bf16" else None)
        self.models: dict[str, Any] = {}
        self.latent: tuple[int, ...] = ()
        """Shape of what the autoencoder gives of an image of the bucket."""

    def model(self, part: str) -> Any:
        """A stand-in for a tokenizer, or a model on the meta device."""
        if part not in self.models:
            self.models[part] = Longest() if is_tokenizer(part) else self._network(part)
        return self.models[part]

    @property
    def networks(self) -> list[nn.Module]:
        """All that were made."""
        return [model for model in self.models.values() if isinstance(model, nn.Module)]

    def _network(self, part: str) -> nn.Module:
        network = self.spec.skeleton(part)
        if part == self.family.denoiser and self.plain.matmul_precision == "8bit":
            freeze(network, storable(network, self.family.arch), "int8", products="8bit")
        return network

    def cast(self, part: str) -> bool:
        """Whether to read a part is to copy it: its files are of another precision, or of an unknown one."""
        dtype = precision_of(self.family, part, self.dtype)
        file_dtype = stored_precision(self.source.name, part)
        return file_dtype is None or {"bf16": torch.bfloat16, "fp32": torch.float32}[file_dtype] != dtype

    def encode(
        self, unit: Unit, values: Mapping[str, Any], *, times: str, resident: bool
    ) -> tuple[dict[str, Tensor], Stage | None]:
        """What a frozen unit writes, and its stage if it has a network; a trained one is never streamed."""
        models = {name: self.model(name) for name in unit.uses}
        parts = {name: model for name, model in models.items() if isinstance(model, nn.Module)}
        nets = [*parts.values()]
        if not nets:
            return {name: value.to("meta") for name, value in unit.run(models, values).items()}, None
        vae = models.get("vae")
        with self._latent_of(vae):
            cost = _watch(nets, lambda: unit.run(models, values), self.plain)
        stage = Stage(
            phase="cache",
            name=f"{' and '.join(unit.uses)} {'reads' if times == 'caption' else 'encodes'} {_A[times]}",
            weights=cost.weights,
            layerwise_weights=cost.weights if resident else cost.layerwise_weights,
            activations=cost.activations,
            work=cost.work,
            times=times,
            resident=resident,
            copy_bytes=sum(bytes_of(net.parameters()) for name, net in parts.items() if self.cast(name)),
            tiled_activations=_in_tiles(vae, self.size, cost.activations),
        )
        return cost.out, stage

    def sample_step(self, cut: Split, boundary: Mapping[str, Tensor], params: SamplingParams) -> Stage:
        """One step of the sampler; the denoiser's weights are those of training."""
        denoiser = self.model(self.family.denoiser)
        models = {name: self.model(name) for name in cut.loaded}
        passes = 2 if self.family.has_negative_pass(self.source, params.guidance) else 1
        images = sampling.batch_size(params, self.family) * passes
        values: dict[str, Any] = batch(boundary, images)
        latent = self._resized(values["latent_mean"].shape, params)
        room = torch.empty(latent, dtype=self.dtype, device="meta")
        values |= {"latent": room, "noise": room, "start": room, "time": room.new_empty(images)}
        live = [unit for unit in cut.live if not set(unit.writes) <= set(values)]
        with torch.no_grad(), once(denoiser):
            texts = [unit for unit in live if self.family.denoiser not in unit.uses and not unit.draws]
            values |= run_units([unit for unit in texts if set(unit.reads) <= set(values)], models, values)
        (unit,) = (unit for unit in live if self.family.denoiser in unit.uses)
        with cast_once(denoiser, self.family.arch, self.dtype):
            cost = _watch([denoiser], lambda: unit.run(models, values), self.plain)
        weights, swapped_bytes = self._negative_model() if passes > 1 else (0, 0)
        return Stage(
            phase="sample",
            name=f"{self.family.denoiser} samples",
            weights=weights,
            layerwise_weights=weights,
            swapped_bytes=swapped_bytes,
            activations=cost.activations,
            work=cost.work,
            times="sample step",
        )

    def _negative_model(self) -> tuple[int, int]:
        """Bytes on the device of a model that makes the negative pass, and those that come block by block.

        At the precision of the arithmetic: stored in few bits it takes less.
        """
        if not self.family.guidance.model:
            return 0, 0
        model = self.model(self.family.guidance.model)
        whole = bytes_of([*model.parameters(), *model.buffers()])
        if self.spec.kind != "cuda":
            return whole, 0
        blocks = [
            bytes_of([*block.parameters(), *block.buffers()])
            for block in self.family.arch.blocks_of(model).values()
        ]
        return whole - sum(blocks) + SLOTS * max(blocks), sum(blocks)

    def decode(self, params: SamplingParams) -> Stage:
        """The autoencoder turns a latent into pixels."""
        vae = self.model("vae")
        shape = self._resized((sampling.batch_size(params, self.family), *self.latent[1:]), params)
        room = torch.empty(shape, dtype=precision_of(self.family, "vae", self.dtype), device="meta")
        cost = _watch([vae], lambda: vae.decode(room), self.decoding)
        return Stage(
            phase="sample",
            name="vae decodes a sample",
            weights=cost.weights,
            layerwise_weights=cost.layerwise_weights,
            activations=cost.activations,
            work=cost.work,
            times="sample",
            copy_bytes=cost.weights if self.cast("vae") else 0,
            tiled_activations=_in_tiles(
                vae, (params.width, params.height), cost.activations, images=shape[0], decoding=True
            ),
        )

    def _resized(self, shape: Sequence[int], params: SamplingParams) -> tuple[int, ...]:
        """The shape of a latent of the bucket at the size of a sample."""
        *rest, height, width = shape
        down, columns = self.size[1] // height, self.size[0] // width
        return (*rest, params.height // down, params.width // columns)

    @contextmanager
    def _latent_of(self, vae: Any) -> Iterator[None]:
        """Note the shape of what the autoencoder gives while entered."""
        if vae is None:
            yield
            return
        encode = vae.encode

        def noting(*args: Any, **kwargs: Any) -> Any:
            out = encode(*args, **kwargs)
            self.latent = tuple(out.latent_dist.mean.shape)
            return out

        vae.encode = noting
        try:
            yield
        finally:
            del vae.encode


def _in_tiles(
    vae: Any, size: tuple[int, int], whole: int, *, images: int = 1, decoding: bool = False
) -> int | None:
    """Bytes of a stage beyond its weights when the autoencoder works in tiles; ``None`` where it would not.

    What a convolution holds grows with the pixels that it sees, and attention here goes through kernels whose
    memory does too. Beside a tile there are the pixels of whole images in fp32: once to be encoded, nearly
    twice as decoded tiles, which overlap; in the end, without a tile, also as rows and put together.

    Args:
        vae: The autoencoder, or ``None``.
        size: (width, height) of an image in pixels.
        whole: Bytes of the stage when it is not tiled.
        images: How many at once.
        decoding: Whether pixels come out, or go in.
    """
    if vae is None or not can_tile(vae) or max(size) <= TILE_SIDE:
        return None
    width, height = size
    pixels = 3 * 4 * width * height * images
    tile = round(whole * min(width, TILE_SIDE) * min(height, TILE_SIDE) / (width * height))
    return max(tile + 2 * pixels, 4 * pixels) if decoding else tile + pixels


def _watch(nets: Sequence[nn.Module], step: Callable[[], Any], machine: Machine) -> _StageCost:
    """Run a stage and see what it takes."""
    tracker = Tracker(machine.device, machine.granule)
    for net in nets:
        tracker.watch([*net.parameters(), *net.buffers()], "weights")
    weights = tracker.alive
    with ExitStack() as stack:
        for net in nets:
            stack.enter_context(once(net, tracker))
        stack.enter_context(machine.imitated(tracker.did))
        stack.enter_context(torch.no_grad())
        stack.enter_context(tracker)
        out = step()
    segments = tracker.segments
    work = OpCounts(
        gemm=Affine(per_image=sum(segment.gemm for segment in segments)),
        w8a8=Affine(per_image=sum(segment.w8a8 for segment in segments)),
        attention=Affine(per_image=sum(segment.attention for segment in segments)),
        traffic=Affine(per_image=sum(segment.traffic for segment in segments)),
        kernels=sum(segment.kernels for segment in segments),
    )
    return _StageCost(weights, sum(map(_least, nets)), tracker.peak - weights, work, out)


def _least(net: nn.Module) -> int:
    """Bytes of a network on the device when its layers come one by one."""
    tensors = [*net.parameters(), *net.buffers()]
    name = heaviest(net)
    if name is None:
        return bytes_of(tensors)
    layers = [[*layer.parameters(), *layer.buffers()] for layer in net.get_submodule(name).children()]
    layer_bytes = sum(map(bytes_of, layers))
    return bytes_of(tensors) - layer_bytes + min(SLOTS, len(layers)) * max(map(bytes_of, layers))
