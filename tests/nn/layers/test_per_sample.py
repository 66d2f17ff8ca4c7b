import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from limner.errors import BrokenGraph
from limner.nn.layers import per_sample
from limner.nn.layers.quantized_linear import QuantizedLinear, freeze
from messages import raises

NAMES = ("first", "second")


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(6, 8), nn.Linear(8, 6), nn.LayerNorm(6)
        self.recompute = False

    def block(self, x):
        return self.norm(x + self.second(torch.tanh(self.first(x))))

    def forward(self, x):
        for _ in range(2):
            x = checkpoint(self.block, x, use_reentrant=False) if self.recompute else self.block(x)
        return x


def model() -> Model:
    torch.manual_seed(0)
    return Model()


def pairs(styles: int, rank: int = 3) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(1)
    sizes = {"first": (6, 8), "second": (8, 6)}
    return {
        name: (
            torch.randn(styles, rank, inputs, generator=draw).requires_grad_(),
            torch.randn(styles, outputs, rank, generator=draw).requires_grad_(),
        )
        for name, (inputs, outputs) in sizes.items()
    }


def of_style(batch, number):
    return {name: (down[number : number + 1], up[number : number + 1]) for name, (down, up) in batch.items()}


def merged(base: Model, style) -> Model:
    result = copy.deepcopy(base)
    with torch.no_grad():
        for name, (down, up) in style.items():
            result.get_submodule(name).weight += up[0] @ down[0]
    return result


X = torch.randn(6, 5, 6, generator=torch.Generator().manual_seed(2))
"""Six rows of five tokens: two rows of each of three styles."""


@pytest.mark.parametrize("shape", [(6, 5, 6), (6, 6), (6, 2, 4, 6)])
def test_a_batch_of_styles_is_each_style_with_merged_weights(shape):
    base, batch = model(), pairs(3)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    net = per_sample.attach(copy.deepcopy(base), NAMES)
    per_sample.bind(net, batch)
    result = net(x)
    for number in range(3):
        rows = slice(2 * number, 2 * number + 2)
        assert torch.allclose(result[rows], merged(base, of_style(batch, number))(x[rows]), atol=2e-6)
        per_sample.bind(net, of_style(batch, number))
        assert torch.allclose(result[rows], net(x[rows]), atol=2e-6)
        per_sample.bind(net, batch)


def test_gradients_of_a_batch_are_those_of_single_styles():
    net, batch = per_sample.attach(model(), NAMES), pairs(3)
    per_sample.bind(net, batch)
    net(X).square().sum().backward()
    grads = {name: [factor.grad.clone() for factor in factors] for name, factors in batch.items()}
    for number in range(3):
        single = of_style(pairs(3), number)
        single = {
            name: tuple(factor.detach().requires_grad_() for factor in factors)
            for name, factors in single.items()
        }
        per_sample.bind(net, single)
        net(X[2 * number : 2 * number + 2]).square().sum().backward()
        for name, factors in single.items():
            for side in (0, 1):
                assert torch.allclose(grads[name][side][number], factors[side].grad[0], atol=1e-5)
    assert not any(weight.requires_grad for weight in net.parameters())


def test_blocks_that_are_computed_again_have_their_factors_still():
    plain, again = pairs(3), pairs(3)
    for batch, recompute in ((plain, False), (again, True)):
        net = per_sample.attach(model(), NAMES)
        net.recompute = recompute
        per_sample.bind(net, batch)
        net(X.clone().requires_grad_()).square().sum().backward()
    for name in NAMES:
        for side in (0, 1):
            assert torch.equal(plain[name][side].grad, again[name][side].grad)


def test_without_factors_it_is_the_base():
    base = model()
    net = per_sample.attach(copy.deepcopy(base), NAMES)
    assert torch.equal(net(X), base(X))
    per_sample.bind(net, pairs(3))
    assert not torch.allclose(net(X), base(X))
    per_sample.bind(net, None)
    assert torch.equal(net(X), base(X))


def test_a_block_ends_as_it_began():
    net, first, second = per_sample.attach(model(), NAMES), pairs(3), pairs(1)
    per_sample.bind(net, first)
    before = net(X)
    with per_sample.bound(net, second):
        assert not torch.allclose(net(X), before)
        with per_sample.bound(net, None):
            assert torch.equal(net(X), model()(X))
    assert torch.equal(net(X), before)


def test_layers_without_a_pair_stay_the_base():
    net, batch = per_sample.attach(model(), NAMES), pairs(3)
    per_sample.bind(net, {"first": batch["first"]})
    base = model()
    for number in range(3):
        rows = slice(2 * number, 2 * number + 2)
        style = {"first": of_style(batch, number)["first"]}
        assert torch.allclose(net(X)[rows], merged(base, style)(X[rows]), atol=2e-6)


def test_half_precision_and_quantised_weights():
    batch = pairs(3)
    net = per_sample.attach(model().bfloat16(), NAMES)
    per_sample.bind(net, batch)
    result = net(X.bfloat16())
    assert result.dtype == torch.bfloat16 and net.first.weight.dtype == torch.bfloat16
    exact = per_sample.attach(model(), NAMES)
    per_sample.bind(exact, batch)
    assert (result.float() - exact(X)).abs().max() < 0.1
    result.float().square().sum().backward()
    assert all(factor.grad is not None for factors in batch.values() for factor in factors)


def test_a_quantised_layer_takes_factors():
    net = nn.ModuleDict({"first": nn.Linear(64, 32, bias=False)}).requires_grad_(False)
    freeze(net, ["first"], "int8")
    assert isinstance(net["first"], QuantizedLinear)
    x, base = torch.randn(4, 64), net["first"]
    before = base(x)
    down, up = torch.randn(2, 3, 64), torch.randn(2, 32, 3)
    per_sample.attach(net, ["first"])
    per_sample.bind(net, {"first": (down, up)})
    change = torch.cat([x[2 * n : 2 * n + 2] @ down[n].T @ up[n].T for n in range(2)])
    assert torch.allclose(net["first"](x), before + change, atol=1e-4)


def test_what_cannot_take_factors_is_told():
    with raises(BrokenGraph):
        per_sample.attach(model(), ["norm"])
    with raises(BrokenGraph):
        per_sample.bind(per_sample.attach(model(), NAMES), {"norm": pairs(1)["first"]})
