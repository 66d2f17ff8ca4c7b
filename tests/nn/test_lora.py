import pytest
import torch
from torch import nn

from limner.errors import BadRecipe
from limner.nn import lora


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(6, 6)
        self.out = nn.ModuleList([nn.Linear(6, 6), nn.Dropout()])
        self.norm = nn.LayerNorm(6)

    def forward(self, x):
        return self.norm(x + self.out[0](self.q(x)))


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Linear(6, 6)
        self.blocks = nn.ModuleList([Layer() for _ in range(12)])
        self.q_proj = nn.Linear(6, 6)

    def forward(self, x):
        x = self.inward(x)
        for block in self.blocks:
            x = block(x)
        return self.q_proj(x)


def tower() -> Tower:
    torch.manual_seed(0)
    return Tower().eval()


X = torch.randn(3, 6, generator=torch.Generator().manual_seed(2))


def test_endings_match_at_dots():
    net = tower()
    assert lora.matching(net, ["q"]) == sorted(f"blocks.{n}.q" for n in range(12))
    assert lora.matching(net, ["inward", "blocks.*.out.0"]) == sorted(
        [*(f"blocks.{n}.out.0" for n in range(12)), "inward"]
    )
    assert lora.matching(net, ["q", "out.0"], layers="blocks", since=10) == [
        "blocks.10.out.0", "blocks.10.q", "blocks.11.out.0", "blocks.11.q",
    ]  # fmt: skip
    assert lora.matching(net, ["inward", "q"], layers="blocks", since=11) == ["blocks.11.q"]


def test_an_ending_that_matches_nothing_is_refused_with_those_that_exist():
    with pytest.raises(
        BadRecipe,
        match=r"lora\.targets: no linear layer ends in 'norm'\. .* here: inward, out\.0, q, q_proj\.",
    ):
        lora.matching(tower(), ["q", "norm"])


def attached(seed: int = 1, *, rank: int = 4, alpha: float = 4.0, dropout: float = 0.0) -> Tower:
    net = tower()
    names = ["inward", "blocks.3.q", "q_proj"]
    places = [(0, n) for n in range(len(X))]
    lora.attach(net, names, rank=rank, alpha=alpha, dropout=dropout, seed=seed, places=places)
    return net


def test_step_zero_is_the_base_model():
    assert torch.equal(attached()(X), tower()(X))


def test_only_the_named_layers_are_trained():
    net = attached()
    names = set(lora.named_state(net))
    modules = ("inward", "blocks.3.q", "q_proj")
    assert names == {f"{module}.lora_{factor}.default.weight" for module in modules for factor in "AB"}
    assert len(lora.trained(net)) == 6 and all(p.dtype == torch.float32 for p in lora.trained(net))
    net(X).sum().backward()
    assert {n for n, p in net.named_parameters() if p.grad is not None} == names


def test_the_seed_decides_the_factors_and_nothing_else_does():
    one = lora.named_state(attached(1))
    torch.manual_seed(99)
    again, other = lora.named_state(attached(1)), lora.named_state(attached(2))
    assert all(torch.equal(one[n], again[n]) for n in one)
    assert not torch.equal(one["inward.lora_A.default.weight"], other["inward.lora_A.default.weight"])


def test_attaching_leaves_the_global_generator_alone():
    net = tower()
    before = torch.get_rng_state()
    lora.attach(net, ["inward"], rank=2, alpha=2.0, dropout=0.0, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_the_update_is_scaled_by_alpha_over_rank():
    net, plain = attached(rank=4, alpha=2.0), tower()
    state = lora.named_state(net)
    up, down = state["inward.lora_B.default.weight"], state["inward.lora_A.default.weight"]
    up.normal_(generator=torch.Generator().manual_seed(0))
    wanted = plain.inward(X) + 0.5 * X @ down.T @ up.T
    assert torch.allclose(net.inward(X), wanted, atol=1e-6)


def test_factors_of_a_bf16_model_are_fp32_masters():
    net = tower().to(torch.bfloat16)
    lora.attach(net, ["inward"], rank=2, alpha=2.0, dropout=0.0, seed=1)
    assert {p.dtype for p in lora.trained(net)} == {torch.float32}
    assert net.inward.base_layer.weight.dtype == torch.bfloat16


def test_restoring_what_was_saved():
    net, other = attached(1), attached(2)
    lora.restore(other, {name: value.clone() for name, value in lora.named_state(net).items()})
    assert all(torch.equal(a, b) for a, b in zip(lora.trained(net), lora.trained(other), strict=True))


def test_state_of_another_shape_is_refused():
    net = attached()
    with pytest.raises(BadRecipe, match=r"trains 6 tensors, this recipe 6, or their shapes differ.*--out"):
        lora.restore(net, lora.named_state(attached(rank=2)))
    with pytest.raises(BadRecipe, match="trains 0 tensors, this recipe 6"):
        lora.restore(net, {})


def test_dropout_is_the_adapters_own():
    net = attached(dropout=0.5)
    lora.named_state(net)["inward.lora_B.default.weight"].fill_(1.0)
    quiet = net(X)
    assert torch.equal(net(X), quiet)
    lora.dropping(net, on=True)
    assert not torch.equal(net(X), quiet)
    assert not any(m.training for m in net.modules() if isinstance(m, nn.ModuleList))
    lora.dropping(net, on=False)
    assert torch.equal(net(X), quiet)


def test_layers_that_never_run_are_left_out():
    net = nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(4, 4) for _ in range(4)), "out": nn.Linear(4, 4)})
    assert lora.matching(net, ["*"], layers="layers", until=2) == ["layers.0", "layers.1", "out"]
    assert lora.matching(net, ["*"], layers="layers", since=1, until=3) == ["layers.1", "layers.2"]
