"""What other programs took on real GPUs, beside what the planner says of the very same computation.

    python -m benchmarks.speed.published [--cases flux-nf4-4090 ..] [--out FOLDER]

Each case is a peer's own module configuration: diffusers' model on the meta device, adapters by peft, the
peer's precision, checkpointing and sizes (``published_cases``). The tracer counts its step, the rates of the
named card turn that into seconds, and the ratio to what was published tells whether the planner's rates are
true. No GPU, no network.

What cannot be traced, as a program's own kernels or graph decide it, or settings are not known, stands in the
table with its reason and without a prediction. Where the graph is another one only in what costs time, memory
alone is compared. Published seconds for each kernel that is traced are the most that launching one can take.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.outcome import RESULTS, save, table
from benchmarks.speed.published_cases import CASES
from benchmarks.speed.published_peers import Case
from peft import LoraConfig
from torch import Tensor, nn

from limner.nn.memory.plan import BITS, CONTEXT
from limner.planning.cards import known
from limner.planning.devices import of_card
from limner.planning.memory import WORKSPACE
from limner.planning.profile import Affine, OpCounts
from limner.planning.time import seconds_of
from limner.planning.trace import Machine, Trace, trace
from limner.planning.tracker import Segment

GIB = 2**30
NF4_SCALES = 0.5
"""Bits of a number's share of its scale: one in fp32 for 64 (QLoRA without double quantization)."""


class Traced:
    """A peer's step as the tracer sees it, and what its frozen weights take as they are stored."""

    def __init__(self, case: Case) -> None:
        """Build and trace it."""
        assert case.model is not None
        model = case.model()
        model.requires_grad_(requires_grad=False)
        linears = {
            name: layer.weight.numel()
            for name, layer in model.named_modules()
            if isinstance(layer, nn.Linear) and any(part in name for part in case.coded)
        }
        frozen = {name: weight.numel() for name, weight in model.named_parameters()}
        self.numbers = sum(linears.values())
        """Of frozen weights that may be codes."""
        self.saved = sum(_saving(case, name, linears.get(name.removesuffix(".weight"), 0)) for name in frozen)
        """Bytes that codes and swapped blocks take off the device, against all of it in bf16."""
        self.saved += sum(
            2 * count - _saving(case, name, linears.get(name.removesuffix(".weight"), 0))
            for name, count in frozen.items()
            if _swapped(case, name)
        )
        self.widest = max(linears.values(), default=0)
        self.weights = 2 * sum(frozen.values())
        self.trace = _trace(case, model)
        trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        self.state = case.state * trained
        """Bytes of the optimizer's."""


def _saving(case: Case, name: str, numbers: int) -> float:
    """Bytes that a weight in codes takes less than in bf16."""
    if case.weights == "bf16" or not name.endswith(".weight"):
        return 0.0
    bits = BITS[case.weights] + (NF4_SCALES if case.weights == "nf4" else 0)
    return numbers * (16 - bits) / 8


def _swapped(case: Case, name: str) -> bool:
    parts = name.split(".")
    return any(parts[0] == blocks and int(parts[1]) < count for blocks, count in case.swapped)


def _trace(case: Case, model: Any) -> Trace:
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
    return trace(step, {"model": model}, {}, machine=machine)


def _sum(segments: Sequence[Segment]) -> OpCounts:
    """All work of some segments."""
    names = ("gemm", "w8a8", "attention", "traffic")
    sums = {name: Affine(float(sum(getattr(segment, name) for segment in segments))) for name in names}
    return OpCounts(**sums, kernels=sum(segment.kernels for segment in segments))


def seconds(case: Case, run_trace: Traced) -> float:
    """What the planner's arithmetic gives for a step of a case on its card."""
    card = known(case.card)
    assert card is not None, case.card
    device = of_card(card)
    forward = [segment for segment in run_trace.trace.segments if segment.phase == "forward"]
    backward = [segment for segment in run_trace.trace.segments if segment.phase != "forward"]
    passes = 1 if case.rank == 0 else 3 if case.checkpoints else 2
    total = sum(
        seconds_of(_sum(part), device, case.compute, 1, backward=part is backward, compiled=case.compiled)
        for part in ((forward, backward) if case.rank else (forward,))
    )
    return total + passes * run_trace.numbers * device.rates.expanding(case.weights, case.compute)


def memory(case: Case, run_trace: Traced) -> float:
    """What the planner's arithmetic gives for the memory of a case, in units of 2^30 bytes."""
    if case.bare:
        return (run_trace.trace.peak - run_trace.weights) / GIB
    decoding = 0 if case.weights == "bf16" else 2 * run_trace.widest
    size = run_trace.trace.peak + run_trace.state - run_trace.saved + decoding + WORKSPACE["cuda"]
    return (size + (CONTEXT["cuda"] if case.kind == "device" else 0)) / GIB + case.beside


def compared(case: Case, run_trace: Traced | None) -> dict[str, Any]:
    """A case as the results hold it."""
    row: dict[str, Any] = {
        "rows": list(case.rows),
        "card": case.card,
        "peer": case.peer,
        "source": case.source,
        "trust": case.trust,
        "remark": case.remark,
        "bound": case.bound,
    }
    figures = {"seconds": (case.seconds, seconds, 3), "memory_gib": (case.memory, memory, 2)}
    for name, (publication, predict, digits) in figures.items():
        comparable = run_trace is not None and publication is not None and (case.timed or name != "seconds")
        prediction = round(predict(case, run_trace), digits) if comparable and run_trace else None
        row[name] = {"published": publication and round(publication, digits), "predicted": prediction}
        ratio = round(prediction / publication, 3) if prediction and publication else None
        row[f"{name.removesuffix('_gib')}_ratio"] = ratio
    if run_trace and case.seconds:
        kernels = sum(segment.kernels for segment in run_trace.trace.segments)
        row["microseconds_for_each_kernel"] = round(case.seconds / kernels * 1e6, 1)
    return row


def _alike(case: Case) -> tuple[Any, ...]:
    """Cases that agree in this are traced once."""
    figures_computed = (
        case.model,
        case.inputs,
        case.images,
        case.rank,
        str(case.targets),
        case.dropout,
        case.checkpoints,
    )
    return (*figures_computed, case.weights, case.coded, case.swapped)


def main() -> None:
    """Compare, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="*", default=[case.name for case in CASES])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    results: dict[str, dict[str, Any]] = {}
    traces: dict[tuple[Any, ...], Traced] = {}
    for case in CASES:
        if case.name not in options.cases:
            continue
        key = _alike(case) if case.model else ()
        if case.model and key not in traces:
            traces.clear()  # those that are alike follow each other
            traces[key] = Traced(case)
        results[case.name] = compared(case, traces[key] if case.model else None)
    rows = [
        [
            name,
            row["card"],
            row["trust"],
            *(f"{row['seconds'][key] or ''}" for key in ("published", "predicted")),
            f"{row['seconds_ratio'] or ''}",
            *(f"{row['memory_gib'][key] or ''}" for key in ("published", "predicted")),
            f"{row['memory_ratio'] or ''}",
        ]
        for name, row in results.items()
    ]
    heads = [
        "case",
        "card",
        "trust",
        "s published",
        "predicted",
        "ratio",
        "GiB published",
        "predicted",
        "ratio",
    ]
    print(table(heads, rows))
    save("published", {"cases": results}, options.out)


if __name__ == "__main__":
    main()
