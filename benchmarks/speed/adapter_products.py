"""What it saves that layers which read one tensor share a product of their pairs: one x [Dq, Dk, Dv].

    python -m benchmarks.speed.adapter_products [--turns 7] [--out FILE.json]

Of bases of true size (a few blocks of each kind) the step is traced: kernels launched, bytes moved, the peak.
A small FLUX runs for real, both ways in turns; the figure is CPU time, so other programs count for little.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from benchmarks.outcome import RESULTS, save
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from limner.assembly.assemble import ModelSpec
from limner.assembly.trainable import LoRA
from limner.models.bundled import known
from limner.models.loading import hush
from limner.models.registry import family_of
from limner.nn.layers import lora
from limner.planning.dry_run import DryRun, TraceSpec
from limner.planning.meta_inputs import boundary
from limner.planning.representative import choose_representatives
from limner.recipe.train import Lora

TRUE = (("flux-dev", 1024), ("qwen-image", 1024), ("sdxl", 1024))
REAL = ((128, 64), (256, 256), (512, 512))
"""(width, tokens) of a small FLUX."""
TARGETS = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")


def ways() -> dict[str, Any]:
    """A product for each pair, or one for all that read the same."""
    return {"alone": mock.patch.object(lora, "TOGETHER", ()), "together": nullcontext()}


def traced(name: str, side: int) -> dict[str, Any]:
    """A step of a true base on the meta device, both ways."""
    source = known(name)
    family = family_of(source.index["_class_name"])
    trainable = LoRA(Lora(targets="attention"))
    spec = ModelSpec(family=family, source=source, trainable=trainable)
    piece = boundary(spec, (side, side))
    small = replace(spec, source=choose_representatives(spec).source)
    row: dict[str, Any] = {"base": name, "side": side}
    for way, step_function in ways().items():
        with step_function:
            rehearsal = DryRun(small, TraceSpec(size=(side, side)))
        trace = rehearsal.trace(piece, 1, checkpointed_blocks=0).trace
        row[way] = {
            "kernels": sum(segment.kernels for segment in trace.segments),
            "traffic_bytes": sum(segment.traffic for segment in trace.segments),
            "gemm_flops": sum(segment.gemm for segment in trace.segments),
            "peak_bytes": trace.peak,
        }
    return row


def timed(width: int, tokens: int, turns: int) -> dict[str, Any]:
    """Steps of a FLUX of four narrow blocks on the CPU, both ways in turns."""
    steps = {}
    for way, step_function in ways().items():
        with step_function:
            steps[way] = _step(width, tokens)
    gradients = {way: step() for way, step in steps.items()}
    pairs = zip(gradients["alone"], gradients["together"], strict=True)
    off = max(float((a - b).norm() / a.norm()) for a, b in pairs)
    durations: dict[str, list[float]] = {way: [] for way in steps}
    for _ in range(turns):
        for way, step in steps.items():
            start = time.process_time()
            step()
            durations[way].append(time.process_time() - start)
    medians = {way: statistics.median(segment) for way, segment in durations.items()}
    ratio = statistics.median(b / a for a, b in zip(durations["alone"], durations["together"], strict=True))
    sizes = {"width": width, "tokens": tokens}
    return {"base": "flux, 2 + 2 blocks", **sizes, "cpu_seconds": medians, "ratio": ratio, "off": off}


def _step(width: int, tokens: int) -> Callable[[], list[Tensor]]:
    torch.manual_seed(0)
    small = {"num_layers": 2, "num_single_layers": 2, "attention_head_dim": 64, "guidance_embeds": False}
    text = {"joint_attention_dim": 64, "pooled_projection_dim": 64, "axes_dims_rope": (16, 24, 24)}
    model: Any = FluxTransformer2DModel(**small, **text, num_attention_heads=width // 64)
    names = lora.matching(model, TARGETS)
    lora.attach(model, names, rank=16, alpha=16, dropout=0.0, seed=0)
    lora.together(model)
    factors = lora.trained(model)
    for factor in factors:
        nn.init.normal_(factor, std=0.05)
    inputs = {
        "hidden_states": torch.randn(1, tokens, 64),
        "encoder_hidden_states": torch.randn(1, 64, 64),
        "pooled_projections": torch.randn(1, 64),
        "timestep": torch.full((1,), 0.5),
        "img_ids": torch.zeros(tokens, 3),
        "txt_ids": torch.zeros(64, 3),
    }

    def step() -> list[Tensor]:
        return list(torch.autograd.grad(model(**inputs).sample.square().mean(), factors))

    return step


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS / "adapter_products.json")
    inputs = parser.parse_args()
    hush()
    torch.set_num_threads(1)
    facts: dict[str, Any] = {"threads": 1, "traced": [], "timed": []}
    for name, side in TRUE:
        row = traced(name, side)
        facts["traced"].append(row)
        shares = {key: row["together"][key] / row["alone"][key] - 1 for key in row["alone"]}
        print(f"{name:12} {side} ", ", ".join(f"{key} {share:+.1%}" for key, share in shares.items()))
    for width, tokens in REAL:
        row = timed(width, tokens, inputs.turns)
        facts["timed"].append(row)
        seconds = row["cpu_seconds"]
        print(
            f"flux {width} wide, {tokens} tokens: CPU {seconds['alone']:.3f} -> {seconds['together']:.3f} s "
            f"(x {row['ratio']:.3f}), gradients off by {row['off']:.1e}"
        )
    save(inputs.out.stem, facts, inputs.out.parent)


if __name__ == "__main__":
    main()
