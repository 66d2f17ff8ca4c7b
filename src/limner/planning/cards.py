"""Cards that people train on, by what their makers say of them. No torch: planning needs no card.

Peak rates are dense (no sparsity), in 10^12 operations per second, of matrix products in bf16 that add up in
fp32, in fp32 outside the tensor cores, and in int8. Bandwidth and PCIe are in 10^9 bytes per second, memory
in units of 2^30 bytes, as on the label. GeForce cards add up in fp32 at half the rate of fp16; the rates
here are those. What programs reach of them is in ``planning.efficiency``.

What a maker states with sparsity is halved: of L4 the sheet says 242 TFLOP/s in bf16, 485 TOP/s in int8. Of
RTX 5090 int8, and of RTX PRO 6000 bf16 and int8, are worked out from the one figure on the pages of these
products, "AI TOPS" (3352 and 4000), in 4 bits with sparsity: a quarter of it in 8 bits without, an eighth in
bf16, which agrees with multiprocessors times clock. So are the rates of cards of laptops, at the power that
their maker states at most: most laptops allow less. Nobody has timed them here.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

from limner.nn.memory.plan import CAPABLE
from limner.planning import efficiency as classes
from limner.planning.efficiency import Efficiency

AMPERE = "NVIDIA, Ampere GA102 GPU Architecture whitepaper, and the product page"
TURING = "NVIDIA, Turing GPU Architecture whitepaper, and the product page"
ADA = "NVIDIA, Ada GPU Architecture whitepaper, appendix A, and the product page"
BLACKWELL = "NVIDIA, RTX Blackwell GPU Architecture whitepaper, and the product page"
SHEET = "the maker's data sheet"
LAPTOP = "NVIDIA, the comparison page of laptops; rates worked out from its AI TOPS or cores times clock"
HALF_OF_SPARSE = "the maker's data sheet, whose rates with sparsity are halved"
WORKED_OUT = "NVIDIA, the product page; rates of products in 16 and 8 bits are worked out from its AI TOPS"
BRANDS = {"", "nvidia", "geforce", "amd", "radeon", "rtx", "rx", "instinct", "tesla", "gpu"}
VARIANTS = {"ti", "super", "xtx", "laptop", "mobile", "d", "nvl", "max", "gre", "cmp", "vgpu", "mig"}
"""Words of a name that make another product of it: one in the table that lacks the word is not that card."""
SIZE = re.compile(r"(\d{1,3})(gi?b|g)?")
"""A word of a name that is a size of memory; models have four digits or a letter before them."""
PLAIN = re.compile(
    r"\d+g(b|ib)?|gb|sxm\d*|pcie|hbm\w*|gddr\w*|ada|ampere|turing|hopper|blackwell|lovelace|generation"
    r"|quadro|workstation|server|edition|founders|fe|oc|desktop|card|graphics|corporation"
)
"""Words that people and drivers add to a name, and that make no other product of it."""
PRICES = "RunPod's listing of March 2026 (deploybase.ai/articles/runpod-gpu-pricing); prices change weekly"


@dataclass(frozen=True)
class Card:
    """One product."""

    name: str
    capability: tuple[int, int] | None
    """CUDA's, by its maker's list (developer.nvidia.com/cuda-gpus); None: it is no card of NVIDIA's."""
    memory: float
    bandwidth: float
    bf16: float
    """0: it has none, and is trained on in fp16 or fp32."""
    fp32: float
    int8: float
    pcie: float
    """Peak of one direction."""
    source: str
    desktop: bool = True
    """Whether it commonly drives a screen as well."""
    price: float | None = None
    """US dollars per hour where it can be rented; see ``PRICES``."""
    efficiency: Efficiency = classes.UNKNOWN
    """What programs reach of its peaks."""
    old_fp16: float = 0
    """Of products in fp16 that add up in fp32, of a card without bf16; of others that is ``bf16``."""

    @property
    def fp16(self) -> float:
        """Of products in fp16 that add up in fp32."""
        return self.bf16 or self.old_fp16

    @property
    def visible(self) -> float:
        """Memory that CUDA has of it, which is less than the label, in units of 2^30 bytes.

        From out-of-memory messages and ``nvidia-smi``: 23.52 of 24 (RTX 4090), 31.37 of 32 (5090), 10.74 of
        11 (2080 Ti), 39.5 of 40 and 79.2 of 80 (A100, H100), 139.8 of 141 (H200). Cards of data centres with
        GDDR6 keep error-correcting codes in it: 14.75 of 16 (T4), 22.03 of 24 (L4), 44.4 of 48 (A40, L40,
        L40S).
        """
        if self.name in ECC:
            return 0.922 * self.memory
        return (0.98 if self.desktop else 0.989) * self.memory

    @property
    def w8a8(self) -> dict[Literal["int8", "fp8"], float]:
        """Peak of products in 8 bits, as far as it has them, in the unit of ``bf16``.

        fp8 that adds up in fp32 has twice the rate of bf16 on every card that has it, without sparsity: 330.3
        to 165.2 on RTX 4090 (Ada whitepaper, app. A, which says twice as much before its version 2.02),
        362 to 181 on L40, 733 to 362 on L40S, 1979 to 989 on H100 and H200, 4500 to 2250 on B200 (the data
        sheets). On Blackwell's GeForce cards it is not halved as bf16 is: 773 TFLOP/s were timed on a 5090.
        """
        fp8 = self.int8 if self.capability == (12, 0) else 2 * self.bf16
        peaks: dict[Literal["int8", "fp8"], float] = {"int8": self.int8, "fp8": fp8}
        capability = self.capability or (0, 0)
        return {kind: peak for kind, peak in peaks.items() if capability >= CAPABLE[kind]}

    @property
    def words(self) -> list[str]:
        """The parts of its name that tell it apart."""
        return _words(self.name)


