"""What a run is planned for: memory that may be used, and rates that are efficiency. No torch."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from pydantic import TypeAdapter

from limner.errors import BadRecipe
from limner.nn.memory.plan import BITS, CAPABLE, HALVES, Compute, Kind, Weights
from limner.planning.cards import Card

FP32, FP32_ATTENTION, FP32_BACKWARD = 0.72, 0.6, 0.5
"""Share of the peak rate that fp32 products and attention reach. Assumed."""
COPY = 0.75
"""Share of the bus's peak that pinned copies reach. Assumed; 24 to 26 of 31.5 GB/s are usual on PCIe 4."""
NVLINK = {
    **{"A100 SXM4": 300, "H100": 450, "H100 NVL": 300, "H100 PCIe": 0},
    **{"H20": 450, "H200": 450, "B200": 900},
}
"""First words of a card's name -> 10^9 bytes per second that its NVLink has in one direction: half of what
its maker's data sheet states. Cards of one name without NVLink are measured, not guessed: ``--calibrate``."""
LINK, BUS_LINK = 0.8, 0.4
"""Shares of NVLink's peak that gathers reach, and of pinned copies where cards have PCIe alone, so that what
one sends to another passes through the computer's memory. Assumed."""
LOOPBACK = 1e9
"""Bytes per second that processes on processors gather over sockets (gloo). Assumed."""
LAUNCH, SERVER_LAUNCH = 12e-6, 18e-6
"""Seconds that a desktop computer and a server take for one eager kernel: Python, torch's dispatch and
autograd, and the views on the way to it. A device that is done sooner waits for it. A server's: what small
models of five families took in forward and backward pass on an AMD EPYC was 15 to 20. Other programs' steps
that are bound by it took 27 to 46, with peft, accelerate and autocast between (SimpleTuner's of SDXL and of
Z-Image, which take the same on an L40S and an H100: ``benchmarks.speed.published``). A desktop's: assumed, as
its cores run half as fast again. ``limner plan --calibrate`` measures it."""
DISK = 2e9
"""Bytes per second that a solid-state disk gives in order. Assumed."""
COMPILED_TRAFFIC, COMPILED_LAUNCHES = 0.5, 0.4
"""Share of an eager block's elementwise traffic and launches that is left when it is compiled. Assumed."""
COMPILED_CODING = 0.15
"""The same of making codes for products in 8 bits: fused, 5 bytes are left of 39 to 47 for a number that
is multiplied (read to be measured, read, and written as a code), 6 of 30 for one that comes out in int32."""
COMPILING = 45.0
"""Seconds that compiling one sort of block takes when nothing is cached. Assumed; 30-120 s are published."""

HOST_TRAFFIC = 2e10
"""Bytes per second that a processor reads and writes while it updates weights: two fifths of two channels of
DDR4-3200 (JEDEC, JESD79-4: 25.6 GB/s each). Assumed."""

DESKTOP = 2**29
"""Bytes left to a screen, a browser and the driver on cards that commonly drive a desktop."""
SERVER = 2**28
"""The same on cards that do not."""
SPARE = 2**28
"""Bytes of what is free right now that are left, as other programs change their minds."""
HOST = 32 * 2**30
"""Memory of the computer around a card that is not here, unless ``limits.ram`` says otherwise."""
PINNED = 0.5
"""Most of the host's memory that is locked for the device; systems refuse more, or stall."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a device does in a second, reached, not promised. FLOPs, bytes, numbers."""

    gemm: Mapping[Compute, float]
    attention: Mapping[Compute, float]
    attention_backward: Mapping[Compute, float]
    traffic: float
    """Bytes read and written by kernels that do it in order: copies, updates, what a compiler makes."""
    copy: float
    """Bytes from pinned memory to the device."""
    link: float = LOOPBACK
    """Bytes per second that come to a process while all gather what the others have: NCCL's bus bandwidth."""
    disk: float = DISK
    launch: float = LAUNCH
    """Seconds of the host for one eager kernel."""
    expand: Mapping[Weights, float] = field(default_factory=dict)
    """Stored numbers turned back into the precision of the arithmetic. Left out: by ``traffic``."""

    eight: Mapping[Weights, float] = field(default_factory=dict)
    """FLOPs of products of 8 bits by 8 bits, by how weights are stored."""
    eager: float | None = None
    """Bytes read and written by a model's own elementwise kernels, many with strides; None: ``traffic``."""

    def multiplying(self, weights: Weights, compute: Compute) -> float:
        """FLOP/s of products with codes of ``weights``: in 8 bits where it has them, else in ``compute``."""
        return self.eight.get(weights, self.gemm[compute])

    def expanding(self, weights: Weights, compute: Compute) -> float:
        """Seconds to turn one number that is stored as ``weights`` back.

        One kernel for int8, and for 4 bits that of bitsandbytes; two for fp8, which torch does not multiply:
        the second works in place.
        """
        if weights in ("fp32", "bf16", "fp16"):
            return 0.0
        if weights in self.expand:
            return 1 / self.expand[weights]
        width = BITS[compute] / 8
        return (BITS[weights] / 8 + width * (3 if weights == "fp8" else 1)) / self.traffic


