"""What a device really does in a second, measured on it in half a minute, for every plan to come.

Each measurement takes as many rounds as its share of the time allows, and counts one that nothing else
disturbed; the first rounds, in which kernels are chosen and memory is asked for, do not count.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import BadUsage
from limner.nn.layers import lora, quantization
from limner.nn.layers.quantization import QuantKind, dequantize, in_rows, kernels_for, quantize
from limner.nn.memory.plan import CAPABLE, Compute, Weights
from limner.planning.devices import Device, Rates
from limner.planning.local_device import device_for, keep_rates
from limner.planning.tracker import Tracker
from limner.recipe.schema import Limits
from limner.reporter import Reporter

SECONDS = 30.0
"""What all measurements may take together, those of the first rounds left aside."""
WARM = 2
"""Rounds that do not count."""
COLD = 2**26
"""Bytes of weights that are read in turn: more than caches hold."""
DTYPES: dict[Compute, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True)
class Sizes:
    """Shapes like those that a device of a sort is used for."""

    gemms: tuple[tuple[int, int, int], ...]
    """Rows, columns in, columns out."""
    attention: tuple[int, int, int, int]
    """Images, heads, tokens, width of a head."""
    elements: int
    """Numbers of an elementwise operation."""
    copy_bytes: int
    """Bytes of a copy."""
    weight: tuple[int, int]
    """Of a weight that is turned back from codes."""


LARGE = Sizes(
    gemms=((4608, 3072, 3072), (4608, 3072, 12288), (4608, 15360, 3072), (1536, 3072, 12288)),
    attention=(1, 24, 4608, 128),
    elements=4608 * 3072,
    copy_bytes=2**28,
    weight=(12288, 3072),
)
"""FLUX.1 at 1024 and at 512 pixels: what cards are bought for."""
SMALL = Sizes(
    gemms=((144, 256, 256), (144, 256, 1024), (144, 1280, 256)),
    attention=(4, 4, 36, 64),
    elements=144 * 1024,
    copy_bytes=2**24,
    weight=(1024, 256),
)
"""The embedded base at its own size, four images at once: what processors are used for."""


@dataclass(frozen=True)
class Bench:
    """A device under measurement."""

    device: torch.device
    sizes: Sizes
    seconds_each: float
    """Seconds that one measurement may take."""

    def seconds(self, work: Callable[[], Any]) -> float:
        """Seconds of a round that nothing else disturbed: all but a fifth of them took longer."""
        for _ in range(WARM):
            work()
        self._settle()
        # on a processor that others use too, what this thread got is what it would take alone
        clock = time.perf_counter if self.device.type == "cuda" else time.thread_time
        durations: list[float] = []
        end = time.perf_counter() + self.seconds_each
        while len(durations) < 5 or (time.perf_counter() < end and len(durations) < 2000):
            start = clock()
            work()
            self._settle()
            durations.append(clock() - start)
        return sorted(durations)[len(durations) // 5]

    def _settle(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def random(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Numbers from the normal distribution."""
        return torch.randn(*shape, device=self.device).to(dtype)


def calibrate(limits: Limits, reporter: Reporter, *, seconds: float = SECONDS) -> Device:
    """Measure the device that runs would use here, and keep what it does.

    Args:
        limits: ``device`` says which; sizes mean nothing here.
        reporter: Hears what is measured, and the results.
        seconds: For all measurements together.

    Returns:
        The device with its measured rates.

    Raises:
        BadUsage: torch cannot use the device that is here.
    """
    device = device_for(Limits(device=limits.device))
    if device.kind == "cuda" and not torch.cuda.is_available():
        raise BadUsage(
            f"{device.name} is here, and this torch ({torch.__version__}) cannot use it. `limner doctor` "
            "says which build to install."
        )
    large = device.kind == "cuda"
    bench = Bench(torch.device("cuda" if large else "cpu"), LARGE if large else SMALL, seconds / 16)
    with torch.no_grad(), reporter.progress(f"Measuring {device.name}", 6) as bar:
        rates = measure(bench, device, bar.advance)
    path = keep_rates(device, rates, {"torch": torch.__version__})
    for line in rate_lines(rates, path):
        reporter.line(line)
    return replace(device, rates=rates, source="measured on this machine just now", measured=True)


