import torch
from torch import nn

from limner.nn.memory.turns import Turns


def test_blocks_come_one_by_one_and_go_with_the_turn_of_their_model():
    torch.manual_seed(0)
    model, other = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4))), nn.Linear(4, 4)
    x = torch.ones(1, 4)
    with torch.no_grad():
        expected = other(model(x))
        turns = Turns(
            (model, other), torch.device("cpu"), {model: [model[0], model[2], model[3]]}, pinned=False
        )
        (swapper,) = turns._streams.values()
        assert [len(slot.room) for slot in swapper.slots] == [0, 0]
        first = model(x)
        assert all(len(slot.room) >= 80 for slot in swapper.slots) and swapper.stats.copies >= 3
        last = other(first)
        assert [(len(slot.room), slot.block) for slot in swapper.slots] == [(0, None)] * 2
        assert torch.equal(last, expected) and torch.equal(other(model(x)), expected)
        turns.close()
        assert torch.equal(other(model(x)), expected)
    assert not any(hasattr(module, "_hf_hook") or "forward" in vars(module) for module in model.modules())
