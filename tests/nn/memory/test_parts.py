"""What all ways of splitting have in common; ``test_sharding.py`` and ``hyper/test_shards.py`` try two."""

import pytest
import torch
from torch import nn

from limner.nn.memory.parts import Parts


class Halves(Parts):
    """The first half of each tensor's rows; the rest is nowhere, and comes back as zeros."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        self.shapes = {name: weight.shape for name, weight in weights.items()}
        self.masters = {name: nn.Parameter(self.part(name, weight)) for name, weight in weights.items()}

    def gather(self) -> None: ...

    def forget(self) -> None: ...

    def sum(self, parameters, loss):
        return loss

    def norm(self, parameters):
        return torch.zeros(())

    def whole(self, name, part):
        return torch.cat([part, torch.zeros_like(part)])

    def part(self, name, whole):
        return whole[: len(whole) // 2]


def test_parts_of_weights_states_and_averages_are_named_alike():
    weights = {"a": torch.ones(4, 3), "b": torch.ones(2)}
    halves = Halves(weights)
    assert halves.numbers == 14
    assert halves.part_weights({"a": weights["a"], "other": weights["b"]})["a"].shape == (2, 3)
    wrong = torch.ones(5)
    assert halves.part_weights({"a": wrong})["a"] is wrong, "whoever compares shapes says so"
    assert [tensor.shape for tensor in halves.whole_list(halves.part_list([*weights.values()]))] == [
        (4, 3),
        (2,),
    ]
    optimizer = torch.optim.AdamW(halves.masters.values())
    for weight in halves.masters.values():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    whole = halves.whole_state(optimizer)
    assert whole["state"][0]["exp_avg"].shape == (4, 3) and whole["state"][0]["step"].shape == ()
    back = halves.part_state(optimizer, whole)["state"][1]["exp_avg"]
    assert torch.equal(back, optimizer.state_dict()["state"][1]["exp_avg"])


def test_a_way_of_splitting_says_all_that_it_must():
    with pytest.raises(TypeError):
        Parts()  # pyright: ignore[reportAbstractUsage]  that is the point
