import pytest
import torch

from limner.errors import BadLora
from limner.lora import keys
from limner.lora.adapters import Dora, Loha, Lokr, kind, to_lora
from loras import dora, factors, loha, lokr
from messages import raises


@pytest.mark.parametrize(
    "change", [factors(), loha(), lokr(), lokr(factored=False), dora(axis="in")], ids=kind
)
def test_what_is_written_is_read(change) -> None:
    flat = {f"lora_unet_x.{ending}": tensor for ending, tensor in keys.encode(change, peft=False).items()}
    (parts,) = keys.group_by_module(flat)
    again = parts.delta()
    assert parts.stem == "lora_unet_x"
    assert type(again) is type(change)
    for name in vars(change):
        mine, other = getattr(change, name), getattr(again, name)
        if isinstance(mine, torch.Tensor):
            assert torch.equal(mine, other)


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (2.0, 1.0), (4.0, 2.0), (1.0, 0.5)])
def test_alpha_scales_by_its_rank(alpha: float | None, scale: float) -> None:
    for change in (factors(), loha(), lokr()):
        flat = {f"x.{ending}": tensor for ending, tensor in keys.encode(change, peft=False).items()}
        flat.pop("x.alpha")
        if alpha is not None:
            flat["x.alpha"] = torch.tensor(alpha)
        found = to_lora(keys.group_by_module(flat)[0].delta())
        assert torch.allclose(found.dense(), to_lora(change).dense() * scale, atol=1e-5)


def test_a_lokr_of_two_whole_sides_ignores_alpha() -> None:
    one = lokr(factored=False)
    flat = {"x.lokr_w1": one.w1[0], "x.lokr_w2": one.w2[0], "x.alpha": torch.tensor(0.25)}
    assert torch.equal(to_lora(keys.group_by_module(flat)[0].delta()).dense(), to_lora(one).dense())


@pytest.mark.parametrize(("shape", "axis"), [((8, 1), "out"), ((1, 6), "in"), ((8,), "out")])
def test_the_axis_of_a_dora_is_seen_by_its_shape(shape: tuple[int, ...], axis: str) -> None:
    flat = {
        "x.lora_up.weight": torch.ones(8, 2),
        "x.lora_down.weight": torch.ones(2, 6),
        "x.dora_scale": torch.ones(shape),
    }
    found = keys.group_by_module(flat)[0].delta()
    assert isinstance(found, Dora)
    assert found.axis == axis


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"x.dora_scale": torch.ones(3, 1)}, r"dora_scale \(3, 1\) is neither \(8, 1\) nor \(1, 6\)"),
        ({"x.alpha": torch.tensor(float("inf"))}, "has an alpha of inf"),
        ({"x.hada_w1_a": torch.ones(2, 2)}, "it has down and up besides"),
        ({"x.lokr_w1": torch.ones(2, 2)}, "it has down and up besides"),
        ({"x.lora_mid.weight": torch.ones(2, 2)}, "does not follow lora_down"),
        (
            {"x.lora_down.weight": torch.ones(2, 6), "x.lora.down.weight": torch.ones(2, 6)},
            "has its down twice",
        ),
    ],
)
def test_what_does_not_belong_together_is_refused(more: dict[str, torch.Tensor], reason: str) -> None:
    flat = {"x.lora_up.weight": torch.ones(8, 2), "x.lora_down.weight": torch.ones(2, 6)} | more
    with pytest.raises(BadLora, match=reason):
        keys.group_by_module(flat)[0].delta()


@pytest.mark.parametrize("part", ["hada_w2_b", "lokr_w2_a"])
def test_a_part_that_is_missing_is_named(part: str) -> None:
    change = loha() if part.startswith("hada") else lokr()
    flat = {f"x.{ending}": tensor for ending, tensor in keys.encode(change, peft=True).items()}
    del flat[f"x.{part}"]
    with pytest.raises(BadLora, match=f"x has no {part}: the file is incomplete"):
        keys.group_by_module(flat)[0].delta()


def test_peft_has_no_word_for_norms_along_the_input() -> None:
    assert "lora_magnitude_vector" in keys.encode(dora(), peft=True)
    for change, peft in ((dora(axis="in"), True), (dora(), False)):
        with raises(BadLora):
            keys.encode(change, peft=peft)
    assert isinstance(loha(), Loha)
    assert isinstance(lokr(), Lokr)