def _desktop(efficiency: Efficiency, *cards: Card) -> tuple[Card, ...]:
    return tuple(replace(card, efficiency=efficiency) for card in cards)


def _rented(*cards: Card) -> tuple[Card, ...]:
    return tuple(replace(card, desktop=False) for card in cards)


CARDS = (
    *_desktop(
        classes.GEFORCE,
        Card("RTX 2060", (7, 5), 6, 336, 0, 6.5, 103, 15.8, TURING, old_fp16=25.8),
        Card("RTX 2060 SUPER", (7, 5), 8, 448, 0, 7.2, 115, 15.8, TURING, old_fp16=28.7),
        Card("RTX 2070", (7, 5), 8, 448, 0, 7.5, 119, 15.8, TURING, old_fp16=29.9),
        Card("RTX 2070 SUPER", (7, 5), 8, 448, 0, 9.1, 145, 15.8, TURING, old_fp16=36.3),
        Card("RTX 2080", (7, 5), 8, 448, 0, 10.1, 161, 15.8, TURING, old_fp16=40.3),
        Card("RTX 2080 SUPER", (7, 5), 8, 496, 0, 11.2, 178, 15.8, TURING, old_fp16=44.6),
        Card("RTX 2080 Ti", (7, 5), 11, 616, 0, 13.4, 215, 15.8, TURING, old_fp16=53.8),
        Card("RTX 3050", (8, 6), 8, 224, 18.2, 9.1, 73, 15.8, AMPERE),
        Card("RTX 3060", (8, 6), 12, 360, 25.5, 12.7, 102, 31.5, AMPERE),
        Card("RTX 3060 Ti", (8, 6), 8, 448, 32.4, 16.2, 130, 31.5, AMPERE),
        Card("RTX 3070", (8, 6), 8, 448, 40.6, 20.3, 163, 31.5, AMPERE),
        Card("RTX 3070 Ti", (8, 6), 8, 608, 43.5, 21.7, 174, 31.5, AMPERE),
        Card("RTX 3080", (8, 6), 10, 760, 59.5, 29.8, 238, 31.5, AMPERE),
        Card("RTX 3080 12GB", (8, 6), 12, 912, 61.3, 30.6, 245, 31.5, AMPERE),
        Card("RTX 3080 Ti", (8, 6), 12, 912, 68.2, 34.1, 273, 31.5, AMPERE),
        Card("RTX 3090", (8, 6), 24, 936, 71.2, 35.6, 284, 31.5, AMPERE, price=0.22),
        Card("RTX 3090 Ti", (8, 6), 24, 1008, 80.0, 40.0, 320, 31.5, AMPERE),
        Card("RTX 4060", (8, 9), 8, 272, 30.2, 15.1, 121, 15.8, ADA),
        Card("RTX 4060 Ti", (8, 9), 16, 288, 44.1, 22.1, 177, 15.8, ADA),
        Card("RTX 4070", (8, 9), 12, 504, 58.3, 29.1, 233, 31.5, ADA),
        Card("RTX 4070 SUPER", (8, 9), 12, 504, 71.0, 35.5, 284, 31.5, ADA),
        Card("RTX 4070 Ti", (8, 9), 12, 504, 80.2, 40.1, 321, 31.5, ADA),
        Card("RTX 4070 Ti SUPER", (8, 9), 16, 672, 88.2, 44.1, 353, 31.5, ADA),
        Card("RTX 4080", (8, 9), 16, 717, 97.5, 48.7, 390, 31.5, ADA),
        Card("RTX 4080 SUPER", (8, 9), 16, 736, 104.4, 52.2, 418, 31.5, ADA),
        Card("RTX 4090", (8, 9), 24, 1008, 165.2, 82.6, 661, 31.5, ADA, price=0.34),
        Card("RTX 4090 D", (8, 9), 24, 1008, 147.1, 73.5, 588, 31.5, ADA),
        Card("RTX 3060 Laptop", (8, 6), 6, 336, 26.2, 13.1, 105, 31.5, LAPTOP),
        Card("RTX 3070 Laptop", (8, 6), 8, 448, 33.2, 16.6, 133, 31.5, LAPTOP),
        Card("RTX 3080 Laptop", (8, 6), 16, 448, 42.0, 21.0, 168, 31.5, LAPTOP),
        Card("RTX 3080 Ti Laptop", (8, 6), 16, 512, 47.3, 23.6, 189, 31.5, LAPTOP),
        Card("RTX 4050 Laptop", (8, 9), 6, 192, 24.3, 12.1, 97, 15.8, LAPTOP),
        Card("RTX 4060 Laptop", (8, 9), 8, 256, 29.1, 14.6, 117, 15.8, LAPTOP),
        Card("RTX 4070 Laptop", (8, 9), 8, 256, 40.1, 20.1, 161, 15.8, LAPTOP),
        Card("RTX 4080 Laptop", (8, 9), 12, 432, 67.8, 33.9, 271, 31.5, LAPTOP),
        Card("RTX 4090 Laptop", (8, 9), 16, 576, 85.8, 42.9, 343, 31.5, LAPTOP),
    ),
    *_desktop(
        classes.GEFORCE_50,
        Card("RTX 5050", (12, 0), 8, 320, 26.3, 13.2, 105, 15.8, BLACKWELL),
        Card("RTX 5060", (12, 0), 8, 448, 38.4, 19.2, 154, 31.5, BLACKWELL),
        Card("RTX 5060 Ti", (12, 0), 16, 448, 47.4, 23.7, 190, 31.5, BLACKWELL),
        Card("RTX 5070", (12, 0), 12, 672, 61.7, 30.9, 247, 63.0, BLACKWELL),
        Card("RTX 5070 Ti", (12, 0), 16, 896, 87.9, 43.9, 352, 63.0, BLACKWELL),
        Card("RTX 5080", (12, 0), 16, 960, 112.6, 56.3, 450, 63.0, BLACKWELL),
        Card("RTX 5090", (12, 0), 32, 1792, 209.5, 104.8, 838, 63.0, BLACKWELL, price=0.69),
        Card("RTX 5090 D", (12, 0), 32, 1792, 148.4, 104.8, 594, 63.0, BLACKWELL),
        Card("RTX 5060 Laptop", (12, 0), 8, 384, 35.8, 17.9, 143, 31.5, LAPTOP),
        Card("RTX 5070 Laptop", (12, 0), 8, 384, 49.9, 24.9, 200, 31.5, LAPTOP),
        Card("RTX 5070 Ti Laptop", (12, 0), 12, 672, 62.0, 31.0, 248, 31.5, LAPTOP),
        Card("RTX 5080 Laptop", (12, 0), 16, 896, 83.4, 41.7, 334, 31.5, LAPTOP),
        Card("RTX 5090 Laptop", (12, 0), 24, 896, 114.0, 57.0, 456, 31.5, LAPTOP),
    ),
    Card("RTX A4000", (8, 6), 16, 448, 76.7, 19.2, 153, 31.5, SHEET, efficiency=classes.WORKSTATION),
    Card("RTX A5000", (8, 6), 24, 768, 111.1, 27.8, 222, 31.5, SHEET, efficiency=classes.WORKSTATION),
    Card("RTX A6000", (8, 6), 48, 768, 154.8, 38.7, 310, 31.5, SHEET, efficiency=classes.A6000),
    Card("RTX 4000 Ada", (8, 9), 20, 360, 106.9, 26.7, 214, 31.5, SHEET, efficiency=classes.ADA),
    Card("RTX 5000 Ada", (8, 9), 32, 576, 261.1, 65.3, 522, 31.5, SHEET, efficiency=classes.ADA),
    Card("RTX 6000 Ada", (8, 9), 48, 960, 364.2, 91.1, 728, 31.5, SHEET, efficiency=classes.ADA),
    Card("RTX PRO 5000", (12, 0), 48, 1344, 258.0, 64.5, 516, 63.0, WORKED_OUT, efficiency=classes.PRO),
    Card(
        "RTX PRO 6000",
        (12, 0),
        96,
        1792,
        503.8,
        126.0,
        1007,
        63.0,
        WORKED_OUT,
        price=0.89,
        efficiency=classes.PRO,
    ),
    Card(
        "RTX PRO 6000 Max-Q",
        (12, 0),
        96,
        1792,
        438.9,
        109.7,
        878,
        63.0,
        WORKED_OUT,
        efficiency=classes.MAX_Q,
    ),
    *_rented(
        Card("T4", (7, 5), 16, 320, 0, 8.1, 130, 15.8, SHEET, old_fp16=65, efficiency=classes.T4),
        Card("V100", (7, 0), 16, 900, 0, 15.7, 63, 15.8, SHEET, old_fp16=125),
        Card("L4", (8, 9), 24, 300, 121, 30.3, 242, 31.5, HALF_OF_SPARSE, price=0.44, efficiency=classes.ADA),
        Card("L20", (8, 9), 48, 864, 119.5, 59.8, 239, 31.5, SHEET, efficiency=classes.ADA),
        Card("A10", (8, 6), 24, 600, 125, 31.2, 250, 31.5, SHEET),
        Card("A10G", (8, 6), 24, 600, 70, 31.5, 140, 31.5, SHEET),
        Card("A40", (8, 6), 48, 696, 149.7, 37.4, 299, 31.5, SHEET),
        Card("L40", (8, 9), 48, 864, 181, 90.5, 362, 31.5, SHEET, price=0.69, efficiency=classes.L40),
        Card("L40S", (8, 9), 48, 864, 362, 91.6, 733, 31.5, SHEET, price=0.79, efficiency=classes.L40S),
        Card("A100", (8, 0), 80, 1935, 312, 19.5, 624, 31.5, SHEET, price=1.19, efficiency=classes.A100),
        Card("A100 40GB", (8, 0), 40, 1555, 312, 19.5, 624, 31.5, SHEET, efficiency=classes.A100),
        Card("A100 SXM4 40GB", (8, 0), 40, 1555, 312, 19.5, 624, 31.5, SHEET, efficiency=classes.A100),
        Card(
            "A100 SXM4 80GB",
            (8, 0),
            80,
            2039,
            312,
            19.5,
            624,
            31.5,
            SHEET,
            price=1.39,
            efficiency=classes.A100,
        ),
        Card(
            "H100 PCIe",
            (9, 0),
            80,
            2000,
            756,
            51,
            1513,
            63.0,
            SHEET,
            price=1.99,
            efficiency=classes.H100_PCIE,
        ),
        Card("H100 NVL", (9, 0), 94, 3938, 835, 60, 1671, 63.0, SHEET, efficiency=classes.HOPPER),
        Card("H100", (9, 0), 80, 3350, 989, 67, 1979, 63.0, SHEET, price=2.69, efficiency=classes.HOPPER),
        Card("H20", (9, 0), 96, 4000, 148, 44, 296, 63.0, SHEET, efficiency=classes.HOPPER),
        Card("GH200", (9, 0), 96, 4000, 989, 67, 1979, 63.0, SHEET, efficiency=classes.HOPPER),
        Card("H200", (9, 0), 141, 4800, 989, 67, 1979, 63.0, SHEET, price=3.59, efficiency=classes.HOPPER),
        Card("H200 NVL", (9, 0), 141, 4800, 835, 60, 1671, 63.0, SHEET, efficiency=classes.HOPPER),
        Card("B200", (10, 0), 180, 7700, 2250, 75, 4500, 63.0, SHEET, price=5.98, efficiency=classes.B200),
        Card("Instinct MI300X", None, 192, 5300, 1307, 163.4, 2615, 63.0, SHEET, efficiency=classes.MI300X),
    ),
    Card("Radeon RX 7900 XTX", None, 24, 960, 122.8, 61.4, 123, 31.5, SHEET),
)

