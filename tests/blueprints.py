"""Profiles made of numbers alone: FLUX.1-dev as it was measured once, and small ones of any shape."""

from limner.nn.memory.plan import Weights
from limner.planning.profile import Affine, Block, OpCounts, Profile, Stage

MIB = 2**20
TERA = 1e12


def stored(numbers: int) -> dict[Weights, int]:
    return {
        "fp32": 4 * numbers,
        "bf16": 2 * numbers,
        "fp16": 2 * numbers,
        "int8": numbers + numbers // 1000,
        "fp8": numbers + numbers // 1000,
        "nf4": numbers // 2 + numbers // 16,
    }


def block(kind: str, numbers: int, modulation: int, *, saved: float, tail: float, share: float) -> Block:
    """One block of FLUX at 1024 pixels for ``share`` 1, less at fewer tokens. MiB and TFLOP for one image."""
    return Block(
        kind=kind,
        weight_bytes=stored(numbers),
        other=20_000,
        modulation=2 * modulation,
        widest=2 * 3072 * 12288,
        saved=Affine(0, saved * MIB * share),
        input=Affine(0, 27 * MIB * share),
        attention_kept=Affine(0, 28 * MIB * share),
        forward=OpCounts(
            gemm=Affine(0, 1.048 * TERA * share),
            attention=Affine(0, 0.261 * TERA * share**2),
            traffic=Affine(0, 2.9e9 * share),
            kernels=60,
        ),
        backward=OpCounts(
            gemm=Affine(0, 1.05 * TERA * share),
            attention=Affine(0, 0.652 * TERA * share**2),
            traffic=Affine(0, 2.2e9 * share),
            kernels=110,
        ),
        tail=OpCounts(gemm=Affine(0, tail * TERA * share)),
        trained=26_100_000 // 57,
    )


def flux(resolution: int = 1024, doubles: int = 19, singles: int = 38) -> Profile:
    """FLUX.1-dev with a LoRA of rank 16, from one traced step, scaled to the tokens of another size."""
    share = (512 + (resolution // 16) ** 2) / 4608
    double = block("double", 226_500_000, 113_200_000, saved=354, tail=0.348, share=share)
    single = block("single", 113_300_000, 28_300_000, saved=326, tail=0.435, share=share)
    rest = block("rest", 64_000_000, 0, saved=10, tail=0, share=share)
    nothing = OpCounts(gemm=Affine(0, 0.1 * TERA * share), kernels=40)
    rest = Block(
        **(rest.__dict__ | {"forward": nothing, "backward": nothing, "tail": OpCounts(), "trained": 0})
    )
    return Profile(
        base="flux-dev",
        family="flux",
        size=(resolution, resolution),
        blocks=(double,) * doubles + (single,) * singles,
        rest=rest,
        trained=26_100_000,
        tensors=988,
        forward=Affine(0, 90 * MIB * share),
        backward=Affine(0, 230 * MIB * share),
        recompute=Affine(0, 260 * MIB * share),
        factored=200_000,
        constants=0,
        stages=(
            Stage(
                phase="cache",
                name="text_encoder_2 reads a caption",
                weights=9_520_000_000,
                layerwise_weights=400_000_000,
                activations=300 * MIB,
                work=OpCounts(gemm=Affine(0, 4.8 * TERA), kernels=900),
                times="caption",
            ),
            Stage(
                phase="cache",
                name="vae sees an image",
                weights=170_000_000,
                layerwise_weights=170_000_000,
                activations=round(2900 * MIB * share),
                work=OpCounts(gemm=Affine(0, 3.0 * TERA * share), kernels=300),
                times="image",
            ),
            Stage(
                phase="sample",
                name="transformer takes a step",
                weights=0,
                layerwise_weights=0,
                activations=round(400 * MIB * share),
                work=OpCounts(
                    gemm=Affine(0, 60 * TERA * share), attention=Affine(0, 15 * TERA * share), kernels=3400
                ),
                times="sample step",
            ),
        ),
        entry=4_500_000,
        download=33_700_000_000,
        cast=False,
    )


def small(blocks: int = 6, *, width: int = 64, saved: int = 3 * MIB) -> Profile:
    """A profile of ``blocks`` equal blocks, a few MiB each."""
    one = Block(
        kind="block",
        weight_bytes=stored(width * width * 200),
        other=4 * width,
        modulation=width * width * 40,
        widest=width * width * 16,
        saved=Affine(1000, saved),
        input=Affine(0, saved // 8),
        attention_kept=Affine(0, saved // 9),
        forward=OpCounts(gemm=Affine(0, 2e9), attention=Affine(0, 1e8), traffic=Affine(1e5, 2e7), kernels=40),
        backward=OpCounts(
            gemm=Affine(0, 3e9), attention=Affine(0, 2e8), traffic=Affine(1e5, 3e7), kernels=70
        ),
        tail=OpCounts(gemm=Affine(0, 3e8)),
        trained=5000,
    )
    return Profile(
        base="small",
        family="small",
        size=(64, 64),
        blocks=(one,) * blocks,
        rest=one,
        trained=5000 * (blocks + 1),
        tensors=8 * (blocks + 1),
        forward=Affine(0, saved // 4),
        backward=Affine(0, saved // 2),
        recompute=Affine(0, saved // 2),
    )
