from typing import Any

import pytest
import torch
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from torch import nn

from limner.errors import BadLora
from limner.lora.adapters import Dora, Loha, Lokr, LokrRows, dense, kind, to_lora
from limner.lora.keys import ModuleTensors, encode
from loras import dora, factors, loha, lokr
from messages import raises


@pytest.mark.parametrize("change", [factors(), loha(), lokr(), lokr(factored=False)], ids=kind)
def test_a_product_is_that_of_the_exact_lora(change) -> None:
    probe = torch.randn(8, dtype=torch.float64)
    assert torch.allclose(change.times(probe), to_lora(change).dense() @ probe, rtol=1e-5, atol=1e-6)
    assert change.shape == (8, 8)


def test_a_loha_is_what_its_paper_says() -> None:
    one = loha()
    wanted = (one.w1_a @ one.w1_b) * (one.w2_a @ one.w2_b)
    assert torch.allclose(to_lora(one).dense().float(), wanted, atol=1e-5)
    assert to_lora(one).rank == 4


@pytest.mark.parametrize("factored", [True, False])
def test_a_lokr_is_a_kronecker_product(factored) -> None:
    one = lokr(factored=factored)
    second = one.w2[0] @ one.w2[1] if factored else one.w2[0]
    assert torch.allclose(to_lora(one).dense().float(), torch.kron(one.w1[0], second), atol=1e-5)
    assert one.dim == (2 if factored else None)


def test_a_lokr_of_a_convolution() -> None:
    one = Lokr((torch.randn(2, 2),), (torch.randn(4, 3, 3, 3),))
    wanted = torch.kron(one.w1[0][..., None, None], one.w2[0])
    assert one.shape == (8, 6 * 9)
    assert to_lora(one).down.shape[1:] == (6, 3, 3)
    assert torch.allclose(to_lora(one).dense().float(), wanted.flatten(1), atol=1e-5)
    probe = torch.randn(54)
    assert torch.allclose(one.times(probe).float(), wanted.flatten(1) @ probe, atol=1e-4)


def test_a_dora_is_what_peft_makes_of_it() -> None:
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8, bias=False))
    weight = net[0].weight.detach().clone()
    config = LoraConfig(r=2, lora_alpha=4, use_dora=True, target_modules=["0"], init_lora_weights=False)
    layer = inject_adapter_in_model(config, net)[0]  # pyright: ignore
    layer.lora_magnitude_vector["default"].weight.data.uniform_(0.5, 1.5)  # pyright: ignore
    one = Dora(
        factors(8, 6).__class__(layer.lora_A["default"].weight.data, 2 * layer.lora_B["default"].weight.data),  # pyright: ignore
        layer.lora_magnitude_vector["default"].weight.data,  # pyright: ignore
        "out",
    )
    probe = torch.randn(3, 6)
    assert torch.allclose(layer(probe), probe @ one.over(weight).float().T, atol=1e-5)  # pyright: ignore


def test_a_dora_along_the_input() -> None:
    one, weight = dora(4, 6, "in"), torch.randn(4, 6)
    changed = one.over(weight)
    assert torch.allclose(changed.norm(dim=0).float(), one.magnitude, atol=1e-6)
    with raises(BadLora):
        to_lora(one)
    with raises(BadLora):
        one.over(torch.randn(6, 4))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with raises(BadLora):
        Dora(factors(), torch.ones(3), "out")
    with raises(BadLora):
        Loha(torch.ones(4, 2), torch.ones(2, 4), torch.ones(4, 2), torch.ones(2, 5))
    with raises(BadLora):
        Lokr((torch.ones(2, 3), torch.ones(2, 3)), (torch.ones(2, 2),))
    with raises(BadLora):
        Lokr((torch.ones(2, 2).half(),), (torch.ones(2, 2),))


def peer(module: type, kernel: int, *, on_output: bool) -> tuple[nn.Module, Any]:
    """A layer, and LyCORIS' module on it, weight-decomposed, with random numbers."""
    torch.manual_seed(3)
    layer = nn.Conv2d(8, 12, kernel, bias=False) if kernel else nn.Linear(8, 12, bias=False)
    options = {"weight_decompose": True, "wd_on_out": on_output}
    theirs: Any = module("x", layer, lora_dim=2, alpha=3.0, **options)
    for value in theirs.parameters():
        value.data = torch.rand_like(value) + 0.1
    return layer, theirs


@pytest.mark.parametrize("kernel", [0, 3], ids=["linear", "3 x 3"])
@pytest.mark.parametrize("on_output", [True, False])
@pytest.mark.parametrize("module", [LokrModule, LohaModule])
def test_a_dora_of_another_kind_is_what_lycoris_makes_of_it(module, on_output, kernel) -> None:
    layer, theirs = peer(module, kernel, on_output=on_output)
    tensors = {name.removesuffix(".weight"): value for name, value in theirs.custom_state_dict().items()}
    change = ModuleTensors("x", tensors).delta(kernel=(kernel, kernel) if kernel else ())
    assert isinstance(change, Dora) and change.axis == ("out" if on_output else "in")
    assert kind(change) == {LokrModule: "DoRA of LoKr", LohaModule: "DoRA of LoHa"}[module]
    weight = layer.weight.detach()  # pyright: ignore
    theirs.apply_to()
    probe = torch.randn(2, 8, 5, 5) if kernel else torch.randn(5, 8)
    changed = change.over(weight).float()
    result = nn.functional.conv2d(probe, changed) if kernel else probe @ changed.T
    assert torch.allclose(layer(probe), result, atol=1e-4)
    plain = Dora(to_lora(change.factors), change.magnitude, change.axis)  # pyright: ignore
    assert torch.allclose(plain.over(weight), change.over(weight), atol=1e-5)
    if not on_output:
        flat = {name.removesuffix(".weight"): value for name, value in encode(change, peft=False).items()}
        again = ModuleTensors("x", flat).delta(kernel=change.factors.kernel)  # pyright: ignore
        assert torch.allclose(again.over(weight), change.over(weight), atol=1e-6)  # pyright: ignore


@pytest.mark.parametrize("change", [loha(), lokr(), lokr(factored=False)], ids=kind)
def test_a_dense_change_is_that_of_its_lora(change) -> None:
    assert torch.allclose(dense(change), to_lora(change).dense(), atol=1e-6)
    rows = LokrRows(lokr(), 2, 7)
    assert torch.equal(dense(rows), dense(lokr())[2:7])
