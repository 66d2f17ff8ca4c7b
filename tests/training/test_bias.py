import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from limner.assembly.resolve import resolve, resolve_base
from limner.errors import BadData, BadRecipe, BadUsage
from limner.generation.class_images import with_prior
from limner.hyper.predictor import FILE, Predictor, PredictorConfig
from limner.hyper.targets import Target
from limner.hyper.train import Experts
from limner.lora import file
from limner.nn.memory.plan import Plan
from limner.planning.cards import typical
from limner.planning.devices import of_card
from limner.planning.planner import request_of
from limner.recipe.toml import change
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.runs import train
from limner.training.bias import BiasOptions, bias_recipe, expert_names, train_bias
from limner.training.cache import fill_cache
from limner.training.model import TrainableModel
from messages import raises
from small import Told

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


@pytest.fixture
def styles(tmp_path) -> Path:
    """Two styles of three images."""
    for style, colour in (("red", (220, 20, 10)), ("blue", (10, 30, 220))):
        (tmp_path / "styles" / style).mkdir(parents=True)
        for number in range(3):
            image = Image.new("RGB", (32, 32), colour)
            image.paste((number * 60, 200, 90), (4, 4, 10 + 6 * number, 20))
            image.save(tmp_path / "styles" / style / f"{number}.png")
            (tmp_path / "styles" / style / f"{number}.txt").write_text(("cat", "dog", "cow")[number])
    return tmp_path / "styles"


def test_a_bias_learns_from_what_the_base_generates(tiny_base, predictor, styles, tmp_path):
    """Of prompts, while the predictor's LoRAs are in the base; the folder then holds both."""
    prompts = ("a cat", "a dog")
    options = BiasOptions(base=str(tiny_base), prompts=prompts, images=3, keep=styles, rank=1, steps=2)
    recipe = bias_recipe([predictor], tmp_path / "out" / "run", options)
    assert recipe.instant.encoders == () and recipe.prior.counts == (2, 1)
    small = recipe.model_copy(update={"sample": recipe.sample.model_copy(update={"steps": 1})})

    def run(_, folder: Path) -> Path | None:
        reporter = Told()
        lora = train(small, folder, reporter).lora
        assert "Prior: LoRAs of 6 images keep their effect, 8 per step, weight 0.2." in reporter.lines
        return lora

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


def test_a_bias_is_taught_by_the_bare_base_and_of_what_is_kept_by_the_experts_alone(
    tiny_base, predictor, styles, tmp_path
):
    """Before it is trained it changes nothing: no loss of what is kept, and the whole drift of the rest."""
    images = tmp_path / "images"
    shutil.copytree(styles / "red", images)
    options = BiasOptions(base=str(tiny_base), prompts=("a cat",), keep=styles, keep_weight=0.5, rank=1)
    recipe = bias_recipe([predictor], tmp_path / "run", options)
    assert recipe.prior.counts == (100,)
    request = request_of(recipe, of_card(typical(8)))
    assert request.batches == (8, 8) and request.teacher_share(Plan()) == 1
    recipe = change(recipe, {"data.images": str(images), "prior.prompts": [], "prior.count": None})
    resolved = with_prior(resolve(recipe), RunDir(tmp_path / "run"), Reporter())
    model = TrainableModel(resolved, fill_cache(resolved, Reporter())[0])
    own, kept = model._samples(0)
    assert len(own) == len(kept) == 8 and {sample.position for sample in kept} == {*range(-8, 0)}
    first = len(resolved.own)
    views = [resolved.views[row] for sample in kept for row in (sample.view_index, *sample.references)]
    assert {view.example.path.parent for view in views} == {styles / "red", styles / "blue"}
    for sample in kept:
        places = {resolved.views[row].example.path for row in (sample.view_index, *sample.references)}
        assert sample.view_index >= first and len({path.parent for path in places}) == 1 < len(places)

    def losses() -> list[float]:
        return [sum(loss.item() for loss in model._losses(0, part)) for part in (own, kept)]

    drift, change_of_kept = losses()
    assert drift > 0 and change_of_kept == 0
    experts = model.models["predictor"]
    assert isinstance(experts, Experts)
    experts.frozen[0].config = replace(experts.frozen[0].config, strength=0.0)
    assert losses() == [0, 0]
    with torch.no_grad():
        for up in experts.learner.static_up:
            up += 0.1
    assert min(losses()) > 0


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
        BiasOptions(base="glyph", prompts=("a cat",), keep_weight=2.0)
    with raises(BadUsage):
        expert_names([Path("a/fine.safetensors"), Path("b/fine.safetensors")])
    with raises(BadUsage):
        expert_names([Path("bias.safetensors")])


def test_kept_images_that_are_no_styles_are_told_before_the_base_generates_any(
    tiny_base, predictor, styles, tmp_path
):
    def recipe(folder: Path, **options):
        bias = BiasOptions(base=str(tiny_base), prompts=("a cat",), keep=folder, **options)
        return bias_recipe([predictor], tmp_path / "run", bias)

    (tmp_path / "one").mkdir()
    shutil.copy(styles / "red" / "0.png", tmp_path / "one")
    for folder in (tmp_path / "one", tmp_path / "nowhere"):
        with raises(BadData):
            recipe(folder)
    with raises(BadRecipe):
        recipe(styles, keep_weight=0.0)
