"""LoHa, LoKr and DoRA beside LyCORIS itself: outputs, gradients, and our files read by its own reader.

    pip install --target DIR --no-deps lycoris-lora==4.1.3 einops toml
    python -m benchmarks.robustness.lycoris_kinds DIR

On linear layers and convolutions, with the same factors. Alpha equals the rank, as LyCORIS multiplies the
scale of a LoHa and a LoKr in twice. Its reader guesses the factor of a LoKr from shapes, and guesses 2 right.
Its DoRA sends a gradient through the norm, which the paper's section 4.3 advises against, so of that outputs
alone are compared.
"""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import outcome
from limner.lora import keys
from limner.lora.keys import ModuleTensors
from limner.nn.layers import lora
from limner.nn.layers.lora import kind_of

LAYERS = {
    "linear 24 x 16": (nn.Linear, (24, 16), {}, (5, 24)),
    "linear 320 x 1280": (nn.Linear, (320, 1280), {}, (7, 320)),
    "convolution 8 x 12, 1 x 1": (nn.Conv2d, (8, 12, 1), {}, (2, 8, 6, 6)),
    "convolution 32 x 64, 3 x 3": (nn.Conv2d, (32, 64, 3), {"stride": 2, "padding": 1}, (2, 32, 9, 9)),
}
KINDS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "LoHa": ("loha", {}, "loha:LohaModule", {}),
    "LoKr": ("lokr", {}, "lokr:LokrModule", {}),
    "LoKr, factor 2": ("lokr", {"factor": 2}, "lokr:LokrModule", {"factor": 2}),
    "LoKr, full": (
        "lokr", {"factor": 2, "full_matrix": True}, "lokr:LokrModule", {"factor": 2, "full_matrix": True},
    ),
    "DoRA": ("dora", {}, "locon:LoConModule", {"weight_decompose": True}),
}  # fmt: skip
RANKS = (1, 2, 8)
OURS_TO_THEIRS = {"down": "lora_down.weight", "up": "lora_up.weight", "magnitude": "dora_scale"}


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual.detach() - expected.detach()).norm() / expected.detach().norm())


def pair(kind: str, layer: str, rank: int) -> tuple[nn.Module, nn.Module, Any, Tensor]:
    """Ours, the layer alone, the module of LyCORIS on it with the same factors, and an input."""
    name, options, path, their_options = KINDS[kind]
    module, _, class_name = path.partition(":")
    make, sizes, geometry, shape = LAYERS[layer]
    torch.manual_seed(0)
    base, twin = make(*sizes, **geometry), make(*sizes, **geometry)
    twin.load_state_dict(base.state_dict())
    net = nn.Sequential(base)
    lora.attach(net, ["0"], rank=rank, alpha=rank, dropout=0.0, seed=0, kind=kind_of(name, **options))
    peer_class = getattr(importlib.import_module(f"lycoris.modules.{module}"), class_name)
    peer = peer_class("peer", twin, lora_dim=rank, alpha=rank, **their_options)
    for number, factor in enumerate(lora.trained(net)):
        nn.init.normal_(factor, std=0.3, generator=torch.Generator().manual_seed(number))
        if factor.dim() == 1:
            factor.data.abs_().add_(0.5)
    for factor, their_factor in factors(net, peer).values():
        their_factor.data.copy_(factor.data.view(their_factor.shape))
    return net, twin, peer, torch.randn(shape)


def factors(net: nn.Module, peer: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Attribute of ours -> our factor and theirs."""
    adapter = lora.attached(net)["0"]
    pairs = {}
    for attribute, factor in adapter.factors().items():
        ending = adapter.names[attribute].ending
        owner = peer
        for part in OURS_TO_THEIRS.get(ending, ending).split("."):
            owner = getattr(owner, part)
        pairs[attribute] = (factor, owner)
    return pairs


def compare(kind: str, layer: str, rank: int) -> dict[str, float]:
    net, twin, peer, x = pair(kind, layer, rank)
    ours, theirs = net(x), peer(x)
    figures = {"output": relative(ours, theirs)}
    if kind != "DoRA":
        pairs = factors(net, peer)
        gradients = torch.autograd.grad(ours.square().sum(), [a for a, _ in pairs.values()])
        their_gradients = torch.autograd.grad(theirs.square().sum(), [b for _, b in pairs.values()])
        errors = [relative(a, b) for a, b in zip(gradients, their_gradients, strict=True)]
        figures["gradient"] = max(errors)
    return figures | {"file": from_file(net, twin, peer, x)}


def from_file(net: nn.Module, twin: nn.Module, peer: Any, x: Tensor) -> float:
    """What its own reader makes of the tensors that our file has, in place of its factors."""
    adapter = lora.attached(net)["0"]
    delta = ModuleTensors("0", adapter.exported()).delta(kernel=adapter.kernel)
    norms = "out" if "magnitude" in adapter.exported() else None
    tensors = keys.encode(delta, peft=False, norms=norms)
    names = {keys.MAGNITUDE: "dora_scale"}
    tensors = {names.get(ending, ending): tensor for ending, tensor in tensors.items()}
    if "dora_scale" in tensors:
        tensors["dora_scale"] = tensors["dora_scale"].view(-1, *[1] * (adapter.weight.dim() - 1))
    state = {f"peer.{ending}": tensor for ending, tensor in tensors.items()}
    kind, params = importlib.import_module("lycoris.modules").get_module(state, "peer")
    with torch.no_grad():
        read = kind.make_module_from_state_dict("read", twin, *params)
        return relative(read(x), peer(x))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="where lycoris-lora and what it needs were installed")
    sys.path.insert(0, str(parser.parse_args().folder))
    rows = [
        {"kind": kind, "layer": layer, "rank": rank, **compare(kind, layer, rank)}
        for kind in KINDS
        for layer in LAYERS
        for rank in RANKS
    ]
    header = ("kind", "output", "gradient", "file")
    worst = [
        (
            kind,
            *(f"{max(row.get(key, 0.0) for row in rows if row['kind'] == kind):.1e}" for key in header[1:]),
        )
        for kind in KINDS
    ]
    sys.stdout.write(outcome.table(header, worst) + "\n")
    outcome.save("lycoris_kinds", {"lycoris": "4.1.3", "worst relative difference": rows})
    if any(value > 1e-4 for row in rows for value in row.values() if isinstance(value, float)):
        sys.exit(1)


if __name__ == "__main__":
    main()
