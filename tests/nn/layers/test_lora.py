import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from limner.errors import BadRecipe, BrokenGraph
from limner.nn.arch import get_state, load_state
from limner.nn.layers import lora
from limner.nn.layers.quantized_linear import QuantizedLinear, freeze
from messages import raises


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
    with raises(BadRecipe):
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
    names = set(get_state(lora.named(net)))
    modules = ("inward", "blocks.3.q", "q_proj")
    assert names == {f"{module}.lora_{factor}.default.weight" for module in modules for factor in "AB"}
    assert len(lora.trained(net)) == 6 and all(p.dtype == torch.float32 for p in lora.trained(net))
    net(X).sum().backward()
    moved = {n for n, p in net.named_parameters() if p.grad is not None}
    assert moved == {f"{module}.{factor}" for module in modules for factor in ("down", "up")}


def test_the_seed_decides_the_factors_and_nothing_else_does():
    one = get_state(lora.named(attached(1)))
    torch.manual_seed(99)
    again, other = get_state(lora.named(attached(1))), get_state(lora.named(attached(2)))
    assert all(torch.equal(one[n], again[n]) for n in one)
    assert not torch.equal(one["inward.lora_A.default.weight"], other["inward.lora_A.default.weight"])


def test_attaching_leaves_the_global_generator_alone():
    net = tower()
    before = torch.get_rng_state()
    lora.attach(net, ["inward"], rank=2, alpha=2.0, dropout=0.0, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_the_update_is_scaled_by_alpha_over_rank():
    net, plain = attached(rank=4, alpha=2.0), tower()
    state = get_state(lora.named(net))
    up, down = state["inward.lora_B.default.weight"], state["inward.lora_A.default.weight"]
    up.normal_(generator=torch.Generator().manual_seed(0))
    wanted = plain.inward(X) + 0.5 * X @ down.T @ up.T
    assert torch.allclose(net.inward(X), wanted, atol=1e-6)


def test_factors_of_a_bf16_model_are_fp32_masters():
    net = tower().to(torch.bfloat16)
    lora.attach(net, ["inward"], rank=2, alpha=2.0, dropout=0.0, seed=1)
    assert {p.dtype for p in lora.trained(net)} == {torch.float32}
    assert net.inward.base.weight.dtype == torch.bfloat16


def test_restoring_what_was_saved():
    net, other = attached(1), attached(2)
    load_state(lora.named(other), {name: value.clone() for name, value in get_state(lora.named(net)).items()})
    assert all(torch.equal(a, b) for a, b in zip(lora.trained(net), lora.trained(other), strict=True))


def test_state_of_another_shape_is_refused():
    net = attached()
    with raises(BadRecipe):
        load_state(lora.named(net), get_state(lora.named(attached(rank=2))))
    with raises(BadRecipe):
        load_state(lora.named(net), {})


def test_dropout_is_the_adapters_own():
    net = attached(dropout=0.5)
    get_state(lora.named(net))["inward.lora_B.default.weight"].fill_(1.0)
    quiet = net(X)
    assert torch.equal(net(X), quiet)
    lora.dropping(net, enabled=True)
    assert not torch.equal(net(X), quiet)
    assert not any(m.training for m in net.modules() if isinstance(m, nn.ModuleList))
    lora.dropping(net, enabled=False)
    assert torch.equal(net(X), quiet)


def test_layers_that_never_run_are_left_out():
    net = nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(4, 4) for _ in range(4)), "out": nn.Linear(4, 4)})
    assert lora.matching(net, ["*"], layers="layers", until=2) == ["layers.0", "layers.1", "out"]
    assert lora.matching(net, ["*"], layers="layers", since=1, until=3) == ["layers.1", "layers.2"]


NAMES = ["inward", "blocks.3.q", "blocks.3.out.0", "q_proj"]


def by_peft(net: Tower, *, alpha: float = 4.0) -> Tower:
    net.requires_grad_(requires_grad=False)
    config = LoraConfig(r=4, lora_alpha=alpha, target_modules=NAMES)  # pyright: ignore[reportArgumentType]
    inject_adapter_in_model(config, net)
    return net


def peers(*, alpha: float = 4.0, dtype: torch.dtype = torch.float32) -> tuple[Tower, Tower]:
    """The same tower with the same pairs, by Limner and by peft."""
    mine, theirs = tower().to(dtype), by_peft(tower().to(dtype), alpha=alpha)
    lora.attach(mine, NAMES, rank=4, alpha=alpha, dropout=0.0, seed=1)
    state = get_state(lora.named(mine))
    for number, value in enumerate(state.values()):
        value.normal_(std=0.3, generator=torch.Generator().manual_seed(number))
    theirs.load_state_dict(state, strict=False)
    for parameter in theirs.parameters():
        parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
    theirs.load_state_dict(state, strict=False)
    return mine, theirs


