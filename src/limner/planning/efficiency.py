"""What share of its maker's peak a class of card reaches. No torch.

A card's sheet says what its circuits could do; what programs get of it differs by class. GeForce cards add up
in fp32 at half the rate of their products, so their tensor cores are easily kept busy, and they run above the
clock of the sheet; cards of data centres are held back by power. All are shares of the peaks in
``planning.cards``, of the best published products in bf16 where nothing else is said:

* RTX 4090 178.5 of 165.2 TFLOP/s, 3090 78.0 of 71.2, 3090 Ti 86.0 of 80, 5090 254 of 209.5, A5000 93.9 of 111
  (github.com/mag-/gpu_benchmark and xzwgit/gpu-flops-bench). A model's own shapes reach less than the best
  one: shares of 1.00 on GeForce and of 0.76 on Hopper give the published seconds of whole steps (``python -m
  benchmarks.speed.published``).
* A100 271 (SXM) and 253 (PCIe) of 312, H100 SXM 794 and H200 788 of 989, H100 PCIe 499.5 of 756, B200 1745 of
  2250, L40 170 of 181, L40S 252 of 362, L4 91 of 121, RTX 6000 Ada 278 of 364, MI300X 668 of 1307 (Maximum
  achievable matmul FLOPS: github.com/stas00/ml-engineering, and the two above). A6000: 95 of 154.8, in fp16
  (github.com/mli/transformers-benchmarks). RTX PRO 6000 457.6 of 503.8.
* Cards that are held back by power, by whole steps: T4 at 70 W about a third, as a step of FLUX.1 in NF4 took
  5.1 s (huggingface.co/blog/flux-qlora); RTX PRO 6000 Max-Q at 300 W three quarters, as a step of Krea 2 took
  2.0 (musubi-tuner, pull request 1008).
* Products in 8 bits: 4090 fp8 354 of 330, int8 676 of 661; 5090 fp8 773 and int8 906 of 838; PRO 6000 905 and
  845 of 1007; H200 fp8 1453 to 1661 and int8 1630 of 1979.
* Attention: A5000 81.7 forward and 74.8 backward of 111 (FlashAttention-2, heads of 64, 4096 tokens); A100
  .70 and .60 (arXiv 2307.08691, section 4.1); H100 .62 and .50 (arXiv 2407.08608, figures 5 and 6).
* Memory: 4090 866 to 921 of 1008 GB/s, H200 4300 of 4800 in copies. A model's own eager kernels, of which
  many read with strides, reach about two fifths on Hopper: what the eager forward passes of FLUX.1 on an H100
  leave over when products and attention are taken off (github.com/sayakpaul/diffusers-torchao, README); three
  quarters on an L40S, by SimpleTuner's steps of SD 3.5.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Shares of the peak rates, 0 to about 1.2."""

    gemm: float
    """Of matrix products in bf16, and of those in fp32."""
    attention: float
    """Of the peak of products, reached by attention kernels forward."""
    attention_backward: float
    traffic: float
    """Of the memory's peak, reached by kernels that read and write in order: copies, and what a compiler
    makes."""
    eager: float
    """The same, reached by a model's own elementwise kernels."""
    eight: Mapping[Literal["int8", "fp8"], float]
    """Of the peak of products in 8 bits."""
    assumed: bool = False
    """Whether nobody has published figures of the class."""


GEFORCE = Efficiency(
    gemm=1.0,
    attention=0.85,
    attention_backward=0.66,
    traffic=0.88,
    eager=0.88,
    eight={"int8": 1.0, "fp8": 1.05},
)
"""RTX 20, 30 and 40."""
GEFORCE_50 = Efficiency(
    gemm=1.15,
    attention=0.85,
    attention_backward=0.66,
    traffic=0.86,
    eager=0.86,
    eight={"int8": 1.05, "fp8": 0.92},
)
WORKSTATION = Efficiency(
    gemm=0.85,
    attention=0.74,
    attention_backward=0.67,
    traffic=0.85,
    eager=0.85,
    eight={"int8": 0.85, "fp8": 0.85},
)
"""RTX A4000, A5000."""
A6000 = Efficiency(
    gemm=0.61,
    attention=0.53,
    attention_backward=0.48,
    traffic=0.85,
    eager=0.85,
    eight={"int8": 0.61, "fp8": 0.61},
)
ADA = Efficiency(
    gemm=0.76,
    attention=0.6,
    attention_backward=0.5,
    traffic=0.85,
    eager=0.85,
    eight={"int8": 0.76, "fp8": 0.76},
)
"""RTX 4000, 5000 and 6000 Ada, L4, L20."""
L40 = Efficiency(
    gemm=0.94,
    attention=0.74,
    attention_backward=0.67,
    traffic=0.85,
    eager=0.85,
    eight={"int8": 0.94, "fp8": 0.94},
)
L40S = Efficiency(
    gemm=0.7,
    attention=0.55,
    attention_backward=0.46,
    traffic=0.88,
    eager=0.75,
    eight={"int8": 0.7, "fp8": 0.7},
)
PRO = Efficiency(
    gemm=0.91,
    attention=0.74,
    attention_backward=0.6,
    traffic=0.86,
    eager=0.86,
    eight={"int8": 0.84, "fp8": 0.9},
)
"""RTX PRO 5000 and 6000."""
MAX_Q = Efficiency(
    gemm=0.75,
    attention=0.6,
    attention_backward=0.5,
    traffic=0.86,
    eager=0.86,
    eight={"int8": 0.69, "fp8": 0.74},
)
A100 = Efficiency(
    gemm=0.84,
    attention=0.7,
    attention_backward=0.6,
    traffic=0.88,
    eager=0.6,
    eight={"int8": 0.84, "fp8": 0.84},
)
HOPPER = Efficiency(
    gemm=0.76,
    attention=0.62,
    attention_backward=0.5,
    traffic=0.9,
    eager=0.4,
    eight={"int8": 0.82, "fp8": 0.79},
)
"""H100 SXM and NVL, H200, GH200, H20."""
H100_PCIE = Efficiency(
    gemm=0.66,
    attention=0.44,
    attention_backward=0.34,
    traffic=0.88,
    eager=0.47,
    eight={"int8": 0.66, "fp8": 0.66},
)
B200 = Efficiency(
    gemm=0.78,
    attention=0.6,
    attention_backward=0.5,
    traffic=0.9,
    eager=0.4,
    eight={"int8": 0.78, "fp8": 0.78},
)
MI300X = Efficiency(
    gemm=0.51,
    attention=0.4,
    attention_backward=0.3,
    traffic=0.75,
    eager=0.5,
    eight={},
)
T4 = Efficiency(
    gemm=0.35,
    attention=0.25,
    attention_backward=0.2,
    traffic=0.75,
    eager=0.75,
    eight={"int8": 0.35, "fp8": 0.35},
)
UNKNOWN = Efficiency(
    gemm=0.72,
    attention=0.6,
    attention_backward=0.5,
    traffic=0.75,
    eager=0.75,
    eight={"int8": 0.72, "fp8": 0.72},
    assumed=True,
)
"""Cards of which nobody has published what they reach."""
