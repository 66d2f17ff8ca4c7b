import pytest
import torch
from torch import nn

from limner.errors import BadRecipe
from limner.imports import hush
from limner.models.bundled import known
from limner.models.loading import skeleton
from limner.models.registry import family_of
from limner.nn import arch
from limner.nn.arch import (
    ArchSpec,
    bytes_of,
    frozen,
    get_state,
    heaviest,
    lists,
    load_state,
    matching,
    stand_in,
)
from messages import raises


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ff = nn.Linear(2, 2)
        self.norm = nn.Sequential(nn.Linear(2, 2))


def _model() -> nn.Module:
    model = nn.Module()
    model.single = nn.ModuleList(_Block() for _ in range(11))
    model.double = nn.ModuleList([_Block()])
    return model


def test_blocks_come_in_running_order_not_in_that_of_the_model() -> None:
    names = list(ArchSpec(blocks=("double.*", "single.*")).blocks_of(_model()))
    assert names == ["double.0", *(f"single.{n}" for n in range(11))]


def test_a_star_stands_for_one_part_of_a_name() -> None:
    assert set(matching(_model(), ("double.*",))) == {"double.0"}
    assert set(matching(_model(), ("double.*.*.0", "double.*.ff"))) == {
        "double.0.norm.0",
        "double.0.ff",
    }


def test_ways_to_fit_one_pattern_run_interleaved() -> None:
    names = list(
        ArchSpec(blocks=("double.*|double.*.norm.*", "single.*.norm.*|single.*")).blocks_of(_model())
    )
    assert names[:4] == ["double.0", "double.0.norm.0", "single.0", "single.0.norm.0"]
    assert names[-2:] == ["single.10", "single.10.norm.0"] and len(names) == 24


def test_the_frozen_layer_inside_an_adapter_is_found_under_either_name() -> None:
    for name in ("base", "base_layer"):
        layer, inner = nn.Module(), nn.Linear(2, 2)
        layer.add_module(name, inner)
        assert frozen(layer) is inner
    assert frozen(inner) is inner


def test_a_stand_in_is_undone_in_the_reverse_order() -> None:
    layer = nn.Identity()
    first = stand_in(layer, lambda _: 1)
    second = stand_in(layer, lambda _: 2)
    assert layer(0) == 2
    second()
    assert layer(0) == 1
    first()
    assert layer(0) == 0 and "forward" not in vars(layer)


def stack(*widths: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(width, width) for width in widths)


def test_only_layers_that_are_alike_make_a_list():
    model = nn.ModuleDict(
        {
            "alike": stack(8, 4, 4, 4),
            "widths": stack(8, 8, 8, 16),
            "kinds": nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), nn.Conv2d(4, 4, 1)]),
            "few": stack(4, 4),
            "one": stack(4),
            "nest": nn.ModuleList(nn.ModuleDict({"inner": stack(4, 4, 4)}) for _ in range(3)),
        }
    )
    assert list(lists(model)) == ["alike", "few", "nest"]
    assert list(lists(model, least=3)) == ["alike", "nest"]


def test_a_list_is_heaviest_only_with_half_of_the_weights():
    model = nn.ModuleDict({"layers": stack(4, 4, 4), "embedding": nn.Embedding(15, 4)})
    assert heaviest(model) == "layers"
    model["more"] = nn.Linear(4, 4)
    assert heaviest(model) is None
    assert heaviest(nn.Linear(2, 2)) is None


def test_a_tied_weight_is_counted_once():
    weight = nn.Parameter(torch.zeros(3, 5, dtype=torch.bfloat16))
    assert bytes_of([weight, weight, torch.zeros(2)]) == 30 + 8


@pytest.mark.parametrize(
    ("base", "part", "name"),
    [
        ("flux-dev", "text_encoder", "encoder.layers"),
        ("flux-dev", "text_encoder_2", "encoder.block"),
        ("qwen-image", "text_encoder", "model.language_model.layers"),
        ("flux2-klein-9b", "text_encoder", "model.layers"),
        ("z-image", "text_encoder", "layers"),
        ("sdxl", "text_encoder_2", "text_model.encoder.layers"),
        ("sdxl", "vae", None),
        ("qwen-image", "vae", None),
    ],
)
def test_where_true_encoders_have_their_layers(base: str, part: str, name: str | None):
    hush()
    source = known(base)
    family = family_of(source.index["_class_name"])
    assert heaviest(skeleton(family, source, part, dtype=torch.bfloat16)) == name


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))


def test_what_was_kept_is_put_back_to_the_bit():
    one, other = arch.unfreeze(net()), arch.unfreeze(net())
    load_state(arch.trained_by_name(other), get_state(arch.trained_by_name(one)))
    assert all(torch.equal(a, b) for a, b in zip(arch.trained(one), arch.trained(other), strict=True))


def test_a_state_of_another_model_is_refused():
    with raises(BadRecipe):
        load_state(arch.trained_by_name(arch.unfreeze(net())), {"0.weight": torch.zeros(4, 3)})
