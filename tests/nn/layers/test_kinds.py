"""What holds for adapters of every kind."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapter_kinds import CASES, attached, inputs, layer, moved, weight_of
from limner.nn.arch import get_state, load_state
from limner.nn.layers import lora
from limner.nn.layers.kinds import kind_of
from limner.nn.layers.quantized_linear import QuantizedLinear, freeze

every_kind = pytest.mark.parametrize("case", CASES)
every_layer = pytest.mark.parametrize("kernel", [0, 1, 3])
NEW = [case for case in CASES if case != "lora"]


@every_kind
@every_layer
def test_step_zero_is_the_base_to_the_bit(case, kernel):
    assert torch.equal(attached(case, kernel)(inputs(kernel)), layer(kernel)(inputs(kernel)))


@every_kind
@every_layer
@pytest.mark.parametrize("rank", [1, 2, 5])
def test_the_output_is_that_of_the_exported_weight(case, kernel, rank):
    net, x = moved(attached(case, kernel, rank=rank)), inputs(kernel)
    base = layer(kernel).double()
    base.weight.data = weight_of(net)  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.allclose(net(x).double(), base(x.double()), atol=1e-5, rtol=1e-5)


def dense_change(case: str, net: nn.Module) -> Tensor:
    """dW in float64 by its definition, with a graph: what a reference would write."""
    factors = {name: p.double() for name, p in lora.attached(net)["0"].factors().items()}
    scale = lora.attached(net)["0"].scale
    match case.partition("-")[0]:
        case "lora" | "dora":
            return scale * factors["up"].flatten(1) @ factors["down"].flatten(1)
        case "loha":
            halves = (factors[f"w{n}_a"] @ factors[f"w{n}_b"] for n in (1, 2))
            return scale * next(halves) * next(halves)
    second = factors["w2"].flatten(1) if "w2" in factors else factors["w2_a"] @ factors["w2_b"]
    return scale * torch.kron(factors["w1"], second)


@every_kind
@every_layer
@pytest.mark.parametrize("rank", [1, 2, 5])
def test_gradients_are_those_of_the_definition(case, kernel, rank):
    net, x = moved(attached(case, kernel, rank=rank)), inputs(kernel)
    net(x).square().sum().backward()
    gradients = [x.grad, *(p.grad for p in lora.trained(net))]
    twin, x = copy.deepcopy(net), inputs(kernel)
    twin.zero_grad()
    base: Any = layer(kernel)
    weight = base.weight.double() + dense_change(case, twin).view(base.weight.shape)
    if case == "dora":  # the norm is a constant: section 4.3 of the paper
        norm = weight.detach().flatten(1).norm(dim=1)
        ratio = lora.attached(twin)["0"].factors()["magnitude"].double() / norm
        weight = weight * ratio.view(-1, *[1] * (weight.dim() - 1))
    bias = base.bias.double()
    doubled = x.double()
    y = F.conv2d(doubled, weight, bias, 2, kernel // 2) if kernel else F.linear(doubled, weight, bias)
    y.square().sum().backward()
    for ours, exact in zip(gradients, [x.grad, *(p.grad for p in lora.trained(twin))], strict=True):
        assert ours is not None and exact is not None
        assert float((ours - exact).norm()) <= 1e-5 * float(exact.norm())


@every_kind
def test_checkpoints_hold_every_factor(case):
    net, other = moved(attached(case, 3)), attached(case, 3, seed=9)
    load_state(lora.named(other), {name: value.clone() for name, value in get_state(lora.named(net)).items()})
    assert torch.equal(net(inputs(3)), other(inputs(3)))
    trained = {id(p) for p in net.parameters() if p.requires_grad}
    assert {id(p) for p in lora.trained(net)} == trained


@every_kind
def test_the_seed_decides_the_first_values_and_the_global_generator_is_left_alone(case):
    first, again, other = (get_state(lora.named(attached(case, seed=seed))) for seed in (1, 1, 2))
    layer()  # seeds the global generator, as ``attached`` did before it attached
    before = torch.get_rng_state()
    attached(case)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@every_kind
def test_in_half_precision_masters_stay_fp32(case):
    net = nn.Sequential(layer().bfloat16())
    lora.attach(net, ["0"], rank=2, alpha=2.0, dropout=0.0, seed=1, kind=kind_of(**CASES[case]))
    x = inputs().detach().bfloat16()
    assert torch.equal(net(x), layer().bfloat16()(x))
    moved(net)
    y = net(x)
    y.sum().backward()
    y = y.detach()
    assert y.dtype == torch.bfloat16
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in lora.trained(net) if p.grad is not None)
    base = layer().double()
    base.weight.data = weight_of(net)  # pyright: ignore[reportAttributeAccessIssue]
    wanted = base(x.double()).detach()
    assert float((y.double() - wanted).norm()) < 2e-2 * float(wanted.norm())


@every_kind
@pytest.mark.parametrize("codes", ["int8", "fp8", "nf4"])
def test_it_stands_on_layers_stored_in_few_bits(case, codes):
    net, plain = (nn.Sequential(layer()).requires_grad_(requires_grad=False) for _ in range(2))
    freeze(net, ["0"], codes)
    stored = net[0]
    assert isinstance(stored, QuantizedLinear)
    plain[0].weight.data.copy_(stored.dequantize(torch.float32))  # pyright: ignore
    results = []
    for model in (net, plain):
        lora.attach(model, ["0"], rank=2, alpha=3.0, dropout=0.0, seed=1, kind=kind_of(**CASES[case]))
        assert torch.equal(model(inputs()), lora.attached(model)["0"].base(inputs()))
        moved(model)
        y = model(inputs())
        results.append((y, *torch.autograd.grad(y.square().sum(), lora.trained(model))))
    assert all(torch.allclose(a, b, atol=1e-5, rtol=1e-5) for a, b in zip(*results, strict=True))


@every_kind
def test_on_meta_there_are_shapes(case):
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(24, 16), nn.Conv2d(16, 12, 3))
    lora.attach(net, ["0", "1"], rank=2, alpha=3.0, dropout=0.0, seed=1, kind=kind_of(**CASES[case]))
    for name, x in (("0", torch.empty(5, 24)), ("1", torch.empty(2, 16, 5, 5))):
        y = net.get_submodule(name)(x.to("meta"))
        y.sum().backward()
        assert y.is_meta
    assert all(p.is_meta and p.grad is not None for p in lora.trained(net))


class Saved:
    """Bytes that autograd holds of a forward pass, parameters left aside."""

    def __init__(self, net: nn.Module) -> None:
        self.known = {p.untyped_storage().data_ptr() for p in net.parameters()}
        self.bytes: dict[int, int] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.known:
            self.bytes[storage.data_ptr()] = storage.nbytes()
        return tensor

    def of(self, run) -> int:
        with torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor):
            output = run()
        del output
        return sum(self.bytes.values())


@pytest.mark.parametrize("case", [case for case in NEW if case != "dora"])
def test_loha_and_lokr_keep_their_input_and_nothing_else(case):
    width, x = 64, torch.randn(512, 64).bfloat16().requires_grad_()
    net = nn.Sequential(nn.Linear(width, width)).bfloat16()
    lora.attach(net, ["0"], rank=4, alpha=4.0, dropout=0.0, seed=1, kind=kind_of(**CASES[case]))
    assert Saved(net).of(lambda: net(x)) == x.nbytes


def test_a_dora_keeps_its_output_besides_what_a_lora_keeps():
    x = torch.randn(512, 64).bfloat16().requires_grad_()
    sizes = {}
    for name in ("lora", "dora"):
        net = nn.Sequential(nn.Linear(64, 64)).bfloat16()
        lora.attach(net, ["0"], rank=4, alpha=4.0, dropout=0.0, seed=1, kind=kind_of(name))
        sizes[name] = Saved(net).of(lambda net=net: net(x))
    assert sizes["lora"] + x.nbytes <= sizes["dora"] <= sizes["lora"] + x.nbytes + 8 * 64


@every_kind
def test_dropout_depends_on_the_samples_place_alone(case):
    places = [(0, n) for n in range(6)]
    net = attached(case, dropout=0.5, places=places)
    moved(net)
    quiet = net(inputs())
    lora.dropping(net, enabled=True)
    whole = net(inputs())
    places[:] = [(0, n) for n in range(3, 6)]
    assert torch.allclose(whole[3:], net(inputs()[3:]), atol=1e-6) and not torch.equal(whole, quiet)


@every_kind
@every_layer
def test_a_blank_has_the_parts_of_what_is_exported_and_takes_no_memory(case, kernel):
    adapter = lora.attached(attached(case, kernel, rank=2))["0"]
    blank, exported = adapter.blank(), adapter.exported()
    assert blank.keys() == exported.keys()
    assert all(tensor.untyped_storage().nbytes() == 4 for tensor in blank.values())
    assert [tensor.dim() for tensor in blank.values()] == [tensor.dim() for tensor in exported.values()]


@every_kind
def test_switched_off_it_is_the_base_to_the_bit(case):
    net = moved(attached(case))
    lora.enable(net, enabled=False)
    assert torch.equal(net(inputs()), layer()(inputs()))
    lora.enable(net, enabled=True)
    assert not torch.equal(net(inputs()), layer()(inputs()))
