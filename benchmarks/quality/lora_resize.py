"""Rank 128 to 16 at FLUX.1's size, by QR and a small decomposition; and the dense way, on a sample.

    python -m benchmarks.quality.lora_resize

A random LoRA of rank 128 on the 494 linear layers of FLUX.1's blocks (or ``--blocks`` of each kind), in
bfloat16 as files are. The dense way multiplies the factors out and decomposes the whole weight, as kohya's
resize_lora.py does; it takes minutes, so it runs on one module of each shape and is scaled by their number.
With ``--shapes 1`` only on one of the smallest, and every larger module counts as much: a lower bound.
"""

import argparse
import time
from collections import Counter

import torch

from benchmarks import outcome
from limner.lora.factors import Factors
from limner.lora.resizing import RankRule, resize
from limner.lora.svd import spectrum

WIDTH, DOUBLE, SINGLE = 3072, 19, 38
DOUBLES = {
    **{f"attn.{name}": (1, 1) for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")},
    **{
        "attn.to_out.0": (1, 1),
        "attn.to_add_out": (1, 1),
        "norm1.linear": (6, 1),
        "norm1_context.linear": (6, 1),
    },
    **{f"{ff}.net.0.proj": (4, 1) for ff in ("ff", "ff_context")},
    **{f"{ff}.net.2": (1, 4) for ff in ("ff", "ff_context")},
}
SINGLES = {
    **{f"attn.{name}": (1, 1) for name in ("to_q", "to_k", "to_v")},
    **{"proj_mlp": (4, 1), "proj_out": (1, 5), "norm.linear": (3, 1)},
}


def lora(blocks: int | None, rank: int, width: int = WIDTH) -> dict[str, Factors]:
    """Factors for every block, singular values falling as trained ones do."""
    draw, fall = torch.Generator().manual_seed(0), 1 / torch.arange(1, rank + 1) ** 0.7
    layers = {}
    for stack, count, modules in (
        ("transformer_blocks", DOUBLE, DOUBLES),
        ("single_transformer_blocks", SINGLE, SINGLES),
    ):
        for block in range(min(count, blocks or count)):
            for name, (out, inputs) in modules.items():
                up, down = (
                    torch.randn(out * width, rank, generator=draw),
                    torch.randn(rank, inputs * width, generator=draw),
                )
                layers[f"{stack}.{block}.{name}"] = Factors(
                    down.bfloat16().float(), (up * fall).bfloat16().float()
                )
    return layers


def dense(change: Factors, rank: int) -> torch.Tensor:
    """The singular values that are kept, the long way, in float32."""
    left, values, right = torch.linalg.svd(change.up @ change.down, full_matrices=False)
    return (left[:, :rank] * values[:rank]).sum() + right[:rank].sum() + values[:rank]


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--blocks", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--before", type=int, default=128)
    parser.add_argument("--after", type=int, default=16)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--shapes", type=int, help="how many shapes the dense way is timed on")
    parser.add_argument("--out", default="lora_resize")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    adapter = lora(options.blocks, options.before, options.width)
    began, cpu_start = time.perf_counter(), time.process_time()
    _, losses = resize({"transformer": adapter}, RankRule("rank", options.after))
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu_start
    shapes = Counter(change.shape for change in adapter.values())
    slow, slow_cpu, sample = 0.0, 0.0, {}
    shapes_timed = sorted(shapes, key=lambda shape: shape[0] * shape[1])[: options.shapes]
    for shape in shapes_timed:
        count = (
            len(adapter) - sum(shapes[layer_shape] for layer_shape in shapes_timed[:-1])
            if shape == shapes_timed[-1]
            else shapes[shape]
        )
        change = next(change for change in adapter.values() if change.shape == shape)
        began, cpu_start_peer = time.perf_counter(), time.process_time()
        dense(change, options.after)
        sample[f"{shape[0]} x {shape[1]}"] = {
            "modules": count,
            "seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - cpu_start_peer,
        }
        slow_cpu += sample[f"{shape[0]} x {shape[1]}"]["cpu_seconds"] * count
        slow += sample[f"{shape[0]} x {shape[1]}"]["seconds"] * count
    small = next(change for change in adapter.values() if change.shape[0] == change.shape[1])
    expected = torch.linalg.svdvals(small.dense())[: options.before]
    error = ((spectrum(small).values - expected) / expected).abs().max().item()
    facts = {
        "modules": len(adapter),
        "rank": [options.before, options.after],
        "threads": options.threads,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "dense_seconds_scaled_from_a_sample": slow,
        "dense_sample": sample,
        "dense_cpu_seconds_scaled_from_a_sample": slow_cpu,
        "times_faster": slow / seconds,
        "times_less_cpu": slow_cpu / cpu,
        "largest_relative_error_of_a_singular_value": error,
        "largest_relative_loss_of_a_module": max(loss.relative for loss in losses),
    }
    path = outcome.save(options.out, facts)
    rows = [
        ["Limner", f"{seconds:.1f} s", "1"],
        ["dense, scaled from a sample", f"{slow:.0f} s", f"{slow / seconds:.0f}"],
    ]
    print(outcome.table([f"rank {options.before} to {options.after}", "time", "times"], rows))
    print(path)


if __name__ == "__main__":
    main()
