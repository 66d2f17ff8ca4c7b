import torch
from torch import nn

from forks import forked
from limner.errors import BadRecipe
from limner.nn import distributed
from limner.nn.arch import ArchSpec
from limner.nn.memory import sharding as module
from limner.nn.memory.sharding import Sharding
from messages import raises


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 7), nn.Linear(7, 6)

    def forward(self, x):
        return (x + self.two(torch.relu(self.one(x)))).view(x.shape)  # a view, as FLUX's blocks give


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.out = nn.Linear(6, 1)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.out(x)


ARCH = ArchSpec(blocks=("blocks.*",))
IMAGES = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(1))


def pair() -> tuple[Model, Model]:
    torch.manual_seed(0)
    one, other = Model(), Model()
    other.load_state_dict(one.state_dict())
    return one, other


def share(model: Model, number: int) -> torch.Tensor:
    return model(IMAGES[number]).square().mean() / len(IMAGES)


def act() -> None:
    model, whole = pair()
    sharding = Sharding(model, ARCH, torch.device("cpu"), is_trained=True)
    masters = list(sharding.masters.values())
    names = dict(sorted(whole.named_parameters()))
    optimizer, reference = torch.optim.AdamW(masters), torch.optim.AdamW(names.values())
    for _ in range(2):
        loss = torch.zeros(())
        for number in range(distributed.rank(), len(IMAGES), 2):  # gradients of two passes are added
            part = share(model, number)
            part.backward()
            sharding.gather()
            loss += part.detach()
        expected = sum(share(whole, number) for number in range(len(IMAGES)))
        assert isinstance(expected, torch.Tensor)
        expected.backward()
        torch.testing.assert_close(sharding.sum(masters, loss), expected.detach())
        length = nn.utils.get_total_norm(
            [weight.grad for weight in names.values() if weight.grad is not None]
        )
        torch.testing.assert_close(sharding.norm(masters), length)
        for each in (optimizer, reference):
            each.step()
            each.zero_grad()
    weights, state = sharding.whole_weights(sharding.masters), sharding.whole_state(optimizer)
    assert sum(weight.numel() for weight in masters) < sum(weight.numel() for weight in names.values())
    if distributed.rank() == 0:
        for index, (name, weight) in enumerate(names.items()):
            torch.testing.assert_close(weights[name], weight.detach())
            torch.testing.assert_close(state["state"][index]["exp_avg"], reference.state[weight]["exp_avg"])
    parts = sharding.part_weights({name: weight.detach() for name, weight in names.items()})
    assert all(parts[name].shape == master.shape for name, master in sharding.masters.items())
    moments = sharding.part_state(optimizer, reference.state_dict())["state"]
    assert all(moments[index]["exp_avg"].shape == weight.shape for index, weight in enumerate(masters))


def test_parts_are_trained_like_the_whole_and_put_together_again(tmp_path):
    forked(2, tmp_path / "meeting", act)
    assert (tmp_path / "meeting").exists()


def beside_adapters() -> None:
    model, whole = pair()
    model.requires_grad_(False)
    down = nn.Parameter(torch.ones(6) / 10)
    for each in (model, whole):
        each.blocks[1].register_parameter(
            "adapter", down if each is model else nn.Parameter(down.detach().clone())
        )
        each.blocks[1].register_forward_pre_hook(lambda block, args: (args[0] * block.adapter,))
    sharding = Sharding(model, ARCH, torch.device("cpu"), is_trained=False)
    assert not sharding.masters and down.shape == (6,)
    loss = share(model, 0)  # the same image in both, so that each has the whole gradient
    loss.backward()
    share(whole, 0).backward()
    expected = whole.blocks[1].adapter.grad
    torch.testing.assert_close(down.grad, expected)
    assert model.out.weight.shape == (1, 6) and not hasattr(model.out.weight, "device_mesh")
    assert hasattr(model.blocks[0].one.weight, "device_mesh")


def test_beside_adapters_frozen_blocks_are_split_and_all_else_is_whole(tmp_path):
    forked(2, tmp_path / "meeting", beside_adapters)
    assert (tmp_path / "meeting").exists()


def test_a_torch_that_cannot_is_one_line(monkeypatch):
    monkeypatch.setattr(module, "FSDPModule", object)
    monkeypatch.setattr(torch, "__version__", "2.7.1")
    with raises(BadRecipe):
        Sharding(Model(), ARCH, torch.device("cpu"), is_trained=False)
