"""Cards that people train on, by what their makers say of them. No torch: planning needs no card.

Peak rates are dense (no sparsity), in 10^12 operations per second, of matrix products in bf16 that add up in
fp32, in fp32 outside the tensor cores, and in int8. Bandwidth and PCIe are in 10^9 bytes per second, memory
in units of 2^30 bytes, as on the label. GeForce cards add up in fp32 at half the rate of fp16; the rates
here are those.

What a maker states with sparsity is halved: of L4 the sheet says 242 TFLOP/s in bf16, 485 TOP/s in int8. Of
RTX 5090 int8, and of RTX PRO 6000 bf16 and int8, are worked out from the one figure on the pages of these
products, "AI TOPS" (3352 and 4000), in 4 bits with sparsity: a quarter of it in 8 bits without, an eighth in
bf16, which agrees with multiprocessors times clock. Nobody has timed them here.
"""

import re
from dataclasses import dataclass
from typing import Literal

from limner.nn.layers.precision import CAPABLE

AMPERE = "NVIDIA, Ampere GA102 GPU Architecture whitepaper, and the product page"
TURING = "NVIDIA, Turing GPU Architecture whitepaper, and the product page"
ADA = "NVIDIA, Ada GPU Architecture whitepaper, appendix A, and the product page"
BLACKWELL = "NVIDIA, RTX Blackwell GPU Architecture whitepaper, and the product page"
SHEET = "the maker's data sheet"
HALF_OF_SPARSE = "the maker's data sheet, whose rates with sparsity are halved"
WORKED_OUT = "NVIDIA, the product page; rates of products in 16 and 8 bits are worked out from its AI TOPS"
BRANDS = {"", "nvidia", "geforce", "amd", "radeon", "rtx", "rx", "instinct", "tesla", "gpu"}
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
    old_fp16: float = 0
    """Of products in fp16 that add up in fp32, of a card without bf16; of others that is ``bf16``."""

    @property
    def fp16(self) -> float:
        """Of products in fp16 that add up in fp32."""
        return self.bf16 or self.old_fp16

    @property
    def w8a8(self) -> dict[Literal["int8", "fp8"], float]:
        """Peak of products in 8 bits, as far as it has them, in the unit of ``bf16``.

        fp8 that adds up in fp32 has twice the rate of bf16 on every card that has it, without sparsity: 330.3
        to 165.2 on RTX 4090 (Ada whitepaper, app. A, which says twice as much before its version 2.02),
        362 to 181 on L40, 733 to 362 on L40S, 1979 to 989 on H100 and H200, 4500 to 2250 on B200 (the data
        sheets).
        """
        peaks: dict[Literal["int8", "fp8"], float] = {"int8": self.int8, "fp8": 2 * self.bf16}
        capability = self.capability or (0, 0)
        return {kind: peak for kind, peak in peaks.items() if capability >= CAPABLE[kind]}

    @property
    def words(self) -> list[str]:
        """The parts of its name that tell it apart."""
        return _words(self.name)