RANGE = (
    "GeForce RTX 2060 to 5090 and their laptop cards, RTX A4000 to A6000, RTX Ada and PRO, "
    "T4 to B200, RX 7900 XTX, MI300X"
)
"""What is in the table, for people."""
ECC = frozenset({"T4", "L4", "L20", "A10", "A10G", "A40", "L40", "L40S"})
"""Cards that keep error-correcting codes in the memory of the label."""

TYPICAL = {
    6: "RTX 2060",
    8: "RTX 4060",
    10: "RTX 3080",
    11: "RTX 2080 Ti",
    12: "RTX 4070",
    16: "RTX 4080",
    24: "RTX 4090",
    32: "RTX 5090",
    40: "A100 SXM4 40GB",
    48: "RTX A6000",
    80: "H100",
    96: "RTX PRO 6000",
    141: "H200",
    180: "B200",
    192: "Instinct MI300X",
}
"""For a size alone: the card whose speed is taken."""


def _words(name: str) -> list[str]:
    text = re.sub(r"(rtx|gtx)(?=\d)", r"\1 ", name.lower())
    text = re.sub(r"(\d{4})(?=ti|super|xtx)", r"\1 ", text)
    text = re.sub(r"\b(\d{1,3})\s+(?=gi?b\b)", r"\1", text)
    return [word for word in re.split(r"[^a-z0-9]+", text) if word not in BRANDS]