def measure(bench: Bench, device: Device, advance: Callable[[], None]) -> Rates:
    """All rates of a device, in those precisions that its table has."""
    precisions: list[Compute] = [precision for precision in DTYPES if device.rates.gemm.get(precision)]
    gemm: dict[Compute, float] = {precision: _gemm(bench, DTYPES[precision]) for precision in precisions}
    advance()
    forward: dict[Compute, float] = {}
    backward: dict[Compute, float] = {}
    for precision in precisions:
        forward[precision], backward[precision] = _attention(bench, DTYPES[precision])
    advance()
    traffic = _traffic(bench, DTYPES[precisions[-1]])
    # on a processor, launches are counted beside the traffic, and caches hide most of it
    eager = _eager(bench, DTYPES[precisions[-1]]) if device.kind == "cuda" else None
    advance()
    copy = _copy(bench)
    advance()
    expand = _expand(bench, DTYPES["bf16" if "bf16" in precisions and device.kind == "cuda" else "fp32"])
    advance()
    capability = device.capability or (0, 0)
    w8a8_rates: dict[Weights, float] = {
        kind: _w8a8(bench, kind) for kind, oldest in CAPABLE.items() if capability >= oldest
    }
    launch = _launch(bench)
    advance()
    return Rates(
        gemm=gemm,
        attention=forward,
        attention_backward=backward,
        traffic=traffic,
        eager=eager,
        copy=copy,
        link=device.rates.link,
        disk=device.rates.disk,
        launch=launch,
        expand=expand,
        eight=w8a8_rates,
    )


