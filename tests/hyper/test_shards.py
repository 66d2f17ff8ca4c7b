"""Law: heads that are divided between processes = all heads in each, to rounding.

Factors are sums over the same numbers; gradients of what all have are added up in another order.
"""

from pathlib import Path

import torch

from forks import forked
from limner.errors import BadRecipe
from limner.hyper.predictor import Look, Predictor, PredictorConfig
from limner.hyper.shards import HeadShards, divided, heads_of
from limner.hyper.targets import Target
from limner.hyper.train import Experts
from limner.nn import distributed
from messages import raises

TARGETS = (Target("a", 6, 4), Target("b", 10, 3), Target("idle", 5, 5), Target("c", 4, 8))
CONFIG = PredictorConfig(
    base="x", targets=TARGETS, rank=2, width=8, bottleneck=3, looks=(Look("siglip2", 7), Look("dinov2", 5))
)
STYLES = 5


def looks(rows: range) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [
        torch.randn(STYLES, 2, look.width, generator=draw)[rows.start : rows.stop] for look in CONFIG.looks
    ]


def experts() -> Experts:
    torch.manual_seed(0)
    model = Experts(Predictor(CONFIG), []).requires_grad_()
    with torch.no_grad():
        for weight in [*model.learner.up, *model.learner.static_up]:
            weight.normal_()
    return model


def loss(model: Experts, rows: range, *, static: bool = False) -> torch.Tensor:
    """A share of a sum over all styles, through the layers that a gradient comes to."""
    pairs = model.learner(
        {name: look[:, : 0 if static else 2] for name, look in zip(CONFIG.names, looks(rows), strict=True)}
    )
    used = [up @ down for name, (down, up) in pairs.items() if name != "idle"]
    return sum((change.sin().sum() for change in used), torch.zeros(())) / STYLES


def act() -> None:
    """Of the processes the first has most styles; in the first of three steps nothing is looked at."""
    process, world = distributed.rank(), distributed.world()
    whole, model = experts(), experts()
    names = dict(sorted(whole.named_parameters()))
    shards = HeadShards(model, torch.device("cpu"))
    optimizer, reference = torch.optim.AdamW(shards.masters.values()), torch.optim.AdamW(names.values())
    rest = STYLES - world + 1
    rows = range(rest) if process == 0 else range(rest + process - 1, rest + process)
    for step in range(3):
        shards.forget()
        part = loss(model, rows, static=step == 0)
        part.backward()
        total = shards.sum(list(shards.masters.values()), part)
        expected = loss(whole, range(STYLES), static=step == 0)
        expected.backward()
        assert torch.allclose(total, expected, atol=1e-5)
        gradients = [weight.grad for weight in names.values() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        assert torch.allclose(shards.norm([]), norm, rtol=1e-5)
        for name, weight in names.items():
            grad = shards.masters[name].grad
            assert (grad is None) == (weight.grad is None), name
            if grad is not None:
                assert torch.allclose(grad, shards.part(name, weight.grad), rtol=1e-4, atol=1e-5), name
        for one in (optimizer, reference):
            one.step()
            one.zero_grad()
    state = shards.whole_state(optimizer)
    parts = {name: weight.detach() for name, weight in shards.masters.items()}
    weights = shards.whole_weights(parts)
    if process == 0:
        assert all(torch.allclose(weights[name], weight, atol=1e-5) for name, weight in names.items())
        same = reference.state_dict()["state"]
        assert state["state"].keys() == same.keys()
        assert all(torch.allclose(state["state"][n]["exp_avg"], same[n]["exp_avg"], atol=1e-5) for n in same)
    state = {"state": reference.state_dict()["state"], "param_groups": []}
    back = shards.part_state(optimizer, state)["state"]
    mine = optimizer.state_dict()["state"]
    assert all(back[n]["exp_avg"].shape == mine[n]["exp_avg"].shape for n in mine)
    assert shards.numbers == sum(weight.numel() for weight in names.values())


def test_divided_heads_are_whole_ones(tmp_path: Path):
    forked(3, tmp_path / "meeting", act)  # what fails in a process fails here
    assert not list(tmp_path.glob("meeting.*"))


def test_each_process_has_layers_in_a_row_of_about_the_same_size():
    assert divided([1, 1, 1, 1], 2) == [range(2), range(2, 4)]
    assert divided([8, 1, 1, 1, 1], 2) == [range(1), range(1, 5)]
    assert divided([1, 1, 1, 9], 3) == [range(2), range(2, 3), range(3, 4)]
    sizes = heads_of(CONFIG)
    for processes in (1, 2, 3, 4):
        parts = divided(sizes, processes)
        assert [number for part in parts for number in part] == list(range(len(sizes))) and all(parts)
    total = sum(weight.numel() for name, weight in Predictor(CONFIG).named_parameters() if _is_head(name))
    assert sum(sizes) == total
    with raises(BadRecipe):
        divided(sizes, 5)


def _is_head(name: str) -> bool:
    return name.startswith(("inner", "down.", "up.", "static_"))
