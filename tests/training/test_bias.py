from pathlib import Path

import pytest
import torch

from limner.assembly.resolve import resolve_base
from limner.errors import BadRecipe, BadUsage
from limner.hyper.predictor import FILE, Predictor, PredictorConfig
from limner.hyper.targets import Target
from limner.lora import file
from limner.reporter import Reporter
from limner.runs import train
from limner.training.bias import BiasOptions, bias_recipe, expert_names, train_bias
from messages import raises

TARGETS = tuple(Target(f"transformer_blocks.0.attn.{name}", 32, 32) for name in ("to_k", "to_q"))


@pytest.fixture
def predictor(tmp_path) -> Path:
    """One whose heads have moved, for two layers of the tiny base."""
    torch.manual_seed(0)
    net = Predictor(
        PredictorConfig(base="tiny", targets=TARGETS, rank=2, width=16, bottleneck=4, side=32, guidance=1.5)
    )
    for up in net.up:
        up.data += torch.randn(up.shape)
    net.save(tmp_path / "coarse" / "predictor" / FILE, {})
    return tmp_path / "coarse" / "predictor"


def test_a_bias_learns_from_what_the_base_generates(tiny_base, predictor, tmp_path):
    """Of prompts, while the predictor's LoRAs are in the base; the folder then holds both."""
    options = BiasOptions(base=str(tiny_base), prompts=("a cat", "a dog"), images=3, rank=1, steps=2)
    recipe = bias_recipe([predictor], tmp_path / "out" / "run", options)
    assert recipe.instant.encoders == () and recipe.prior.counts == (2, 1)
    small = recipe.model_copy(update={"sample": recipe.sample.model_copy(update={"steps": 1})})

    def run(_, folder: Path) -> Path | None:
        return train(small, folder, Reporter()).lora

    path = train_bias([predictor], tmp_path / "out", options, run)
    assert {item.name for item in (tmp_path / "out").glob("*.safetensors")} == {
        "bias.safetensors",
        "coarse.safetensors",
    }
    adapter = file.read(path).components["transformer"]
    assert set(adapter) == {target.name for target in TARGETS}
    assert {factors.rank for factors in adapter.values()} == {1}
    assert any(factors.up.abs().max() > 0 for factors in adapter.values())
    assert len(list((tmp_path / "out" / "run" / "prior").glob("*.png"))) == 3
    assert (tmp_path / "out" / "coarse.safetensors").read_bytes() == (predictor / FILE).read_bytes()


def test_experts_are_called_by_their_folders(tmp_path):
    names = expert_names(
        [Path("runs/coarse/predictor"), Path("fine.safetensors"), Path("x/predictor.safetensors")]
    )
    assert names[1:] == ["fine", "x"]
    (tmp_path / "coarse" / "predictor").mkdir(parents=True)
    (tmp_path / "style").mkdir()
    assert expert_names([tmp_path / "coarse" / "predictor", tmp_path / "style"]) == ["coarse", "style"]


def test_a_predictor_for_another_base_is_told_before_anything_is_computed(tiny_base, tmp_path):
    target = Target("transformer_blocks.0.attn.to_q", 16, 16)
    config = PredictorConfig(base="other", targets=(target,), rank=2, width=16, bottleneck=4)
    Predictor(config).save(tmp_path / "other" / FILE, {})
    options = BiasOptions(base=str(tiny_base), prompts=("a cat",))
    recipe = bias_recipe([tmp_path / "other"], tmp_path / "run", options)
    with raises(BadRecipe):
        resolve_base(recipe).spec.skeleton("predictor")


def test_what_is_no_bias_is_told():
    with raises(BadUsage):
        BiasOptions(base="glyph", prompts=("a cat",), images=1)
    with raises(BadUsage):
        expert_names([Path("a/fine.safetensors"), Path("b/fine.safetensors")])
    with raises(BadUsage):
        expert_names([Path("bias.safetensors")])