def known(name: str) -> Card | None:
    """The card of a name as drivers and people write it, the most particular that fits; None if none does.

    ``known("NVIDIA GeForce RTX 4070 Ti SUPER").name == "RTX 4070 Ti SUPER"``, and so for "4070ti super". A
    size in the name is that of the card, whatever its table says: "RTX 4060 Ti 8GB", "A100-40".
    """
    words = _words(name)
    variant = VARIANTS.intersection(words)
    sizes = {int(match[1]): bool(match[2]) for word in words if (match := SIZE.fullmatch(word))}
    fits = [
        card
        for card in CARDS
        if _model(card.words) <= set(words)
        and variant == VARIANTS.intersection(card.words)
        and (_model(card.words) == set(card.words) or card.memory in sizes)
    ]
    card = max(fits, key=lambda card: len(card.words), default=None)
    # "GH200 480GB" counts what the processor beside it has, too
    size = next((size for size, unit in sizes.items() if unit and size <= 288), None)
    if card is None or not size or card.memory in sizes:
        return card
    return replace(card, name=f"{card.name} {size}GB", memory=size, price=None)


def _model(words: list[str]) -> set[str]:
    return {word for word in words if not SIZE.fullmatch(word)}


def strange(name: str, card: Card) -> list[str]:
    """Words of a name that the card of it lacks, and that mean nothing: it may be another one, or a typo."""
    rest = [word for word in _words(name) if word not in {*card.words, str(card.memory)}]
    return [word for word in rest if not PLAIN.fullmatch(word)]


