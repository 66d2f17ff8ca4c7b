"""SimpleTuner's table of steps on an L40S and an H100, as cases of ``published_cases``.

Its steps of small models are bound by the host: of Z-Image and SDXL they take nearly the same on both cards,
27 to 46 microseconds for each kernel that is traced.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from benchmarks.speed.published_peers import (
    Case,
    chroma,
    chroma_model,
    krea2,
    model,
    qwen,
    sd3,
    sdxl,
    z_image,
)
from diffusers import (
    Krea2Transformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    ZImageTransformer2DModel,
)

TUNER = "SimpleTuner, documentation/experimental/SEGMENTED_CHECKPOINTING.md and its example configs"


def _tuner(
    name: str, rows: tuple[int, ...], *, h100: tuple[float, float], l40s: tuple[float, float], **rest: Any
) -> Iterator[Case]:
    """What its table says of one setting on both of its cards: (seconds, GiB) of each."""
    suffix = "checkpointed" if rest.get("checkpoints") else "plain"
    case = Case(
        name=f"{name}-l40s-{suffix}",
        rows=rows,
        card="L40S",
        source=TUNER,
        seconds=l40s[0],
        memory=l40s[1],
        **{"trust": "A", **rest},
    )
    yield case
    if h100[0]:
        seconds, memory = h100
        case = replace(case, name=f"{name}-h100-{suffix}", card="H100", seconds=seconds, memory=memory)
        bound = {"timed": False, "remark": f"{case.remark}; bound by launches"} if name == "z-image" else {}
        yield replace(case, **bound)


SD35: dict[str, Any] = {
    "peer": "SimpleTuner, SD 3.5 Medium, 1024 px, batch 3, rank 128 on attention, dropout 0.1, bf16 autocast",
    "model": lambda: model(SD3Transformer2DModel, "sd35-medium"),
    "inputs": sd3(1024, 231),
    "images": 3,
    "rank": 128,
    "dropout": 0.1,
}
Z_IMAGE: dict[str, Any] = {
    "peer": "SimpleTuner, Z-Image-Turbo, 512 px, batch 1, rank 64 on attention",
    "model": lambda: model(ZImageTransformer2DModel, "z-image"),
    "inputs": z_image(512, 64),
    "rank": 64,
    "remark": "its training adapter, about 0.3 GiB, lies beside",
}
KREA: dict[str, Any] = {
    "peer": "SimpleTuner, Krea 2, 512 px, batch 1, rank 64 on attention, not compiled",
    "remark": "its module joins q, k and v and has norms in fp32: another graph",
    "model": lambda: model(Krea2Transformer2DModel, "krea2"),
    "inputs": krea2(512, 128),
    "rank": 64,
    "trust": "B",
    "timed": False,
}
QWEN: dict[str, Any] = {
    "peer": "SimpleTuner, Qwen-Image, 1024 px, batch 1, rank 8 on attention",
    "remark": "its attention is masked, which rules the fast kernel out; length of the caption not said",
    "model": lambda: model(QwenImageTransformer2DModel, "qwen-image"),
    "inputs": qwen(1024, 16),
    "rank": 8,
    "trust": "B",
    "timed": False,
}
CHROMA: dict[str, Any] = {
    "peer": "SimpleTuner, Chroma, 512 px, batch 1, rank 16 on attention",
    "remark": "length of the caption not said",
    "model": chroma_model,
    "inputs": chroma(512, 512),
    "rank": 16,
    "trust": "B",
}
SDXL: dict[str, Any] = {
    "peer": "SimpleTuner, SDXL, 1024 px, batch 1, LoKr by LyCORIS; traced as LoRA of rank 32",
    "remark": "LyCORIS' bypass is another graph, bound by launches",
    "model": lambda: model(UNet2DConditionModel, "sdxl", "unet"),
    "inputs": sdxl(1024),
    "rank": 32,
    "trust": "B",
    "timed": False,
}
SETTINGS = (
    *_tuner("sd35-medium", (7, 8), h100=(0.529, 34.59), l40s=(1.189, 34.53), **SD35),
    *_tuner("sd35-medium", (9, 10), h100=(0.721, 7.67), l40s=(1.607, 7.62), **SD35, checkpoints=True),
    *_tuner("z-image", (11, 13), h100=(0.243, 21.25), l40s=(0.316, 21.25), **Z_IMAGE),
    *_tuner("z-image", (12, 14), h100=(0.479, 12.87), l40s=(0.493, 12.87), **Z_IMAGE, checkpoints=True),
    *_tuner("qwen-image", (15, 16), h100=(1.202, 41.04), l40s=(3.377, 41.04), **QWEN, checkpoints=True),
    *_tuner("chroma", (17,), h100=(0, 0), l40s=(0.559, 26.18), **CHROMA),
    *_tuner("krea2", (18, 20), h100=(0.272, 40.09), l40s=(0.661, 40.09), **KREA),
    *_tuner("krea2", (19, 21), h100=(0.371, 30.06), l40s=(0.919, 30.06), **KREA, checkpoints=True),
    *_tuner("sdxl-lokr", (22,), h100=(0.606, 13.03), l40s=(0.585, 13.03), **SDXL),
    *_tuner("sdxl-lokr", (23,), h100=(1.08, 6.53), l40s=(1.029, 6.53), **SDXL, checkpoints=True),
)
"""Numbers 7 to 23."""
