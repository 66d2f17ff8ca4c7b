import pytest
import torch
from torch import nn

from limner.errors import BadRecipe
from limner.hyper.targets import Target, fingerprint, targets_of
from messages import raises


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [nn.ModuleDict({"q": nn.Linear(4, 6), "k": nn.Linear(4, 3)}) for _ in range(2)]
        )
        self.conv = nn.Conv2d(3, 4, 1)


def test_names_and_sizes_of_matching_layers():
    with torch.device("meta"):
        model = Model()
    assert targets_of(model, ["q"]) == (Target("blocks.0.q", 4, 6), Target("blocks.1.q", 4, 6))


def test_a_convolution_is_refused():
    with raises(BadRecipe):
        targets_of(Model(), ["conv"])


def test_the_hash_knows_names_and_sizes_and_no_order():
    first, second = targets_of(Model(), ["q"]), targets_of(Model(), ["k"])
    assert fingerprint([*first, *second]) == fingerprint([*second, *first])
    assert len({fingerprint(first), fingerprint(second), fingerprint(first[:1])}) == 3
    assert fingerprint([Target("q", 4, 6)]) != fingerprint([Target("q", 6, 4)])


@pytest.mark.parametrize("count", [0, 1])
def test_the_hash_is_the_same_everywhere(count):
    digests = (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "d6ed15d9593b95cb0704a4b5b5d445d469df7fb8f4f6b3c3cea85919d0d8a7c8",
    )
    assert fingerprint([Target("q", 4, 6)] * count) == digests[count]
