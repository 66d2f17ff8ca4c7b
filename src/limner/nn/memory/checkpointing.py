"""Blocks that are computed a second time for their gradient instead of kept (Chen 2016, arXiv:1604.06174).

What the second time may leave out, it leaves out: the last product of a block where no gradient reads it, and
attention, where its output was kept. Gradients stay the same to the bit.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from limner.errors import BrokenGraph
from limner.nn.rng import PlacedDropout, Places

Run = Callable[..., Any]
"""What a module does: its ``forward``."""


class Remembered(Protocol):
    """Something that blocks read besides their arguments, and that must be the same the second time."""

    def now(self) -> Any:
        """What it is."""
        ...

    def put(self, value: Any) -> Any:
        """Make it what :meth:`now` once gave."""
        ...


class Placed:
    """The places of the samples under way, which dropout reads (``nn.rng``)."""

    def __init__(self, places: Places) -> None:
        """The list that the caller fills."""
        self.places = places

    def now(self) -> Places:
        """What they are."""
        return list(self.places)

    def put(self, value: Places) -> None:
        """Make them what they were."""
        self.places[:] = value


def placed(model: nn.Module) -> list[Placed]:
    """Every list of places that a model's dropout reads, once each."""
    lists = {
        id(module.places): module.places for module in model.modules() if isinstance(module, PlacedDropout)
    }
    return [Placed(places) for places in lists.values()]


class _Here(threading.local):
    """The block that is under way in this thread. Gradients are computed in threads of their own."""

    frame: "_Frame | None" = None


_current = _Here()


def again() -> bool:
    """Whether this thread is computing a block the second time."""
    return _current.frame is not None and _current.frame.is_second


class Tail:
    """The last product of a block. The second time it is not computed, if nothing reads it.

    Args:
        module: The frozen linear layer, whose ``forward`` this stands for.
    """

    def __init__(self, module: nn.Module) -> None:
        """See the class."""
        self.run: Run = module.forward

    def __call__(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), which holds no numbers when it is left out."""
        frame = _current.frame
        if frame is None:
            return self.run(x)
        if not frame.is_second:
            output = self.run(x)
            frame.ends.append((self, output.grad_fn))
            return output
        if self not in frame.unread:
            return self.run(x)
        stub = self.run(x.narrow(-2, 0, 0))  # keeps for its gradient what it kept the first time: its weight
        return _Unwritten.apply(stub, (*x.shape[:-1], stub.shape[-1]))  # pyright: ignore[reportReturnType]


class _Unwritten(torch.autograd.Function):
    """Room for numbers that nobody reads, in a graph that nobody walks."""

    @staticmethod
    def forward(ctx: Any, stub: Tensor, shape: tuple[int, ...]) -> Tensor:  # noqa: ARG004  torch's own
        return stub.new_empty(shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ARG004  torch's own
        raise BrokenGraph("A gradient was asked of a product that was left out. Set tail_skip off.")


PASSING = frozenset(
    f"{name}Backward0"
    for name in (
        "Add",
        "Sub",
        "View",
        "UnsafeView",
        "ReshapeAlias",
        "Slice",
        "Split",
        "SplitWithSizes",
        "Cat",
    )
    + ("ToCopy", "Clone", "Transpose", "Permute", "Unsqueeze", "Expand", "Alias", "Neg", "Narrow", "Squeeze")
) | {"SqueezeBackward1"}
"""Nodes of autograd whose gradient reads nothing that flowed through them."""


def unread(node: Any, ends: Iterable[Any]) -> bool:
    """Whether no gradient between a node of autograd and the ends of a block reads what the node made.

    Proved from the graph itself: every node on the way from ``node`` to one of ``ends`` must be of a kind
    that keeps nothing of it. A gate that needs a gradient of its own is such a reader.
    """
    # 1. Mark what stems from the node. Autograd points from a result to its sources, so the walk begins at
    #    the block's ends and goes down to the node. Sequence numbers rise in the order of the forward pass:
    #    what is older than the node cannot stem from it, which keeps the walk inside the block.
    first = node._sequence_nr()
    below: dict[Any, bool] = {node: True}

    def descends(reader: Any) -> bool:
        if reader not in below:
            older = reader._sequence_nr() <= first  # made before the node, so it cannot stem from it
            sources = () if older else reader.next_functions
            stems = [descends(source) for source, _ in sources if source]  # all of them: each may be a reader
            below[reader] = any(stems)
        return below[reader]

    for end in ends:
        descends(end)
    # 2. Every one that does lies on a way from the node to an end. The product may be left out if none of
    #    them keeps what flows through it.
    return all(_passes(reader, below) for reader, stems in below.items() if stems and reader is not node)


def _passes(node: Any, below: dict[Any, bool]) -> bool:
    if node.name() in PASSING:
        return True
    sources = [source for source, _ in node.next_functions]
    through = [position for position, source in enumerate(sources) if source and below[source]]
    match node.name():
        case "MulBackward0":  # a factor is kept for the gradient of the other one
            return sum(source is not None for source in sources) == 1
        case "DivBackward0":
            return through == [0] and not any(sources[1:])
        case "AddmmBackward0":  # of the sum it keeps nothing, of the product both factors
            return through == [0]
    return False


class _Frame:
    """One run of a block, and what its second run must know of the first."""

    def __init__(self, memory: Sequence[Remembered], *, keep_attention: bool) -> None:
        self.memory, self.then = memory, [source.now() for source in memory]
        self.ends: list[tuple[Tail, Any]] = []
        self.unread: set[Tail] = set()
        self.attention_outputs: list[tuple[Any, ...]] = []
        self.keep_attention, self.is_second = keep_attention, False

    def contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """What the first run and the second run in."""
        return self._first(), self._second()

    @contextmanager
    def _first(self) -> Iterator[None]:
        with self._under_way(), ExitStack() as stack:
            if self.keep_attention:
                stack.enter_context(_Attention(_Keeping(self.attention_outputs)))
            yield

    def _second(self) -> AbstractContextManager[None]:
        return _Second(self)

    @contextmanager
    def under_way_again(self) -> Iterator[None]:
        """The second run: what blocks read besides their arguments is what it was."""
        self.is_second = True
        current = [source.now() for source in self.memory]
        self._put(self.then)
        try:
            with self._under_way(), ExitStack() as stack:
                if self.keep_attention:
                    stack.enter_context(_Attention(_Giving(self.attention_outputs)))
                yield
        finally:
            self._put(current)

    def _put(self, values: Sequence[Any]) -> None:
        for source, value in zip(self.memory, values, strict=True):
            source.put(value)

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        outer, _current.frame = _current.frame, self
        try:
            yield
        finally:
            _current.frame = outer

    def finish(self, outputs: Any) -> None:
        """The first run is over: find out which tails nothing reads."""
        self.then = [each.now() for each in self.memory]  # the first block of a pass has begun some of it
        results = outputs if isinstance(outputs, tuple | list) else (outputs,)
        ends = [result.grad_fn for result in results if isinstance(result, Tensor) and result.grad_fn]
        self.unread = {tail for tail, node in self.ends if node is not None and unread(node, ends)}
        self.ends.clear()


class _Second:
    """The context of the second run; may be entered again where a graph is walked twice."""

    def __init__(self, frame: _Frame) -> None:
        self.frame = frame

    def __enter__(self) -> None:
        self.context = self.frame.under_way_again()
        self.context.__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        return self.context.__exit__(*error)


class _Attention(TorchFunctionMode):
    """Runs attention, and nothing else, under a mode of torch's dispatcher: on all else it would be slow."""

    def __init__(self, mode: TorchDispatchMode) -> None:
        super().__init__()
        self.mode = mode

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        with self.mode:
            return func(*args, **(kwargs or {}))


