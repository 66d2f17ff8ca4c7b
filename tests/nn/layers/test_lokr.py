"""LoKr beside peft's."""

import pytest
import torch
from peft import LoKrConfig, inject_adapter_in_model
from torch import nn

from adapter_kinds import attached, inputs, layer, moved
from limner.nn.layers import lora
from limner.nn.layers.kinds import factorization


@pytest.mark.parametrize(
    ("case", "factor", "rank"), [("lokr", -1, 2), ("lokr-factor", 2, 3), ("lokr", -1, 9)]
)
def test_outputs_and_gradients_are_pefts(case, factor, rank):
    mine = moved(attached(case, rank=rank, alpha=float(rank)))
    config = LoKrConfig(r=rank, alpha=rank, target_modules=["0"], decompose_factor=factor)  # pyright: ignore
    theirs = inject_adapter_in_model(config, nn.Sequential(layer()))
    ours = lora.attached(mine)["0"].factors()
    peers = [getattr(theirs[0], f"lokr_{name}")["default"] for name in ours]  # pyright: ignore
    for factor_of_ours, peer in zip(ours.values(), peers, strict=True):
        peer.data.copy_(factor_of_ours.data)
    assert torch.allclose(mine(inputs()), theirs(inputs()), atol=1e-5)
    gradients = (
        torch.autograd.grad(net(inputs()).square().sum(), list(factors))
        for net, factors in ((mine, ours.values()), (theirs, peers))
    )
    for a, b in zip(*gradients, strict=True):
        assert float((a - b).norm()) <= 1e-5 * float(b.norm())


@pytest.mark.parametrize(
    ("size", "factor", "sides"),
    [
        (3072, None, (48, 64)), (3072, 8, (8, 384)), (3072, 4096, (48, 64)), (127, None, (1, 127)),
        (128, 16, (8, 16)), (30, 4, (3, 10)), (12288, 16, (16, 768)), (36, None, (6, 6)),
    ],
)  # fmt: skip
def test_sides_are_those_of_lycoris(size, factor, sides):
    assert factorization(size, factor) == sides


def test_the_larger_matrix_is_whole_from_half_its_longer_side_on_and_then_alpha_means_nothing():
    for rank, whole in ((2, False), (3, True)):  # 16 x 24 -> (4 x 4) and (4 x 6)
        adapter = lora.attached(attached("lokr", rank=rank, alpha=7.0))["0"]
        assert ("w2" in adapter.factors()) is whole
        assert adapter.scale == (1.0 if whole else 3.5)


def test_a_convolutions_larger_matrix_has_the_kernel():
    shapes = {
        case: {name: tuple(p.shape) for name, p in lora.attached(attached(case, 3))["0"].factors().items()}
        for case in ("lokr-factor", "lokr-full")
    }
    assert shapes["lokr-factor"] == {"w1": (2, 2), "w2_a": (6, 2), "w2_b": (2, 36)}
    assert shapes["lokr-full"] == {"w1": (3, 2), "w2": (4, 4, 3, 3)}
