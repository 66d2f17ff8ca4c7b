"""Puts a plan's choices on a live model and takes them off. They change what is kept, never a gradient.

And autoencoders of diffusers work in overlapping tiles, so that their memory does not grow with the image.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limner.errors import BadRecipe, first_line
from limner.nn.arch import ArchSpec, frozen, hoistable, matching, stand_in
from limner.nn.layers.attention import Attention
from limner.nn.memory.block_swap import BlockSwapper, CopyStream, SwappedBlock
from limner.nn.memory.checkpointing import Checkpoint, Remembered, Run, Tail, placed
from limner.nn.memory.host_buffer import Host, HostBuffer, Mapped, Pinned, ordinary
from limner.nn.memory.modulation import Hoist
from limner.nn.memory.plan import Plan


def equip(
    model: nn.Module,
    arch: ArchSpec,
    plan: Plan,
    *,
    device: torch.device,
    folder: Path | None = None,
    streamed: Sequence[int] | None = None,
) -> "Engine":
    """Have a model computed as a plan says, on a device. Its adapters are attached, its layers stored.

    The model may lie anywhere. Only what the plan keeps on the device is brought there.

    Args:
        model: A denoiser.
        arch: Where its blocks are.
        plan: Which blocks are checkpointed, swapped and compiled, what is precomputed, and by which kernels.
        device: Where it computes.
        folder: Where weights go that the plan keeps in files, on a disk; none: the system's place for such.
        streamed: Which blocks, counted from 0 in running order, keep their frozen weights on the host; none:
            as many as the plan says, spread evenly.

    Raises:
        BadRecipe: The model cannot be computed so; says why.
        DiskFull: There is no room for the files.
    """
    blocks = list(arch.blocks_of(model).values())
    numbers = plan.swapped_of(len(blocks)) if streamed is None else streamed
    _check(len(blocks), plan, numbers)
    engine = Engine(Attention(plan.attention, device))
    with ExitStack() as unless_done:
        unless_done.callback(engine.close)
        host = _host(engine, device, folder, mapped=plan.mmap_weights)
        engine.hoist = _hoisted(engine, model, arch, host, device) if plan.precompute_modulation else None
        swapped_blocks = [blocks[number] for number in numbers]
        copy_stream = CopyStream(device, in_thread=plan.mmap_weights)
        engine.swapper = (
            _swapper(engine, swapped_blocks, host, copy_stream, plan.swap_buffers) if swapped_blocks else None
        )
        engine.settle(model, device)
        if plan.tail_skip and plan.checkpointed_blocks and not plan.compile:
            engine.cut(frozen(layer) for layer in matching(model, arch.tails).values())
        engine.memory = [*placed(model), *([engine.hoist] if engine.hoist else [])]
        rerun = partial(Checkpoint, memory=engine.memory, keep_attention=plan.keep_attention)
        for number, block in enumerate(blocks):
            twice = rerun if number < plan.checkpointed_blocks else None
            swap_index = numbers.index(number) if number in numbers else None
            engine.arrange(block, twice, swap_index, compiled if plan.compile else _as_it_is)
        unless_done.pop_all()
    return engine


def _as_it_is(run: Run) -> Run:
    return run


class Engine:
    """What was done to a model. Close it before the model is equipped anew."""

    def __init__(self, attention: Attention) -> None:
        self._undo = ExitStack()
        self.attention = attention
        """Which kernels compute attention."""
        self.swapper: BlockSwapper | None = None
        """The streamed blocks, if there are any."""
        self.hoist: Hoist | None = None
        """The modulations that are computed ahead, if they are."""
        self.memory: Sequence[Remembered] = ()
        """What blocks read besides their arguments."""

    def close(self) -> None:
        """Undo it all. Weights that were streamed or hoisted stay on the host, for the next plan to place."""
        self._undo.close()

    def stand_in(self, module: nn.Module, run: Run) -> None:
        """Have ``run`` called for a module until the engine is closed."""
        self.at_close(stand_in(module, run))

    def at_close(self, undo: Callable[[], None]) -> None:
        """What closing does, last come first."""
        self._undo.callback(undo)

    def settle(self, model: nn.Module, device: torch.device) -> None:
        """Bring everything to the device but what rests on the host."""
        buffers = [
            *(self.swapper.buffers if self.swapper else ()),
            *(self.hoist.buffers if self.hoist else ()),
        ]
        resting = {(id(entry.table), entry.name) for buffer in buffers for entry in buffer.entries}
        moves: dict[int, Tensor] = {}
        for table, name, tensor in _tensors(model):
            if (id(table), name) in resting or tensor.device == device or hasattr(tensor, "device_mesh"):
                continue  # of what is split, parts are there
            if tensor.requires_grad:
                tensor.data = tensor.data.to(device)  # the optimizer knows this very parameter
                continue
            target = moves.setdefault(id(tensor), tensor.to(device))
            parameter = isinstance(tensor, nn.Parameter)
            table[name] = nn.Parameter(target, requires_grad=False) if parameter else target

    def cut(self, tails: Iterable[nn.Module]) -> None:
        """Leave the products of these out where blocks are computed again and nothing reads them."""
        for layer in tails:
            # the gradient of a trained one reads its input again
            if not any(weight.requires_grad for weight in layer.parameters()):
                self.stand_in(layer, Tail(layer))

    def arrange(
        self,
        block: nn.Module,
        rerun: Callable[[Run], Run] | None,
        swap_index: int | None,
        program: Callable[[Run], Run],
    ) -> None:
        """Have a block run its way. From the inside: compute, stream, run again; outermost, learn.

        Args:
            block: The block.
            rerun: What makes it run twice, if it does.
            swap_index: Which of the streamed ones it is, if it is.
            program: What becomes of its own code.
        """
        bare: Run = block.forward
        kind = type(block).__name__
        run = self.attention.within(program(bare), kind)
        if self.swapper is not None and swap_index is not None:
            stream = partial(
                SwappedBlock, swapper=self.swapper, block=swap_index, checkpointed=rerun is not None
            )
            run, bare = stream(run), stream(bare)
        if rerun is not None:
            twice = rerun(run)
            run = run.watch(twice) if isinstance(run, SwappedBlock) else twice
        run = self.attention.before(run, partial(_apart, bare, self.memory), kind)
        if run != block.forward:
            self.stand_in(block, run)


def _apart(run: Run, memory: Sequence[Remembered], /, *args: Any, **kwargs: Any) -> Any:
    """Run something that leaves no trace: without a gradient, modulations would be taken for frozen."""
    before = [source.now() for source in memory]
    try:
        return run(*args, **kwargs)
    finally:
        for source, value in zip(memory, before, strict=True):
            source.put(value)


def _tensors(model: nn.Module) -> list[tuple[dict[str, Any], str, Tensor]]:
    """Every parameter and buffer: the table that holds it, its name there, itself."""
    tables = [table for module in model.modules() for table in (module._parameters, module._buffers)]
    return [(table, name, tensor) for table in tables for name, tensor in table.items() if tensor is not None]


def _check(blocks: int, plan: Plan, streamed: Sequence[int]) -> None:
    if not 0 <= plan.checkpointed_blocks <= blocks:
        raise BadRecipe(f"checkpointed is {plan.checkpointed_blocks}; this model has {blocks} blocks.")
    if list(streamed) != sorted(set(streamed)) or not all(0 <= number < blocks for number in streamed):
        raise BadRecipe(
            f"streamed is {list(streamed)}; give rising numbers below {blocks}, as the plan does."
        )
    if streamed and plan.swap_buffers < 2:
        raise BadRecipe(
            f"slots is {plan.swap_buffers}; streaming needs 2, one to compute with and one to fill."
        )
    if plan.compile and plan.keep_attention:
        raise BadRecipe(
            "Compiled blocks cannot keep what attention gives. Set keep_attention or compile off."
        )


def _host(engine: Engine, device: torch.device, folder: Path | None, *, mapped: bool) -> Host:
    if mapped:
        return Mapped(folder)
    if device.type != "cuda":
        return ordinary
    pinned = Pinned()
    engine.at_close(pinned.close)
    return pinned


def _hoisted(
    engine: Engine, model: nn.Module, arch: ArchSpec, host: Host, device: torch.device
) -> Hoist | None:
    layers = {name: frozen(layer) for name, layer in hoistable(model, arch).items()}
    if not layers:
        return None
    hoist = Hoist(layers, matching(model, arch.conditions), host, device)
    engine.at_close(hoist.close)
    for number, layer in enumerate(layers.values()):
        engine.stand_in(layer, torch.compiler.disable(partial(hoist.give, number)))
    return hoist


def _swapper(
    engine: Engine, blocks: Sequence[nn.Module], host: Host, copy_stream: CopyStream, slots: int
) -> BlockSwapper:
    modulations = engine.hoist.layers if engine.hoist else ()
    buffers = [HostBuffer(block, host, exclude=modulations) for block in blocks]
    if not all(buffer.bytes for buffer in buffers):
        raise BadRecipe(
            "A streamed block has no frozen weights, as everything is trained. Set streamed to 0."
        )
    swapper = BlockSwapper(buffers, copy_stream, min(slots, len(buffers)))
    engine.at_close(swapper.close)
    engine.at_close(
        copy_stream.close
    )  # first: what is under way must not land in memory that others have by then
    return swapper


BACKEND = "inductor"
"""What turns a graph into kernels."""


def compiled(run: Run) -> Run:
    """A block that is compiled when it first runs. Other kernels round otherwise: its numbers are close.

    Where that fails it says so (``BadRecipe``), with how to go on without.
    """
    from torch._dynamo.exc import BackendCompilerFailed  # takes seconds to load

    program = torch.compile(run, backend=BACKEND)

    def marked(*args: Any, **kwargs: Any) -> Any:
        for tensor in (*args, *kwargs.values()):
            mark(tensor)
        try:
            return program(*args, **kwargs)
        except BackendCompilerFailed as error:
            if isinstance(error.inner_exception, torch.OutOfMemoryError):
                raise error.inner_exception from None
            cause = first_line(error.inner_exception)
            raise BadRecipe(
                f"Blocks cannot be compiled on this machine: {cause}. Run again with TORCH_COMPILE_DISABLE=1 "
                "in the environment: the plan then goes without; or install Triton and a C compiler."
            ) from error

    return marked


def mark(value: Any) -> None:
    """Say which sizes of an argument differ from bucket to bucket, so that one program serves all.

    Tokens of (B, L, D), sides of (B, C, H, W), and tokens of tables of angles, (L, D), which come in pairs.
    """
    if isinstance(value, tuple | list):
        for tensor in value:
            if isinstance(tensor, Tensor) and tensor.ndim == 2:
                _vary(tensor, (0,))
    elif isinstance(value, Tensor):
        _vary(value, {3: (1,), 4: (2, 3)}.get(value.ndim, ()))


def _vary(tensor: Tensor, dims: Iterable[int]) -> None:
    for dim in dims:
        torch._dynamo.maybe_mark_dynamic(tensor, dim)


TILE_SIDE = 512
"""Pixels of a tile: the smallest side that these autoencoders were trained at. Part of cache keys."""
TILE_OVERLAP = 0.25
"""Share of a tile that is blended with the next one."""


def can_tile(vae: nn.Module) -> bool:
    """Whether an autoencoder knows how to work in tiles of a given side."""
    return "tile_sample_min_size" in vars(vae) or "tile_sample_min_height" in vars(vae)


def tile_vae(vae: Any, *, on: bool = True) -> None:
    """Encode and decode what is larger than :data:`TILE_SIDE` in tiles from here on, or no longer.

    Seams are blended, and each tile has statistics of its own in the group norms, so the numbers differ a
    little from those of the whole image.

    Args:
        vae: An autoencoder for which :func:`can_tile` is true; any other is left alone.
        on: Or off.
    """
    if not can_tile(vae):
        return
    vae.use_tiling = on
    if "tile_sample_min_size" in vars(vae):
        vae.tile_sample_min_size = TILE_SIDE
        vae.tile_latent_min_size = TILE_SIDE // 2 ** (len(vae.config.block_out_channels) - 1)
        vae.tile_overlap_factor = TILE_OVERLAP
        return
    vae.tile_sample_min_height = vae.tile_sample_min_width = TILE_SIDE
    vae.tile_sample_stride_height = vae.tile_sample_stride_width = round(TILE_SIDE * (1 - TILE_OVERLAP))
