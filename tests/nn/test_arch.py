from torch import nn

from limner.nn.arch import ArchSpec, frozen, matching, stand_in


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