@dataclass(frozen=True, kw_only=True)
class Device:
    """Where a run is computed, in numbers. Bytes."""

    name: str
    kind: Kind
    memory: int
    """All that it has."""
    free: int
    """What a run may take: less what others hold, and less ``reserve``."""
    reserve: int
    """Left to the desktop and other programs."""
    ram: int
    """Of the host, for this run."""
    pinned: int
    """Most of it that may be locked."""
    rates: Rates
    source: str
    """Where the rates are from."""
    compiles: bool = False
    """Whether blocks can be compiled there."""
    price: float | None = None
    """US dollars per hour, rented."""
    capability: tuple[int, int] | None = None
    """CUDA's; None: it has none, or it is not known."""
    origin: Literal["here", "card", "size"] = "card"
    """Whether it is this machine's own, a card by name, or a size at the rates of a typical card."""
    measured: bool = False
    """Whether its rates were measured on it."""
    processes: int = 1
    """How many compute a run together, each on such a device."""
    ram_assumed: bool = False
    """Whether nobody has said how much memory the computer around it has."""

    @property
    def eightfold(self) -> tuple[Weights, ...]:
        """Ways to store weights so that they are multiplied in 8 bits: a processor does it in fp32.

        Raises:
            BadRecipe: There are none.
        """
        if self.kind == "cpu":
            return tuple(CAPABLE)
        capability = self.capability if self.kind == "cuda" else None
        able: list[Weights] = [
            kind for kind, oldest in CAPABLE.items() if capability and capability >= oldest
        ]
        if able:
            return tuple(able)
        reason = (
            "has no CUDA" if capability is None else f"has compute capability {capability[0]}.{capability[1]}"
        )
        minimum = ".".join(map(str, min(CAPABLE.values())))
        raise BadRecipe(
            f'limits.matmul_precision is "8bit", which takes compute capability {minimum}, and {self.name} '
            f"{reason}. "
            'Set "full".'
        )

    def computes(self, precision: str, *, fp16: bool = True) -> Compute:
        """bf16 where a GPU has it, else fp16 where it has that, else fp32; or what the recipe says.

        Args:
            precision: ``limits.compute_dtype``.
            fp16: Whether the base computes in fp16.

        Raises:
            BadRecipe: It says bf16 or fp16, and the device has none.
        """
        if precision != "auto":
            compute: Compute = TypeAdapter(Compute).validate_python(precision)
            if not self.rates.gemm.get(compute):
                raise BadRecipe(
                    f'limits.compute_dtype is "{compute}", and {self.name} has none. Set "auto" or "fp32".'
                )
            return compute
        if self.kind != "cuda":
            return "fp32"
        if self.rates.gemm.get("bf16"):
            return "bf16"
        return "fp16" if fp16 and self.rates.gemm.get("fp16") else "fp32"

    def with_capability(self, capability: tuple[int, int] | None) -> "Device":
        """The same at that compute capability, which says what tensor cores multiply. None: not known."""
        able = {"fp32", *(half for half, oldest in HALVES.items() if not capability or capability >= oldest)}
        gemm = {compute: rate for compute, rate in self.rates.gemm.items() if compute in able}
        compiles = self.compiles and "bf16" in gemm
        return replace(self, capability=capability, compiles=compiles, rates=replace(self.rates, gemm=gemm))

    def with_memory(self, memory: int) -> "Device":
        """The same with another memory: all of it but the reserve is free."""
        return replace(self, memory=memory, free=max(0, memory - self.reserve))

    def with_ram(self, ram: int) -> "Device":
        """The same in a computer with so much memory for the run."""
        pinned = round(ram * PINNED) if self.kind == "cuda" else ram
        free = self.free if self.kind == "cuda" else ram
        return replace(self, ram=ram, pinned=pinned, free=free, ram_assumed=False)