CARDS = (
    Card("RTX 2060", (7, 5), 6, 336, 0, 6.5, 103, 15.8, TURING, old_fp16=25.8),
    Card("RTX 2070", (7, 5), 8, 448, 0, 7.5, 119, 15.8, TURING, old_fp16=29.9),
    Card("RTX 2080", (7, 5), 8, 448, 0, 10.1, 161, 15.8, TURING, old_fp16=40.3),
    Card("RTX 2080 Ti", (7, 5), 11, 616, 0, 13.4, 215, 15.8, TURING, old_fp16=53.8),
    Card("RTX 3060", (8, 6), 12, 360, 25.5, 12.7, 102, 31.5, AMPERE),
    Card("RTX 3060 Ti", (8, 6), 8, 448, 32.4, 16.2, 130, 31.5, AMPERE),
    Card("RTX 3070", (8, 6), 8, 448, 40.6, 20.3, 163, 31.5, AMPERE),
    Card("RTX 3080", (8, 6), 10, 760, 59.5, 29.8, 238, 31.5, AMPERE),
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
    Card("RTX 5060 Ti", (12, 0), 16, 448, 47.4, 23.7, 190, 31.5, BLACKWELL),
    Card("RTX 5070", (12, 0), 12, 672, 61.7, 30.9, 247, 63.0, BLACKWELL),
    Card("RTX 5070 Ti", (12, 0), 16, 896, 87.9, 43.9, 352, 63.0, BLACKWELL),
    Card("RTX 5080", (12, 0), 16, 960, 112.6, 56.3, 450, 63.0, BLACKWELL),
    Card("RTX 5090", (12, 0), 32, 1792, 209.5, 104.8, 838, 63.0, BLACKWELL, price=0.69),
    Card("RTX A5000", (8, 6), 24, 768, 111.1, 27.8, 222, 31.5, SHEET),
    Card("RTX A6000", (8, 6), 48, 768, 154.8, 38.7, 310, 31.5, SHEET),
    Card("RTX 6000 Ada", (8, 9), 48, 960, 364.2, 91.1, 728, 31.5, SHEET),
    Card("RTX PRO 6000", (12, 0), 96, 1792, 503.8, 126.0, 1007, 63.0, WORKED_OUT, price=0.89),
    Card("T4", (7, 5), 16, 320, 0, 8.1, 130, 15.8, SHEET, desktop=False, old_fp16=65),
    Card("V100", (7, 0), 16, 900, 0, 15.7, 63, 15.8, SHEET, desktop=False, old_fp16=125),
    Card("L4", (8, 9), 24, 300, 121, 30.3, 242, 31.5, HALF_OF_SPARSE, desktop=False, price=0.44),
    Card("A10", (8, 6), 24, 600, 125, 31.2, 250, 31.5, SHEET, desktop=False),
    Card("A40", (8, 6), 48, 696, 149.7, 37.4, 299, 31.5, SHEET, desktop=False),
    Card("L40", (8, 9), 48, 864, 181, 90.5, 362, 31.5, SHEET, desktop=False, price=0.69),
    Card("L40S", (8, 9), 48, 864, 362, 91.6, 733, 31.5, SHEET, desktop=False, price=0.79),
    Card("A100", (8, 0), 80, 1935, 312, 19.5, 624, 31.5, SHEET, desktop=False, price=1.19),
    Card("A100 SXM4 40GB", (8, 0), 40, 1555, 312, 19.5, 624, 31.5, SHEET, desktop=False),
    Card("A100 SXM4 80GB", (8, 0), 80, 2039, 312, 19.5, 624, 31.5, SHEET, desktop=False, price=1.39),
    Card("H100 PCIe", (9, 0), 80, 2000, 756, 51, 1513, 63.0, SHEET, desktop=False, price=1.99),
    Card("H100", (9, 0), 80, 3350, 989, 67, 1979, 63.0, SHEET, desktop=False, price=2.69),
    Card("H200", (9, 0), 141, 4800, 989, 67, 1979, 63.0, SHEET, desktop=False, price=3.59),
    Card("B200", (10, 0), 180, 7700, 2250, 75, 4500, 63.0, SHEET, desktop=False, price=5.98),
    Card("Radeon RX 7900 XTX", None, 24, 960, 122.8, 61.4, 123, 31.5, SHEET),
    Card("Instinct MI300X", None, 192, 5300, 1307, 163.4, 2615, 63.0, SHEET, desktop=False),
)

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
    return [word for word in re.split(r"[^a-z0-9]+", text) if word not in BRANDS]


def known(name: str) -> Card | None:
    """The card of a name as drivers and people write it, the most particular that fits; None if none does.

    ``known("NVIDIA GeForce RTX 4070 Ti SUPER").name == "RTX 4070 Ti SUPER"``, and so for "4070ti super".
    """
    words = _words(name)
    fits = [card for card in CARDS if set(card.words) <= set(words)]
    return max(fits, key=lambda card: len(card.words), default=None)


def typical(memory: float) -> Card:
    """The card that stands for a size, in units of 2^30 bytes: that of the nearest size not above it."""
    size = max((size for size in TYPICAL if size <= memory + 0.5), default=min(TYPICAL))
    return next(card for card in CARDS if card.name == TYPICAL[size])
