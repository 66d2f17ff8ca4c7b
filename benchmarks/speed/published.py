"""What other programs took on real GPUs, beside what the planner says of the very same computation.

    python -m benchmarks.speed.published [--cases flux-nf4-4090 ..] [--out FOLDER]

Each case is a peer's own module configuration: diffusers' transformer on the meta device, adapters by peft,
the peer's precision, checkpointing and sizes. The tracer counts its step, the rates of the named card turn
that into seconds, and the ratio to what was published tells whether the planner's rates are true. No GPU, no
network.

How far a figure can be trusted: A, settings known and measured by the authors; B, some settings are missing.
"""

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.outcome import RESULTS, save, table
from diffusers import (
    FluxTransformer2DModel,
    Krea2Transformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    ZImageTransformer2DModel,
)
from peft import LoraConfig
from torch import Tensor, nn

from limner.models.bundled import known as configs_of
from limner.nn.memory.plan import Weights
from limner.planning.cards import known
from limner.planning.devices import Device, of_card
from limner.planning.memory import WORKSPACE
from limner.planning.profile import Affine, OpCounts
from limner.planning.time import seconds_of
from limner.planning.trace import Machine, Trace, trace
from limner.planning.tracker import Segment

GIB = 2**30
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One published measurement."""

    name: str
    card: str
    peer: str
    """Program, with its settings."""
    source: str
    trust: str
    model: Callable[[], nn.Module]
    """The denoiser, on the meta device."""
    inputs: Callable[[int], dict[str, Any]]
    """Of so many images."""
    images: int = 1
    rank: int = 0
    """Of LoRA; 0: a forward pass without gradients."""
    targets: Sequence[str] = ATTENTION
    dropout: float = 0.0
    checkpoints: bool = False
    weights: Weights = "bf16"
    compiled: bool = False
    seconds: float | None = None
    """Published."""
    memory: float | None = None
    """Published, in units of 2^30 bytes: most that torch allocated."""
    remark: str = ""
    """Why it may be another computation."""


def _model(kind: Any, base: str) -> nn.Module:
    config = configs_of(base).config("transformer")
    with torch.device("meta"):
        return kind.from_config(config).to(torch.bfloat16)


def _numbers(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta", dtype=torch.bfloat16)


def flux(height: int, width: int, text: int) -> Callable[[int], dict[str, Any]]:
    """Inputs of FLUX.1: pixels of the image, tokens of the caption."""
    tokens = height * width // 256

    def inputs(images: int) -> dict[str, Any]:
        return {
            "hidden_states": _numbers(images, tokens, 64),
            "encoder_hidden_states": _numbers(images, text, 4096),
            "pooled_projections": _numbers(images, 768),
            "timestep": _numbers(images),
            "guidance": _numbers(images),
            "img_ids": _numbers(tokens, 3),
            "txt_ids": _numbers(text, 3),
        }

    return inputs


def sd3(side: int, text: int) -> Callable[[int], dict[str, Any]]:
    """Inputs of SD 3.5."""

    def inputs(images: int) -> dict[str, Any]:
        return {
            "hidden_states": _numbers(images, 16, side // 8, side // 8),
            "encoder_hidden_states": _numbers(images, text, 4096),
            "pooled_projections": _numbers(images, 2048),
            "timestep": _numbers(images),
        }

    return inputs


def z_image(side: int, text: int) -> Callable[[int], dict[str, Any]]:
    """Inputs of Z-Image."""

    def inputs(images: int) -> dict[str, Any]:
        return {
            "x": [_numbers(16, 1, side // 8, side // 8) for _ in range(images)],
            "t": _numbers(images),
            "cap_feats": [_numbers(text, 2560) for _ in range(images)],
        }

    return inputs


def krea2(side: int, text: int) -> Callable[[int], dict[str, Any]]:
    """Inputs of Krea 2."""
    config = configs_of("krea2").config("transformer")
    tokens = side * side // 256

    def inputs(images: int) -> dict[str, Any]:
        return {
            "hidden_states": _numbers(images, tokens, config["in_channels"]),
            "encoder_hidden_states": _numbers(
                images, text, config["num_text_layers"], config["text_hidden_dim"]
            ),
            "timestep": _numbers(images),
            "position_ids": torch.empty(text + tokens, 3, device="meta"),
        }

    return inputs


def qwen(side: int, text: int) -> Callable[[int], dict[str, Any]]:
    """Inputs of Qwen-Image."""
    tokens = side // 16

    def inputs(images: int) -> dict[str, Any]:
        return {
            "hidden_states": _numbers(images, tokens * tokens, 64),
            "encoder_hidden_states": _numbers(images, text, 3584),
            "encoder_hidden_states_mask": torch.empty(images, text, device="meta", dtype=torch.bool),
            "timestep": _numbers(images),
            "img_shapes": [[(1, tokens, tokens)]] * images,
        }

    return inputs


BLOG = "huggingface.co/blog/flux-qlora"
TUNER = "SimpleTuner, documentation/experimental/SEGMENTED_CHECKPOINTING.md and its example configs"
AO = "github.com/sayakpaul/diffusers-torchao, README; a 28th, less encoding and VAE (0.1 + 0.1 s an image)"


def _flux() -> nn.Module:
    return _model(FluxTransformer2DModel, "flux-dev")


def _forward(card: str, images: int, seconds: float, *, compiled: bool) -> Case:
    how = "compiled" if compiled else "eager"
    return Case(
        name=f"flux-forward-{how}-b{images}",
        card=card,
        peer=f"diffusers, FLUX.1-dev, a forward pass, 1024 px, batch {images}, bf16, {how}",
        source=AO,
        trust="A",
        model=_flux,
        inputs=flux(1024, 1024, 512),
        images=images,
        compiled=compiled,
        seconds=seconds,
    )


def _tuner(
    name: str, *, card: str, seconds: float, memory: float, checkpoints: bool, trust: str = "A", **rest: Any
) -> Case:
    return Case(
        name=f"{name}-{card.lower()}-{'checkpointed' if checkpoints else 'plain'}",
        card=card,
        source=TUNER,
        trust=trust,
        seconds=seconds,
        memory=memory,
        checkpoints=checkpoints,
        **rest,
    )


SD35 = {
    "peer": "SimpleTuner, SD 3.5 Medium, 1024 px, batch 3, rank 128 on attention, dropout 0.1, bf16 autocast",
    "model": lambda: _model(SD3Transformer2DModel, "sd35-medium"),
    "inputs": sd3(1024, 231),
    "images": 3,
    "rank": 128,
    "dropout": 0.1,
}
Z_IMAGE = {
    "peer": "SimpleTuner, Z-Image-Turbo, 512 px, batch 1, rank 64 on attention",
    "model": lambda: _model(ZImageTransformer2DModel, "z-image"),
    "inputs": z_image(512, 64),
    "rank": 64,
}
KREA = {
    "peer": "SimpleTuner, Krea 2, 512 px, batch 1, rank 64 on attention, not compiled",
    "remark": "its module joins q, k and v and has norms in fp32: another graph",
    "model": lambda: _model(Krea2Transformer2DModel, "krea2"),
    "inputs": krea2(512, 128),
    "rank": 64,
}
QWEN = {
    "peer": "SimpleTuner, Qwen-Image, 1024 px, batch 1, rank 8 on attention",
    "remark": "its attention is masked, which rules the fast kernel out; length of the caption not said",
    "model": lambda: _model(QwenImageTransformer2DModel, "qwen-image"),
    "inputs": qwen(1024, 16),
    "rank": 8,
}
CASES = (
    Case(
        name="flux-nf4-4090",
        card="RTX 4090",
        peer="diffusers, FLUX.1-dev QLoRA, 512 x 768, text 77, rank 4 on attention, NF4, all checkpointed",
        source=BLOG,
        trust="A",
        model=_flux,
        inputs=flux(512, 768, 77),
        rank=4,
        checkpoints=True,
        weights="nf4",
        seconds=0.879,
    ),
    Case(
        name="krea2-fp8-3090",
        card="RTX 3090",
        peer="musubi-tuner, Krea 2, 1024 px, batch 1, fp8 weights, all checkpointed",
        source="github.com/kohya-ss/musubi-tuner, pull request 1008",
        trust="A",
        model=lambda: _model(Krea2Transformer2DModel, "krea2"),
        inputs=krea2(1024, 128),
        rank=32,
        targets="all-linear",
        checkpoints=True,
        weights="fp8",
        seconds=7.1,
    ),
    _forward("H100", 1, 0.228, compiled=False),
    _forward("H100", 4, 0.869, compiled=False),
    _forward("H100", 8, 1.734, compiled=False),
    _forward("H100", 1, 0.143, compiled=True),
    _forward("H100", 4, 0.552, compiled=True),
    _forward("H100", 8, 1.099, compiled=True),
    _tuner("sd35-medium", card="L40S", seconds=1.189, memory=34.53, checkpoints=False, **SD35),
    _tuner("sd35-medium", card="L40S", seconds=1.607, memory=7.62, checkpoints=True, **SD35),
    _tuner("z-image", card="L40S", seconds=0.316, memory=21.25, checkpoints=False, **Z_IMAGE),
    _tuner("z-image", card="L40S", seconds=0.493, memory=12.87, checkpoints=True, **Z_IMAGE),
    _tuner("krea2", card="L40S", seconds=0.661, memory=40.09, checkpoints=False, trust="B", **KREA),
    _tuner("krea2", card="L40S", seconds=0.919, memory=30.06, checkpoints=True, trust="B", **KREA),
    _tuner("qwen-image", card="L40S", seconds=3.377, memory=41.04, checkpoints=True, trust="B", **QWEN),
    Case(
        name="flux-bf16-memory",
        card="RTX 4090",
        peer="diffusers, FLUX.1-dev, 512 x 768, text 77, rank 4 on attention, bf16, all checkpointed",
        source=BLOG,
        trust="B",
        model=_flux,
        inputs=flux(512, 768, 77),
        rank=4,
        checkpoints=True,
        memory=24.21,
        remark="said in GB, of which kind is not said",
    ),
    Case(
        name="qwen-image-musubi-memory",
        card="L40S",
        peer="musubi-tuner, Qwen-Image, 1024 px, batch 1, rank 16, bf16, all checkpointed",
        source="musubi-tuner, docs/qwen_image.md",
        trust="B",
        model=lambda: _model(QwenImageTransformer2DModel, "qwen-image"),
        inputs=qwen(1024, 64),
        rank=16,
        targets="all-linear",
        checkpoints=True,
        memory=42 - 0.49,
        remark="nvidia-smi, less 0.49 for the CUDA context",
    ),
)


def traced(case: Case) -> tuple[Trace, int]:
    """The peer's step as the tracer sees it, and its frozen numbers that may be codes."""
    model = case.model()
    model.requires_grad_(requires_grad=False)
    linear = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    training = case.rank > 0
    if training:
        targets = case.targets if isinstance(case.targets, str) else list(case.targets)
        config = LoraConfig(
            r=case.rank, lora_alpha=case.rank, target_modules=targets, lora_dropout=case.dropout
        )
        with torch.device("meta"):
            model.add_adapter(config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        if case.checkpoints:
            model.enable_gradient_checkpointing()
    model.train(mode=training)
    inputs = case.inputs(case.images)

    def step() -> Tensor:
        with torch.set_grad_enabled(training):
            out = model(**inputs, return_dict=False)[0]
            loss = (torch.stack(out) if isinstance(out, list) else out).float().square().mean()
        return loss if training else torch.zeros((), device="meta", requires_grad=True) * 1

    machine = Machine(autocast=torch.bfloat16 if training else None)
    return trace(step, {"model": model}, {}, machine=machine), linear


def _sum(segments: Sequence[Segment]) -> OpCounts:
    """All work of some segments."""
    names = ("gemm", "w8a8", "attention", "traffic")
    sums = {name: Affine(float(sum(getattr(segment, name) for segment in segments))) for name in names}
    return OpCounts(**sums, kernels=sum(segment.kernels for segment in segments))


def predicted(case: Case, device: Device) -> tuple[float, float]:
    """Seconds and units of 2^30 bytes that the planner's arithmetic gives for a case."""
    result, linear = traced(case)
    forward = [segment for segment in result.segments if segment.phase == "forward"]
    backward = [segment for segment in result.segments if segment.phase != "forward"]
    passes = 1 if case.rank == 0 else 3 if case.checkpoints else 2
    seconds = sum(
        seconds_of(_sum(part), device, "bf16", 1, backward=part is backward, compiled=case.compiled)
        for part in ((forward, backward) if case.rank else (forward,))
    )
    seconds += passes * linear * device.rates.expanding(case.weights, "bf16")
    return seconds, (result.peak + WORKSPACE["cuda"]) / GIB


def main() -> None:
    """Compare, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="*", default=[case.name for case in CASES])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    results = {}
    for case in CASES:
        card = known(case.card)
        if case.name not in options.cases or card is None:
            continue
        seconds, memory = predicted(case, of_card(card))
        results[case.name] = {
            "card": case.card,
            "peer": case.peer,
            "source": case.source,
            "trust": case.trust,
            "remark": case.remark,
            "seconds": {"published": case.seconds, "predicted": round(seconds, 3)},
            "memory_gib": {"published": case.memory, "predicted": round(memory, 2)},
            "seconds_ratio": round(seconds / case.seconds, 3) if case.seconds else None,
            "memory_ratio": round(memory / case.memory, 3) if case.memory else None,
        }
    rows = [
        [
            name,
            row["card"],
            *(f"{row['seconds'][key]}" for key in ("published", "predicted")),
            f"{row['seconds_ratio']}",
            *(f"{row['memory_gib'][key] or ''}" for key in ("published", "predicted")),
            f"{row['memory_ratio'] or ''}",
        ]
        for name, row in results.items()
    ]
    heads = ["case", "card", "s published", "predicted", "ratio", "GiB published", "predicted", "ratio"]
    print(table(heads, rows))
    save("published", {"cases": results}, options.out)


if __name__ == "__main__":
    main()