def peft_trained(net: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in sorted(net.named_parameters()) if p.requires_grad}


def test_checkpoints_name_and_order_the_factors_as_peft_does():
    """Runs that were begun with peft's layers go on: the optimizer knows its tensors by their order."""
    mine, theirs = peers()
    assert list(get_state(lora.named(mine))) == list(peft_trained(theirs))


@pytest.mark.parametrize("alpha", [4.0, 3.0])
def test_outputs_and_gradients_are_those_of_peft(alpha):
    mine, theirs = peers(alpha=alpha)
    assert torch.allclose(mine(X), theirs(X), rtol=1e-5, atol=1e-6)
    one = torch.autograd.grad(mine(X).square().sum(), lora.trained(mine))
    other = torch.autograd.grad(theirs(X).square().sum(), list(peft_trained(theirs).values()))
    for a, b in zip(one, other, strict=True):
        assert float((a - b).norm() / b.norm()) < 2e-6


def test_under_autocast_it_is_no_coarser_than_peft():
    mine, theirs = peers(dtype=torch.bfloat16)
    down, up = (
        get_state(lora.named(mine))[f"q_proj.lora_{factor}.default.weight"].double() for factor in "AB"
    )
    base = mine.q_proj.base
    x = torch.randn(4096, 6, generator=torch.Generator().manual_seed(5)).bfloat16()
    wanted = x.double() @ (base.weight.double() + up @ down).T + base.bias.double()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        off, their_off = (float((net.q_proj(x).double() - wanted).norm()) for net in (mine, theirs))
    assert off <= 1.05 * their_off and off < 5e-3 * float(wanted.norm())


class Kept:
    """Bytes that autograd keeps of a forward pass, weights left aside."""

    def __init__(self, net: nn.Module) -> None:
        self.known = {p.untyped_storage().data_ptr() for p in net.parameters()}
        self.bytes: dict[int, int] = {}

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.known:
            self.bytes[storage.data_ptr()] = storage.nbytes()
        return tensor

    def of(self, run) -> int:
        with torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor):
            kept = run()  # alive, or places would be used twice
        del kept
        return sum(self.bytes.values())


