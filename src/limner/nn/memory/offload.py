"""Half precision by casting once, and the weights of a full fine-tune on the host with a copy on the device.

A model whose weights are in bf16 computes in bf16 throughout once its inputs are cast, as stock pipelines run
it; what its norms, its embeddings of time and its rotations compute in fp32, they cast for themselves.
Autocast would have each norm give fp32, which every layer behind it casts and keeps for itself.

Masters are fp32 on the host. The working copy has the precision of the arithmetic in linear layers and
convolutions, which is what autocast would make of the masters at each use, and fp32 elsewhere. A gradient
leaves the device as soon as it is made. On the CPU the same happens beside itself, to be proved there.

Where weights and optimizer fit the device and gradients do not, those wait in bf16 (``HalfGradients``).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from limner.errors import BadRecipe, first_line
from limner.nn import arch
from limner.nn.arch import ArchSpec
from limner.nn.memory.host_buffer import ALIGNMENT, Pinned, ordinary
from limner.nn.memory.plan import PORTION

AUTOCAST_LAYERS = (nn.Linear, _ConvNd)
"""Layers that autocast has multiply in half precision."""

EXACT = frozenset({"img_ids", "txt_ids", "position_ids", "time_ids", "hidden_states"})
"""Arguments that are not cast: places and sizes, of which models make angles and waves in fp32, and states,
which the first layer casts. FLUX.2 gives its times their precision, and in bf16 those are up to 2 of 1000
steps off, which turns the gradients of a tiny model by 14 degrees."""


def cast_once(model: nn.Module, arch: ArchSpec, dtype: torch.dtype) -> ExitStack:
    """Cast what a model is given, and what its layers outside the blocks read, to ``dtype``, that of both.

    Times, one number per sample, and the arguments in ``EXACT`` are cast where a layer reads what was made
    of them.

    Returns:
        What undoes it when it is closed.
    """
    stack = ExitStack()
    stack.callback(model.register_forward_pre_hook(partial(_given, dtype), with_kwargs=True).remove)
    block_prefixes = tuple(f"{block}." for block in arch.blocks_of(model))
    for name, layer in model.named_modules():
        if isinstance(layer, AUTOCAST_LAYERS) and not name.startswith(block_prefixes):
            stack.callback(layer.register_forward_pre_hook(partial(_read, dtype)).remove)
    return stack


def _read(dtype: torch.dtype, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return args[0].to(dtype), *args[1:]


def _given(dtype: torch.dtype, _: nn.Module, args: Any, kwargs: Any) -> Any:
    return _low(args, dtype), _low(kwargs, dtype)


def _low(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_low(item, dtype) for item in value)
    if isinstance(value, dict):
        return {name: item if name in EXACT else _low(item, dtype) for name, item in value.items()}
    states = isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1
    return value.to(dtype) if states else value


def halve(model: nn.Module, dtype: torch.dtype) -> None:
    """Turn what autocast casts at each use into ``dtype``, for good."""
    for layer in model.modules():
        if isinstance(layer, AUTOCAST_LAYERS):
            for weight in layer.parameters(recurse=False):
                weight.data = weight.data.to(dtype)


def in_fp32(decode: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a model in fp32, made to read latents (B, C, h, w) of any precision as such."""

    @wraps(decode)
    def cast(latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        return decode(latents.float(), *args, **kwargs)

    return cast


@contextmanager
def decoding(vae: Any, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """While entered, an autoencoder decodes in the run's precision, whatever its weights are kept in.

    In fp16 it stays in fp32, like its weights: that of SDXL overflows.
    """
    if dtype == torch.float32:
        yield
        return
    vae.decode = (
        in_fp32(vae.decode) if dtype == torch.float16 else torch.autocast(device.type, dtype)(vae.decode)
    )
    try:
        yield
    finally:
        del vae.decode


def require_kernels(device: torch.device) -> None:
    """Compute forward and backward in fp16 what denoisers are made of, on numbers of no account.

    Raises:
        BadRecipe: torch has no kernel for some of it there.
    """
    kind: Any = {"dtype": torch.float16, "device": device}
    x = torch.ones(1, 4, 4, 4, **kind, requires_grad=True)
    weight, ones = torch.ones(4, 4, **kind), torch.ones(4, **kind)
    try:
        y = F.silu(F.group_norm(F.conv2d(x, weight[:, :, None, None]), 1))
        y = F.layer_norm(F.gelu(F.linear(x * y, weight, ones)), (4,), ones)
        F.scaled_dot_product_attention(y, y, y).softmax(-1).float().sum().backward()
    except (NotImplementedError, RuntimeError) as error:
        raise BadRecipe(
            f'limits.compute_dtype is "fp16", and torch {torch.__version__} cannot train in it on '
            f'{device.type}: {first_line(error)}. Set "fp32".'
        ) from error


class Offload:
    """The masters of a model whose weights are all trained, and the way there and back.

    Args:
        model: On the host, in fp32, released (``nn.arch.unfreeze``). Its weights become the working copy.
        dtype: Of the arithmetic.
        device: Where the working copy computes; whoever made this brings it there.
    """

    def __init__(self, model: nn.Module, *, dtype: torch.dtype, device: torch.device) -> None:
        """See the class."""
        self.device = device
        self.working = arch.trained_by_name(model)
        self.masters = {name: nn.Parameter(weight.detach()) for name, weight in self.working.items()}
        halve(model, dtype)
        for name, weight in self.working.items():
            if weight.data_ptr() == self.masters[name].data_ptr():
                weight.data = weight.data.clone()
        self._pinned = Pinned() if device.type == "cuda" else None
        self._staging = dict(self._places(self._pinned or ordinary))
        self._coming: list[str] = []
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        for name, weight in self.working.items():
            weight.register_post_accumulate_grad_hook(partial(self._take, name))

    def _places(self, host: Any) -> Iterator[tuple[str, Tensor]]:
        """Room on the host for each gradient on its way down, and for each weight on its way up."""
        sizes = [-(-weight.nbytes // ALIGNMENT) * ALIGNMENT for weight in self.working.values()]
        room, start = host(sum(sizes)), 0
        for (name, weight), size in zip(self.working.items(), sizes, strict=True):
            yield name, room[start : start + weight.nbytes].view(weight.dtype).view(weight.shape)
            start += size

    def _take(self, name: str, weight: Tensor) -> None:
        """Send a gradient that is ready to the host; the device keeps none."""
        gradient, weight.grad = weight.grad, None
        assert gradient is not None
        self._coming.append(name)
        if self._stream is None:
            self._staging[name].copy_(gradient)
            return
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            self._staging[name].copy_(gradient, non_blocking=True)
        gradient.record_stream(self._stream)

    @torch.no_grad()
    def gather(self) -> None:
        """Add the gradients of a backward pass to those of the masters, once they are here."""
        if self._stream is not None:
            self._stream.synchronize()
        for name in self._coming:
            master, staging = self.masters[name], self._staging[name]
            if master.grad is None:
                master.grad = staging.to(torch.float32, copy=True)
            else:
                master.grad.add_(staging)
        self._coming.clear()

    def forget(self) -> None:
        """Drop gradients of a backward pass that was not finished."""
        if self._stream is not None:
            self._stream.synchronize()
        self._coming.clear()

    @torch.no_grad()
    def publish(self) -> None:
        """Have the device compute with the masters as they are now."""
        if self._stream is not None:  # what was sent before may still be read
            torch.cuda.current_stream(self.device).synchronize()
        for name, weight in self.working.items():
            self._staging[name].copy_(self.masters[name])
            weight.copy_(self._staging[name], non_blocking=True)


class HalfGradients:
    """Gradients of a full fine-tune in bf16 until the optimizer reads them, in portions that are fp32 again.

    Autocast has linear layers and convolutions multiply copies of their weights in bf16. What comes back to
    one is a number in bf16 that is cast to fp32, so to keep it in two bytes loses nothing: the step is that
    of gradients in fp32, bit for bit. Each micro-batch's gradient is kept apart and all are summed in fp32,
    as autograd would, so the planner chooses this for steps of one micro-batch alone. Everything else, the
    weights of norms above all, keeps its gradient in fp32.

    The length of the whole gradient is known before anything moves, so clipping by it is what it always is.

    Args:
        model: With trained weights in fp32, computed by autocast in bf16 without its cache.
    """

    def __init__(self, model: nn.Module) -> None:
        """See the class."""
        self._halves: dict[nn.Parameter, list[Tensor]] = {}
        self._lengths: dict[nn.Parameter, Tensor] = {}
        """Of gradients that came once, measured while they were fp32."""
        weights = {
            weight: None
            for layer in model.modules()
            if isinstance(layer, AUTOCAST_LAYERS)
            for weight in layer.parameters(recurse=False)
            if weight.requires_grad
        }
        self._hooks = [weight.register_post_accumulate_grad_hook(self._take) for weight in weights]

    def close(self) -> None:
        """Leave gradients to autograd again."""
        for hook in self._hooks:
            hook.remove()
        self.clear()

    def clear(self) -> None:
        """Drop what has come, such as that of a backward pass which was not finished."""
        self._halves.clear()
        self._lengths.clear()

    @torch.no_grad()
    def _take(self, weight: nn.Parameter) -> None:
        gradient, weight.grad = weight.grad, None
        assert gradient is not None
        halves = self._halves.setdefault(weight, [])
        halves.append(gradient.to(torch.bfloat16))
        if len(halves) == 1:
            self._lengths[weight] = torch.linalg.vector_norm(gradient)
        else:
            self._lengths.pop(weight, None)

    def _whole(self, weight: nn.Parameter) -> Tensor | None:
        """A weight's gradient in fp32, as autograd would have summed it."""
        halves = self._halves.get(weight)
        if halves is None:
            return weight.grad
        total = halves[0].float()
        for half in halves[1:]:
            total += half
        return total

    @torch.no_grad()
    def norm(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """The length of the whole gradient, a scalar on their device, of one tensor after the other."""
        lengths = (self._length(weight) for weight in parameters)
        return torch.linalg.vector_norm(torch.stack([length for length in lengths if length is not None]))

    def _length(self, weight: nn.Parameter) -> Tensor | None:
        if weight in self._lengths:
            return self._lengths[weight]
        gradient = self._whole(weight)
        return None if gradient is None else torch.linalg.vector_norm(gradient)

    @torch.no_grad()
    def portions(self, parameters: Sequence[nn.Parameter], factor: Tensor | None) -> Iterator[None]:
        """Put the gradients into the parameters, a portion at a time: at each yield the optimizer steps.

        Args:
            parameters: Everything trained.
            factor: Of clipping, a scalar on their device; None: no gradient is made smaller.
        """
        rest = {weight: weight.grad for weight in parameters if weight.grad is not None}
        for weight in rest:
            weight.grad = None
        portion: list[nn.Parameter] = []
        size = 0
        for weight in parameters:
            if weight not in self._halves and weight not in rest:
                continue
            if portion and size + 4 * weight.numel() > PORTION:
                yield
                _drop(portion)
                portion, size = [], 0
            gradient = self._whole(weight) if weight in self._halves else rest.pop(weight)
            assert gradient is not None
            self._halves.pop(weight, None)
            weight.grad = gradient if factor is None else gradient.mul_(factor)
            portion.append(weight)
            size += 4 * weight.numel()
        self.clear()
        if portion:
            yield
            _drop(portion)


def _drop(weights: Sequence[nn.Parameter]) -> None:
    for weight in weights:
        weight.grad = None


def offloaded(denoiser: nn.Module, dtype: torch.dtype, device: torch.device) -> Offload | None:
    """Masters on the host, and a working copy in ``dtype``; on meta the working copy alone."""
    if device.type != "meta":
        return Offload(denoiser, dtype=dtype, device=device)
    halve(denoiser, dtype)
    for weight in denoiser.parameters():
        if weight.requires_grad:
            weight.register_post_accumulate_grad_hook(_leave)
    return None


def _leave(weight: Tensor) -> None:
    """A gradient goes to the host as soon as it is there."""
    weight.grad = None
