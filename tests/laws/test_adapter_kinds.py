"""Law: what holds for a LoRA holds for every kind: any plan, resumed = whole, the file = the model."""

from pathlib import Path

import pytest
import torch

from cases import CASES
from equipping import equip
from limner.errors import BadRecipe
from limner.lora import file
from limner.lora.adapters import Dora, Lokr, to_lora
from limner.nn.arch import hoistable
from limner.nn.layers import lora
from limner.nn.layers.kinds import kind_of
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from limner.runs import train
from messages import raises
from small import Told, equal, weights, wish
from tinybase import DEVICE, PLACES, Base

NEW = ["loha", "lokr", "dora"]
PLANS = (
    {"checkpointed": 2, "streamed": (0, 1)},
    {"checkpointed": 99, "hoist": True, "tail_skip": True},
    {"streamed": (1,), "hoist": True, "keep_attention": True, "checkpointed": 1},
)


@pytest.fixture(scope="module", params=["flux-dev", "sd15"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    case = next(case for case in CASES if case.name == request.param)
    return Base(case, tmp_path_factory.mktemp("bases") / case.name)


@pytest.mark.parametrize("name", NEW)
def test_any_plan_gives_the_same_loss_and_gradients_to_the_bit(base: Base, name: str):
    model, arch = base.moved(kind_of(name, factor=2 if name == "lokr" else None)), base.family.arch
    values, blocks = base.batch(0, 1), len(arch.blocks_of(model))

    def step() -> list[torch.Tensor]:
        loss = base.live(model, values, PLACES)["loss"].mean()
        return [loss, *torch.autograd.grad(loss, lora.trained(model), allow_unused=True)]

    plain = step()
    assert sum(gradient is not None and bool(gradient.any()) for gradient in plain[1:]) > len(plain) / 2
    for plan in PLANS:
        choices = {**plan, "checkpointed": min(plan.get("checkpointed", 0), blocks)}
        engine = equip(model, arch, device=DEVICE, **choices)
        try:
            results = step()
        finally:
            engine.close()
        assert all(
            (a is None and b is None) or torch.equal(a, b) for a, b in zip(plain, results, strict=True)
        ), plan


def recipe_of(name: str, base: Path, photos: Path, **train_keys) -> Recipe:
    tools = ("diffusers",) if name == "dora" else ("comfyui",)
    keys = {"batch": 4, "ema": 0.5, **train_keys}
    adapter = {"kind": name, "rank": 2, "alpha": 3.0, "dropout": 0.2}
    return wish(base, photos, lora=adapter, train=keys, export={"for": tools}, limits={"micro_batch": 2})


@pytest.mark.parametrize("name", NEW)
def test_a_resumed_run_is_the_whole_run_and_its_file_holds_what_was_trained(
    tiny_base: Path, photos: Path, tmp_path: Path, name: str
):
    train(recipe_of(name, tiny_base, photos), tmp_path / "whole", Reporter())
    train(recipe_of(name, tiny_base, photos, steps=2), tmp_path / "run", Reporter())
    done = train(recipe_of(name, tiny_base, photos), tmp_path / "run", Reporter())
    assert equal(weights(tmp_path / "whole", 4), weights(tmp_path / "run", 4))
    assert done.lora is not None
    content = file.read(done.lora)
    assert content.kinds == ({"loha": "LoHa", "lokr": "LoKr", "dora": "DoRA"}[name],)
    assert content.metadata["ss_network_module"] == "lycoris.kohya"
    for delta in content.components["transformer"].values():
        factors = delta.factors if isinstance(delta, Dora) else to_lora(delta)
        assert factors.norm() > 0


def test_the_keys_of_a_lokr_decide_its_matrices(tiny_base: Path, photos: Path, tmp_path: Path):
    recipe = recipe_of("lokr", tiny_base, photos, steps=1)
    full = recipe.model_copy(
        update={"lora": recipe.lora.model_copy(update={"factor": 4, "full_matrix": True})}
    )
    done = train(full, tmp_path / "run", Reporter())
    assert done.lora is not None
    deltas = file.read(done.lora, "flux").components["transformer"].values()
    assert deltas and all(isinstance(delta, Lokr) and len(delta.w2) == 1 for delta in deltas)


@pytest.mark.parametrize(
    ("kind", "tools"),
    [("loha", ("diffusers",)), ("lokr", ("comfyui", "musubi")), ("dora", ("comfyui",)), ("loha", ())],
)
def test_a_kind_that_a_tool_cannot_read_is_refused_before_anything_is_computed(
    tiny_base: Path, photos: Path, tmp_path: Path, kind: str, tools: tuple[str, ...]
):
    recipe, listener = wish(tiny_base, photos, lora={"kind": kind}, export={"for": tools}), Told()
    with raises(BadRecipe):
        train(recipe, tmp_path / "run", listener)
    assert not listener.counts


def test_a_dora_on_modulations_keeps_their_weights_on_the_device(base: Base):
    """Its norm reads the weight at every step, so only the others may be away."""
    if not base.family.arch.modulations:
        return
    modulation = {"flux": "norm1.linear", "sd15": "time_emb_proj"}[base.family.name]
    endings = ("to_q", modulation)
    for name in ("dora", "lokr"):
        model = base.moved(kind_of(name), endings)
        away = hoistable(model, base.family.arch)
        assert (not any(modulation in layer for layer in away)) is (name == "dora")
        values = base.batch(0, 1)
        plain = base.live(model, values, PLACES)["loss"]
        engine = equip(model, base.family.arch, device=DEVICE, hoist=True)
        assert torch.equal(base.live(model, values, PLACES)["loss"], plain)
        engine.close()