def _gemm(bench: Bench, dtype: torch.dtype) -> float:
    flops = seconds = 0.0
    for rows, inner, columns in bench.sizes.gemms:
        x = bench.random(rows, inner, dtype=dtype)
        # each product reads a weight of its own, as in a model: none is in a cache from the time before
        copies = max(1, min(64, COLD // (inner * columns * x.element_size())))
        weights = [bench.random(columns, inner, dtype=dtype) for _ in range(copies)]
        share = replace(bench, seconds_each=bench.seconds_each / len(bench.sizes.gemms))
        seconds += (
            share.seconds(lambda x=x, weights=weights: [F.linear(x, weight) for weight in weights]) / copies
        )
        flops += 2.0 * rows * inner * columns
    return flops / seconds


def _w8a8(bench: Bench, kind: Literal["int8", "fp8"]) -> float:
    """FLOP/s of products of 8 bits by 8 bits, whose scaling is left aside: plans count it as traffic."""
    flops = seconds = 0.0
    for rows, inner, columns in bench.sizes.gemms:
        x, x_scale = in_rows(bench.random(rows, inner), kind)
        weight, scale = in_rows(bench.random(columns, inner), kind)
        share = replace(bench, seconds_each=bench.seconds_each / len(bench.sizes.gemms))
        if kind == "int8":
            seconds += share.seconds(partial(quantization.whole, x, weight.t()))
        else:
            seconds += share.seconds(partial(quantization.scaled, x, weight.t(), x_scale, scale.t()))
        flops += 2.0 * rows * inner * columns
    return flops / seconds


def _attention(bench: Bench, dtype: torch.dtype) -> tuple[float, float]:
    """FLOP/s forward and backward; a backward pass has 2.5 times the products (FlashAttention-2, sec. 3)."""
    images, heads, tokens, width = bench.sizes.attention
    flops = 4.0 * images * heads * tokens * tokens * width
    q, k, v = (bench.random(images, heads, tokens, width, dtype=dtype) for _ in range(3))
    forward = bench.seconds(lambda: F.scaled_dot_product_attention(q, k, v))
    with torch.enable_grad():
        for tensor in (q, k, v):
            tensor.requires_grad_()
        out = F.scaled_dot_product_attention(q, k, v)
        gradient = torch.ones_like(out)
        backward = bench.seconds(lambda: torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True))
    return flops / forward, 2.5 * flops / backward


def _traffic(bench: Bench, dtype: torch.dtype) -> float:
    """Bytes read and written by a chain of elementwise kernels."""
    x, y = (bench.random(bench.sizes.elements, dtype=dtype) for _ in range(2))
    seconds = bench.seconds(lambda: torch.mul(torch.add(x, y), y))
    return 6.0 * x.numel() * x.element_size() / seconds


def _eager(bench: Bench, dtype: torch.dtype) -> float:
    """Bytes read and written by what a block does between its products: norm, modulation, rotation, gate.

    Every second number of a head is read with a stride, as rotary embeddings do (arXiv 2104.09864, eq. 34).
    """
    _, heads, tokens, width = bench.sizes.attention
    x = bench.random(tokens, heads * width, dtype=dtype)
    scale, cosine = bench.random(heads * width, dtype=dtype), bench.random(tokens, 1, width // 2, dtype=dtype)

    def chain() -> Tensor:
        modulated = F.layer_norm(x, x.shape[-1:]) * (1 + scale) + scale
        pairs = modulated.view(tokens, heads, width // 2, 2)
        first, second = pairs.unbind(-1)
        rotated = torch.stack((first * cosine - second * cosine, first * cosine + second * cosine), -1)
        return F.gelu(rotated.flatten(1), approximate="tanh") + x

    with torch.enable_grad(), Tracker(bench.device.type) as tracker:
        chain()
    return sum(segment.traffic for segment in tracker.segments) / bench.seconds(chain)


def _copy(bench: Bench) -> float:
    pinned = bench.device.type == "cuda"
    host = torch.empty(bench.sizes.copy_bytes, dtype=torch.uint8, pin_memory=pinned)
    target = torch.empty_like(host, device=bench.device)
    return bench.sizes.copy_bytes / bench.seconds(lambda: target.copy_(host, non_blocking=pinned))


def _expand(bench: Bench, dtype: torch.dtype) -> Mapping[Weights, float]:
    """Numbers per second, by how they are stored."""
    rates: dict[Weights, float] = {}
    rows, columns = bench.sizes.weight
    kinds: tuple[QuantKind, ...] = ("int8", "fp8", "nf4")
    for kind in kinds:
        codes = quantize(bench.random(rows, columns), kind)
        back = partial(dequantize, codes, kind, (rows, columns), dtype, kernels_for(bench.device))
        rates[kind] = rows * columns / bench.seconds(back)
    return rates


def _launch(bench: Bench) -> float:
    """Seconds of the host for one kernel, as traces count them: in small blocks with LoRA, there and back."""
    with torch.enable_grad():
        layers = [BasicTransformerBlock(32, 2, 16, cross_attention_dim=32) for _ in range(4)]
        model = nn.Sequential(*layers).to(bench.device).requires_grad_(requires_grad=False)
        names = lora.matching(model, ("to_q", "to_k", "to_v", "to_out.0"))
        lora.attach(model, dict.fromkeys(names, 4), rank=4, alpha=4, dropout=0.0, seed=0)
        x = bench.random(1, 16, 32)

        def step() -> None:
            model(x).sum().backward()
            model.zero_grad(set_to_none=True)

        with Tracker(bench.device.type) as tracker:
            step()
        return bench.seconds(step) / sum(segment.kernels for segment in tracker.segments)


def rate_lines(rates: Rates, path: Path) -> list[str]:
    """The results for people."""
    lines = [
        f"{precision}: matrix products {rate / 1e12:.3g} TFLOP/s, attention "
        f"{rates.attention[precision] / 1e12:.3g} forward, "
        f"{rates.attention_backward[precision] / 1e12:.3g} backward"
        for precision, rate in rates.gemm.items()
    ]
    own_kernels = f"{rates.eager / 1e9:.3g} in a model's own kernels, " if rates.eager else ""
    lines.append(
        f"Memory {rates.traffic / 1e9:.3g} GB/s, {own_kernels}copies to the device "
        f"{rates.copy / 1e9:.3g} GB/s, {rates.launch * 1e6:.3g} microseconds to launch a kernel"
    )
    codes = ", ".join(f"{kind} {rate / 1e9:.3g}" for kind, rate in rates.expand.items())
    lines.append(f"Numbers turned back per second, 10^9: {codes}")
    if rates.eight:
        w8a8_rates = ", ".join(f"{kind} {rate / 1e12:.3g}" for kind, rate in rates.eight.items())
        lines.append(f"Products in 8 bits, TFLOP/s: {w8a8_rates}")
    return [*lines, f"Kept: {path}"]
