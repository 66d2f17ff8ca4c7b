"""LoRA on convolutions, beside peft's."""

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from limner.errors import BadRecipe, BrokenGraph
from limner.nn.arch import get_state
from limner.nn.layers import adapter, lora
from limner.nn.layers.adapter import LowRankConv
from messages import raises

X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(1)
    made = nn.Sequential()
    made.add_module("same", nn.Conv2d(4, 6, 3, padding=1))
    made.add_module("halved", nn.Conv2d(6, 6, 3, stride=2, padding=1))
    made.add_module("point", nn.Conv2d(6, 5, 1))
    return made.eval()


NAMES = ["same", "halved", "point"]


def moved(net: nn.Module) -> nn.Module:
    for number, factor in enumerate(lora.trained(net)):
        nn.init.normal_(factor, std=0.3, generator=torch.Generator().manual_seed(number))
    return net


def attached(**more) -> nn.Module:
    given = {"rank": 4, "alpha": 2.0, "dropout": 0.0, "seed": 3} | more
    return lora.attach(network(), lora.ranks(network(), NAMES, 4, 2), **given)


def test_step_zero_is_the_base_and_only_the_factors_are_trained():
    net = attached()
    assert torch.equal(net(X), network()(X))
    assert isinstance(net.get_submodule("same"), LowRankConv)
    net(X).sum().backward()
    assert {n for n, p in net.named_parameters() if p.grad is not None} == {
        f"{name}.{factor}" for name in NAMES for factor in ("down", "up")
    }


def test_kernels_have_a_rank_of_their_own():
    shapes = {name: tuple(layer.down.shape) for name, layer in lora.attached(attached()).items()}
    assert shapes == {"same": (2, 4, 3, 3), "halved": (2, 6, 3, 3), "point": (4, 6, 1, 1)}


def test_outputs_and_gradients_are_pefts():
    mine = moved(attached())
    setting = LoraConfig(
        r=4, lora_alpha=2, target_modules=NAMES, rank_pattern={"same": 2, "halved": 2},
        alpha_pattern={"same": 1, "halved": 1},
    )  # fmt: skip
    theirs = inject_adapter_in_model(setting, network())
    state = get_state(lora.named(mine))
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            parameter.data.copy_(state[name])
    assert torch.allclose(mine(X), theirs(X), atol=1e-5)
    mine(X).square().sum().backward()
    theirs(X).square().sum().backward()
    wanted = {name: p.grad for name, p in theirs.named_parameters() if p.requires_grad}
    assert wanted.keys() == state.keys()
    factors = dict(zip(state, lora.trained(mine), strict=True))
    assert all(torch.allclose(factors[n].grad, wanted[n], rtol=1e-4, atol=1e-5) for n in wanted)


def test_what_is_exported_is_the_change_of_the_weight():
    net, plain = moved(attached()), network()
    for name, layer in lora.attached(net).items():
        down, up = layer.exported().values()
        plain.get_submodule(name).weight.data += (up.flatten(1) @ down.flatten(1)).view(
            plain.get_submodule(name).weight.shape
        )
    assert torch.allclose(net(X), plain(X), atol=1e-5)


def test_dropout_knows_each_samples_place():
    net = moved(attached(dropout=0.5, places=[(0, 0), (0, 1)]))
    quiet = net(X)
    lora.dropping(net, enabled=True)
    assert not torch.equal(net(X), quiet)
    assert torch.equal(net(X), net(X))


def test_factors_of_a_bf16_model_are_fp32_masters():
    net = lora.attach(network().bfloat16(), NAMES, rank=2, alpha=2.0, dropout=0.0, seed=1)
    assert {p.dtype for p in lora.trained(net)} == {torch.float32}
    assert net(X.bfloat16()).dtype == torch.bfloat16


def test_what_no_pair_can_stand_beside_is_refused():
    odd = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"))
    assert not any(adapter.plain(layer) for layer in odd)
    with raises(BrokenGraph):
        lora.attach(odd, ["0"], rank=1, alpha=1.0, dropout=0.0, seed=0)
    with raises(BadRecipe):
        lora.ranks(network(), ["point"], 4, 8)
