import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from limner.errors import BadLora
from limner.lora.adapter import Factors, from_peft, localise


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.conv = nn.Conv2d(3, 8, 3)
        self.words = nn.Embedding(5, 6)


def injected(**setting: object) -> Net:
    torch.manual_seed(0)
    net = inject_adapter_in_model(LoraConfig(init_lora_weights=False, **setting), Net())  # pyright: ignore
    assert isinstance(net, Net)
    return net


@pytest.mark.parametrize(
    ("setting", "scale"),
    [
        ({"r": 4, "lora_alpha": 4}, 1),
        ({"r": 4, "lora_alpha": 8}, 2),
        ({"r": 4, "lora_alpha": 4, "use_rslora": True}, 2),
    ],
)
def test_the_scale_is_baked_in(setting: dict[str, object], scale: float) -> None:
    net = injected(target_modules=["first", "conv"], **setting)
    adapter = from_peft(net)
    assert list(adapter) == ["first", "conv"]
    assert torch.equal(adapter["first"].up, net.first.lora_B["default"].weight * scale)  # pyright: ignore
    assert torch.allclose(
        adapter["first"].times(torch.ones(6)).float(),
        net.first.get_delta_weight("default").sum(1),  # pyright: ignore
        atol=1e-6,
    )
    assert adapter["conv"].down.shape == (4, 3, 3, 3)
    assert torch.allclose(
        adapter["conv"].times(torch.ones(27)).float(),
        net.conv.get_delta_weight("default").flatten(1).sum(1),  # pyright: ignore
        atol=1e-5,
    )


def test_the_factors_are_copies() -> None:
    net = injected(target_modules=["first"])
    adapter = from_peft(net)
    kept = adapter["first"].down.clone(), adapter["first"].up.clone()
    for parameter in net.parameters():
        parameter.data.zero_()
    assert torch.equal(adapter["first"].down, kept[0])
    assert torch.equal(adapter["first"].up, kept[1])


def test_bfloat16_becomes_float32() -> None:
    assert from_peft(injected(target_modules=["first"]).bfloat16())["first"].up.dtype == torch.float32


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"target_modules": ["first"], "use_dora": True}, "first is more than two factors"),
        ({"target_modules": ["first"], "lora_bias": True}, "first is more than two factors"),
        ({"target_modules": ["words"]}, "words is more than two factors"),
    ],
)
def test_more_than_a_lora_is_refused(setting: dict[str, object], reason: str) -> None:
    with pytest.raises(BadLora, match=reason):
        from_peft(injected(**setting))


def test_no_lora_is_refused() -> None:
    with pytest.raises(BadLora, match="no LoRA called 'default'"):
        from_peft(Net())


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ((4, 6), (8, 3)),
        ((4,), (8, 4)),
        ((4, 6), (8, 4, 1, 1)),
        ((4, 6, 3, 3), (8, 4, 3, 3)),
        ((0, 6), (8, 0)),
    ],
)
def test_shapes_must_belong_together(down: tuple[int, ...], up: tuple[int, ...]) -> None:
    with pytest.raises(BadLora, match="do not make a change of a weight"):
        Factors(torch.ones(down), torch.ones(up))


def test_factors_are_float32() -> None:
    with pytest.raises(BadLora, match="convert them to float32"):
        Factors(torch.ones(4, 6).half(), torch.ones(8, 4))


def test_localise_follows_the_model() -> None:
    factors = Factors(torch.ones(1, 2), torch.ones(2, 1))
    old, new = "text_model.encoder.layers.0.mlp.fc1", "encoder.layers.0.mlp.fc1"
    assert list(localise({old: factors}, {new})) == [new]
    assert list(localise({new: factors}, {old})) == [old]
    assert list(localise({"x": factors}, {"x", "y"})) == ["x"]
    with pytest.raises(BadLora, match=r"1 of the LoRA's 2 modules are not in this base: z"):
        localise({"x": factors, "z": factors}, {"x"})