KERNELS = tuple(
    getattr(torch.ops.aten, f"_scaled_dot_product_{name}").default
    for name in ("flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention")
)
"""Attention in one piece. Attention computed in many (math) is not kept: its products would be larger."""


class _Keeping(TorchDispatchMode):
    """Keeps what attention gives: its output and the logarithm of its sums."""

    def __init__(self, attention_outputs: list[tuple[Any, ...]]) -> None:
        super().__init__()
        self.attention_outputs = attention_outputs

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        if func in KERNELS:
            self.attention_outputs.append(tuple(_alias(output) for output in outputs))
        return outputs


class _Giving(TorchDispatchMode):
    """Gives what was kept, in the same order."""

    def __init__(self, attention_outputs: list[tuple[Any, ...]]) -> None:
        super().__init__()
        self.outputs = iter(attention_outputs)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in KERNELS:
            return tuple(_alias(output) for output in next(self.outputs))
        return func(*args, **(kwargs or {}))


def _alias(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


class Checkpoint:
    """Runs a block and keeps only its arguments; runs it again when its gradient is due.

    Args:
        run: The block.
        memory: What it reads besides its arguments.
        keep_attention: Whether what attention gives is kept as well.
    """

    def __init__(self, run: Run, *, memory: Sequence[Remembered] = (), keep_attention: bool = False) -> None:
        """See the class."""
        self.run, self.memory, self.keep_attention = run, memory, keep_attention

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the block gives; the same to the bit."""
        if not torch.is_grad_enabled():
            return self.run(*args, **kwargs)
        # Both runs share the frame. The first one notes what it kept and which last products nobody reads.
        # torch keeps the arguments alone, and enters the frame's second context when a gradient is due.
        frame = _Frame(self.memory, keep_attention=self.keep_attention)
        names, first = tuple(kwargs), len(args)

        def run(*values: Any) -> Any:
            return self.run(*values[:first], **dict(zip(names, values[first:], strict=True)))

        outputs = checkpoint(
            run,
            *args,
            *kwargs.values(),  # in a row, so that torch sees what device they are on
            use_reentrant=False,
            preserve_rng_state=False,  # nothing here draws from it: see nn.dropout
            context_fn=frame.contexts,
        )
        frame.finish(outputs)
        return outputs