def typical(memory: float, capability: tuple[int, int] | None = None) -> Card:
    """The card that stands for a size, in units of 2^30 bytes: that of the nearest size not above it.

    Args:
        memory: The size.
        capability: Of which the card has to be, if any in the table is.
    """
    if alike := [card for card in CARDS if capability and card.capability == capability]:
        smaller = [card for card in alike if card.memory <= memory + 0.5]
        return (
            max(smaller, key=lambda card: card.memory)
            if smaller
            else min(alike, key=lambda card: card.memory)
        )
    size = max((size for size in TYPICAL if size <= memory + 0.5), default=min(TYPICAL))
    return next(card for card in CARDS if card.name == TYPICAL[size])


@dataclass(frozen=True, kw_only=True)
class Circuits:
    """What a driver tells of a GPU that is in no table."""

    capability: tuple[int, int]
    cores: int
    """Of fp32 (CUDA cores)."""
    clock: float
    """Highest, MHz."""
    memory_clock: float
    """MHz; two transfers each."""
    bus_width: int
    """Bits of the memory's bus."""
    pcie: float
    """10^9 bytes per second, one direction."""


CORES = {(7, 0): 64, (7, 2): 64, (7, 5): 64, (8, 0): 64}
"""Cores of a multiprocessor by compute capability; 128 in all others."""
TENSOR = {(7, 0): 1024, (7, 5): 1024, (8, 0): 2048, (9, 0): 4096, (10, 0): 8192, (10, 3): 8192}
"""Floating-point operations of a multiprocessor in a clock, in 16-bit products that add up in fp32, by
compute capability; 1024 in all others, and half of it on GeForce cards from Turing on but those of data
centres. So the sheets of A100 (108 multiprocessors at 1.41 GHz: 312 TFLOP/s), RTX A6000 (84 at 1.80: 154.8),
RTX 4090 (128 at 2.52: 165.2), H100 (132 at 1.83: 989), B200."""


def estimated(name: str, memory: float, circuits: Circuits) -> Card:
    """A card that is in no table, by its circuits and clocks: peak = multiprocessors x operations x clock.

    Args:
        name: As the driver calls it.
        memory: In units of 2^30 bytes, as CUDA has it.
        circuits: What the driver tells.
    """
    capability = circuits.capability
    multiprocessors = circuits.cores / CORES.get(capability, 128)
    clock = circuits.clock * 1e6
    full = multiprocessors * TENSOR.get(capability, 1024) * clock / 1e12
    half = full / 2 if "geforce" in name.lower() else full
    return Card(
        name,
        capability,
        memory,
        2 * circuits.memory_clock * 1e6 * circuits.bus_width / 8 / 1e9,
        half if capability >= (8, 0) else 0,
        2 * circuits.cores * clock / 1e12,
        2 * full,
        circuits.pcie,
        "worked out from the multiprocessors and clocks that its driver tells",
        old_fp16=half,
    )