class Attention(nn.Module):
    """Three layers that read one tensor, as those of attention do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x):
        return self.q(x) + self.k(x) + self.v(x)


def test_an_input_is_kept_once_for_all_that_read_it_and_never_copied():
    """peft keeps a copy in the precision of its factors for each layer."""
    width, tokens, rank = 128, 512, 4
    x = torch.randn(tokens, width).bfloat16().requires_grad_()
    mine = Attention(width).bfloat16()
    lora.attach(mine, ["q", "k", "v"], rank=rank, alpha=4.0, dropout=0.0, seed=1)
    theirs = Attention(width).bfloat16().requires_grad_(requires_grad=False)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=4, target_modules=["q", "k", "v"]), theirs)
    for parameter in peft_trained(theirs).values():
        parameter.data = parameter.data.float()
    ours = Kept(mine).of(lambda: mine(x))
    assert ours == x.nbytes + 3 * (tokens * rank * 2 + 2 * width * rank * 2)
    assert Kept(theirs).of(lambda: theirs(x)) > 6 * x.nbytes


def test_without_a_gradient_nothing_is_kept():
    net = attached()
    with torch.no_grad():
        assert Kept(net).of(lambda: net(X)) == 0


@pytest.mark.parametrize("kind", ["int8", "fp8", "nf4"])
def test_it_stands_on_layers_stored_in_few_bits(kind):
    net, plain = tower().requires_grad_(requires_grad=False), tower().requires_grad_(requires_grad=False)
    freeze(net, NAMES, kind)
    for name in NAMES:
        one = net.get_submodule(name)
        assert isinstance(one, QuantizedLinear)
        plain.get_submodule(name).weight.copy_(one.dequantize(torch.float32))  # pyright: ignore
    assert lora.matching(net, ["inward", "q"]) == lora.matching(plain, ["inward", "q"])
    results = []
    for each in (net, plain):
        lora.attach(each, NAMES, rank=4, alpha=4.0, dropout=0.0, seed=1)
        for factor in lora.trained(each):
            nn.init.constant_(factor, 0.1)
        y = each(X)
        results.append((y, *torch.autograd.grad(y.square().sum(), lora.trained(each))))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_freezing_beneath_adapters_is_the_same():
    before, after = tower(), attached()
    freeze(before.requires_grad_(requires_grad=False), ["inward"], "int8")
    lora.attach(before, ["inward"], rank=4, alpha=4.0, dropout=0.0, seed=1)
    freeze(after, ["inward"], "int8")
    assert torch.equal(before.inward(X), after.inward(X))


def test_autocast_gives_the_layers_dtype():
    net = attached()
    with torch.autocast("cpu", torch.bfloat16):
        y = net.inward(X)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in lora.trained(net))


def test_pairs_are_copies_with_the_scale_in_them():
    net = attached(rank=4, alpha=2.0)
    state = get_state(lora.named(net))
    state["inward.lora_B.default.weight"].fill_(1.0)
    pairs = {name: tuple(layer.exported().values()) for name, layer in lora.attached(net).items()}
    assert list(pairs) == ["inward", "blocks.3.q", "q_proj"]
    down, up = pairs["inward"]
    assert torch.equal(down, state["inward.lora_A.default.weight"]) and bool((up == 0.5).all())
    down.zero_()
    assert bool(state["inward.lora_A.default.weight"].any())


def test_other_layers_do_not_change_what_is_drawn():
    alone = tower()
    lora.attach(alone, ["q_proj"], rank=4, alpha=4.0, dropout=0.0, seed=1)
    name = "q_proj.lora_A.default.weight"
    drawn = get_state(lora.named(alone))[name]
    assert torch.equal(drawn, get_state(lora.named(attached()))[name])
    assert float(drawn.abs().max()) <= 6**-0.5 and float(drawn.std()) == pytest.approx(
        6**-0.5 / 3**0.5, rel=0.3
    )


def test_on_meta_there_are_shapes():
    with torch.device("meta"):
        net = Tower().to(torch.bfloat16)
    lora.attach(net, NAMES, rank=4, alpha=4.0, dropout=0.0, seed=1)
    y = net(torch.empty(3, 6, device="meta", dtype=torch.bfloat16))
    y.sum().backward()
    assert y.is_meta and all(p.grad is not None and p.is_meta for p in lora.trained(net))


def test_a_layer_that_is_not_linear_is_refused():
    with raises(BrokenGraph):
        lora.attach(tower(), ["blocks.0.norm"], rank=4, alpha=4.0, dropout=0.0, seed=1)


def test_a_layer_still_tells_its_weight():
    net = attached()
    assert net.inward.weight is net.inward.base.weight and net.inward.out_features == 6


@pytest.mark.parametrize(
    ("pattern", "fits", "fails"),
    [
        ("blocks.4-12.q", ["blocks.4.q", "x.blocks.12.q"], ["blocks.3.q", "blocks.13.q", "myblocks.4.q"]),
        ("*.out.*", ["blocks.3.out.0"], ["blocks.3.q", "out.0"]),
        ("blocks.0-1.layers.2-3.*", ["blocks.1.layers.3.q"], ["blocks.1.layers.4.q", "blocks.2.layers.3.q"]),
        ("q", ["q", "blocks.0.q"], ["blocks.0.to_q"]),
        ("conv1-2.q", ["conv1-2.q"], ["conv1.q"]),
    ],
)  # fmt: skip
def test_a_pattern_has_ranges_between_dots(pattern, fits, fails):
    form = lora.NamePattern(pattern)
    assert all(form.matches(name) for name in fits) and not any(form.matches(name) for name in fails)


def test_layers_are_chosen_by_ranges_and_left_out_again():
    net = tower()
    assert lora.matching(net, ["blocks.2-3.*", "!*.out.*"]) == ["blocks.2.q", "blocks.3.q"]
    assert lora.matching(net, ["q", "!blocks.1-11.*"]) == ["blocks.0.q"]


@pytest.mark.parametrize("endings", [["blocks.9-2.q"], ["q", "!nothing"], ["q", "!*.q"], ["blocks.90-99.q"]])
def test_patterns_that_choose_nothing_are_refused(endings):
    with raises(BadRecipe):
        lora.matching(tower(), endings)


def test_the_last_pattern_that_matches_gives_a_layer_its_value():
    names = ["blocks.0.q", "blocks.1.q", "inward"]
    assert lora.by_pattern(names, {"q": 8, "blocks.1-5.*": 4}, "lora.ranks") == {
        "blocks.0.q": 8,
        "blocks.1.q": 4,
    }
    with raises(BadRecipe):
        lora.by_pattern(names, {"*.out.*": 8}, "lora.ranks")