def of_card(card: Card, memory: int | None = None) -> Device:
    """A card that is not here, alone with its desktop, in a computer of ``HOST`` bytes.

    Args:
        card: Whose rates.
        memory: Bytes, where they differ from the card's own.
    """
    size = round(card.visible * 2**30) if memory is None else memory
    reserve = DESKTOP if card.desktop else SERVER
    efficiency, bandwidth = card.efficiency, card.bandwidth * 1e9
    gemm: dict[Compute, float] = {"fp32": card.fp32 * 1e12 * FP32}
    attention: dict[Compute, float] = {"fp32": card.fp32 * 1e12 * FP32_ATTENTION}
    backward: dict[Compute, float] = {"fp32": card.fp32 * 1e12 * FP32_BACKWARD}
    halves: dict[Compute, float] = {"bf16": card.bf16, "fp16": card.fp16}
    for compute, tera in halves.items():
        if tera:
            gemm[compute] = tera * 1e12 * efficiency.gemm
            attention[compute] = tera * 1e12 * efficiency.attention
            backward[compute] = tera * 1e12 * efficiency.attention_backward
    rates = Rates(
        gemm=gemm,
        attention=attention,
        attention_backward=backward,
        traffic=bandwidth * efficiency.traffic,
        eager=bandwidth * efficiency.eager,
        copy=card.pcie * 1e9 * COPY,
        link=_link(card),
        launch=LAUNCH if card.desktop else SERVER_LAUNCH,
        eight={kind: peak * 1e12 * efficiency.eight[kind] for kind, peak in card.w8a8.items()},
    )
    shares = (
        "shares of the peak assumed"
        if efficiency.assumed
        else "shares of the peak as published for its class"
    )
    return Device(
        name=card.name,
        kind="cuda",
        memory=size,
        free=max(0, size - reserve),
        reserve=reserve,
        ram=HOST,
        ram_assumed=True,
        pinned=round(HOST * PINNED),
        rates=rates,
        source=f"{card.source}; {shares}, not calibrated",
        compiles=bool(card.bf16),
        price=card.price,
        capability=card.capability,
    )


def _link(card: Card) -> float:
    """Bytes per second from card to card, as far as its name tells."""
    name = next((name for name in sorted(NVLINK, key=len, reverse=True) if card.name.startswith(name)), "")
    return NVLINK.get(name, 0) * 1e9 * LINK or card.pcie * 1e9 * COPY * BUS_LINK


CORE = 5e10
"""FLOP/s in fp32 that one core of a processor of today reaches in matrix products: half the peak of AVX2 at
3.5 GHz. Assumed."""
SHARED = 0.75
"""Power by which products grow with the cores, as memory is shared and threads wait for each other. Two cores
of an AMD EPYC did 1.68 times what one did (``limner plan --calibrate``)."""


def of_cpu(cores: int, memory: int, free: int) -> Device:
    """The processor itself: its memory is the host's, nothing is copied, fp32 is its precision."""
    rate = CORE * cores**SHARED
    rates = Rates(
        gemm={"fp32": rate, "bf16": rate / 2, "fp16": rate / 2},
        attention={"fp32": rate * 0.6, "bf16": rate * 0.3, "fp16": rate * 0.3},
        attention_backward={"fp32": rate * 0.5, "bf16": rate * 0.25, "fp16": rate * 0.25},
        traffic=HOST_TRAFFIC,
        copy=HOST_TRAFFIC,
    )
    spare = min(SPARE, free // 8)
    return Device(
        name=f"processor with {cores} cores",
        kind="cpu",
        memory=memory,
        free=free - spare,
        reserve=spare,
        ram=free - spare,
        pinned=free - spare,
        rates=rates,
        source="assumed for a processor of today, not calibrated",
        origin="here",
    )


def calibrated(device: Device, value: Any, day: str) -> Device:
    """The device with rates that were measured on it; those of 8-bit products its own where none were.

    Raises:
        ValueError: ``value`` holds no rates.
    """
    rates = TypeAdapter(Rates).validate_python(value)
    rates = rates if rates.eight else replace(rates, eight=device.rates.eight)
    rates = rates if "link" in value else replace(rates, link=device.rates.link)
    tables = {
        name: {**getattr(device.rates, name), **getattr(rates, name)}
        for name in ("gemm", "attention", "attention_backward")
    }
    rates = replace(rates, **tables)  # they may have been measured before there was fp16
    return replace(device, rates=rates, source=f"measured on this machine on {day}", measured=True)


def rates_to_json(rates: Rates) -> dict[str, Any]:
    """What :func:`calibrated` reads."""
    return asdict(rates)


def slug(name: str) -> str:
    """A device's name as that of a file."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "device"
