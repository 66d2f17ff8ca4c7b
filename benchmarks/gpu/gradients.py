"""Whether a plan changes the gradient: a shallow model of full width, as planned and computed plainly.

``python -m gpu.gradients JSON``. Two blocks of each kind, the same random weights, the same inputs. The
reference keeps everything, streams nothing and stores weights at the precision of the arithmetic. Bounds: a
cosine of 0.9999 and a loss within 0.1 % where weights are stored as they are, 0.99 and 1 % where they are in
8 bits, 0.97 and 3 % in 4.
"""

import json
import sys
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gpu.fake import described
from gpu.ours import adapted, cut_of, drawn, equipped, losses, values
from limner.models.loading import hush, skeleton
from limner.nn.memory.plan import BITS, Plan, from_json

BOUNDS = {32: (0.9999, 1e-3), 16: (0.9999, 1e-3), 8: (0.99, 1e-2), 4: (0.97, 3e-2)}
"""Bits of the stored weights -> least cosine, most relative difference of the loss."""


def plainly(plan: Plan) -> Plan:
    """The same arithmetic with nothing done to save memory."""
    return Plan(compute=plan.compute, weights=plan.compute, micro_batch=plan.micro_batch)


def shortened(plan: Plan, blocks: int, whole: int) -> Plan:
    """A plan for a model of few blocks: the same devices, on all of those that they can be on."""
    share = blocks / whole
    checkpoint_count = (
        min(blocks, max(1, round(plan.checkpointed_blocks * share))) if plan.checkpointed_blocks else 0
    )
    swap_count = min(blocks, max(1, round(plan.swapped_blocks * share))) if plan.swapped_blocks else 0
    return replace(plan, checkpointed_blocks=checkpoint_count, swapped_blocks=swap_count)


def gradient(settings: dict[str, Any], plan: Plan, device: torch.device) -> tuple[Tensor, float]:
    """Of all factors in a row, on the CPU, and the loss."""
    family, source = described(settings["base"], tiny=settings["tiny"], shallow=True)
    model = drawn(family, source, plan, device)
    factors = adapted(family, model, settings["base"], device, plan)
    engine = equipped(family, model, plan, device)
    inputs = values(family, source, tuple(settings["sizes"][0]), settings["batch"], plan, device)
    total = 0.0
    for loss in losses(cut_of(family, source), {family.denoiser: model}, inputs, plan, 0):
        loss.backward()
        total += float(loss.detach())
    engine.close()
    rows = [
        torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in factors
    ]
    return torch.cat([parameter.detach().float().cpu().flatten() for parameter in rows]), total


def compared(settings: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Cosine and loss of a plan beside the plain one, and whether they are within bounds."""
    whole = from_json(settings["plan"])
    family, source = described(settings["base"], tiny=settings["tiny"], shallow=True)
    block_count = len(family.arch.blocks_of(skeleton(family, source, family.denoiser, dtype=torch.float32)))
    plan = shortened(whole, block_count, max(block_count, settings["blocks"]))
    reference, loss = gradient(settings, plainly(plan), device)
    had, other = gradient(settings, plan, device)
    cosine = float(torch.nn.functional.cosine_similarity(reference.double(), had.double(), dim=0))
    lowest, highest = BOUNDS[BITS[plan.weights]]
    deviation = abs(other - loss) / abs(loss)
    good = cosine >= lowest and deviation <= highest
    return {
        "cosine": cosine,
        "loss": deviation,
        "least": lowest,
        "most": highest,
        "good": good,
        "plan": plan.to_json(),
    }


def main() -> None:
    """Compare and print."""
    hush()
    settings = json.loads(sys.argv[1])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(json.dumps(compared(settings, device)))


if __name__ == "__main__":
    main()
