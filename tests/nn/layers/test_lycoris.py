"""LoHa, LoKr and DoRA beside LyCORIS itself: outputs, gradients, and our files read by its own reader.

Alpha equals the rank, as LyCORIS multiplies the scale of a LoHa and a LoKr in twice. Its reader guesses the
factor of a LoKr from shapes, and guesses the ones here right. Its DoRA sends a gradient through the norm,
which the paper's section 4.3 advises against, so of that outputs alone are compared.
"""

from typing import Any

import pytest
import torch
from lycoris.modules import get_module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from torch import Tensor, nn

from adapter_kinds import attached, inputs, layer, moved
from limner.lora import keys
from limner.lora.keys import ModuleTensors
from limner.nn.layers import lora

FULL = {"factor": 4, "full_matrix": True}
PEERS: dict[str, tuple[type, dict[str, Any]]] = {
    "loha": (LohaModule, {}),
    "lokr": (LokrModule, {}),
    "lokr-factor": (LokrModule, {"factor": 2}),
    "lokr-full": (LokrModule, FULL),
    "dora": (LoConModule, {"weight_decompose": True}),
}
OURS_TO_THEIRS = {"down": "lora_down.weight", "up": "lora_up.weight", "magnitude": "dora_scale"}
ROUNDING = 1e-5


def factors(net: nn.Module, peer: Any) -> list[tuple[Tensor, Tensor]]:
    """Our factor and theirs, each beside the other."""
    adapter = lora.attached(net)["0"]
    pairs = []
    for attribute, factor in adapter.factors().items():
        ending = adapter.names[attribute].ending
        owner = peer
        for part in OURS_TO_THEIRS.get(ending, ending).split("."):
            owner = getattr(owner, part)
        pairs.append((factor, owner))
    return pairs


def beside(case: str, kernel: int, rank: int) -> tuple[nn.Module, Any]:
    """Ours, and the module of LyCORIS on the same layer with the same factors."""
    net = moved(attached(case, kernel, rank=rank, alpha=float(rank)))
    kind, options = PEERS[case]
    peer = kind("peer", layer(kernel), lora_dim=rank, alpha=rank, **options)
    for factor, theirs in factors(net, peer):
        theirs.data.copy_(factor.data.view(theirs.shape))
    return net, peer


def is_close(actual: Tensor, expected: Tensor) -> bool:
    return float((actual.detach() - expected.detach()).norm()) <= ROUNDING * float(expected.detach().norm())


@pytest.mark.parametrize("rank", [1, 2, 8])
@pytest.mark.parametrize("kernel", [0, 1, 3], ids=["linear", "1 x 1", "3 x 3"])
@pytest.mark.parametrize("case", PEERS)
def test_outputs_and_gradients_are_those_of_lycoris(case: str, kernel: int, rank: int):
    net, peer = beside(case, kernel, rank)
    output, expected = net(inputs(kernel)), peer(inputs(kernel))
    assert is_close(output, expected)
    if case != "dora":
        pairs = factors(net, peer)
        ours = torch.autograd.grad(output.square().sum(), [factor for factor, _ in pairs])
        theirs = torch.autograd.grad(expected.square().sum(), [factor for _, factor in pairs])
        assert all(is_close(a, b.view(a.shape)) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("rank", [1, 2, 8])
@pytest.mark.parametrize("kernel", [0, 1, 3], ids=["linear", "1 x 1", "3 x 3"])
@pytest.mark.parametrize("case", PEERS)
def test_its_reader_makes_the_same_of_our_file(case: str, kernel: int, rank: int):
    net, peer = beside(case, kernel, rank)
    adapter = lora.attached(net)["0"]
    delta = ModuleTensors("0", adapter.exported()).delta(kernel=adapter.kernel)
    norms = "out" if "magnitude" in adapter.exported() else None
    tensors = keys.encode(delta, peft=False, norms=norms)
    scale = tensors.pop(keys.MAGNITUDE, None)
    if scale is not None:
        tensors["dora_scale"] = scale.view(-1, *[1] * (adapter.weight.dim() - 1))
    kind, params = get_module({f"peer.{ending}": tensor for ending, tensor in tensors.items()}, "peer")
    assert kind and params
    with torch.no_grad():
        module = kind.make_module_from_state_dict("read", layer(kernel), *params)
        assert is_close(module(inputs(kernel)), peer(inputs(kernel)))
