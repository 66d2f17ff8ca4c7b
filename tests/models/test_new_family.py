"""A family is added by its folder alone: preset, caption style, plan, training, samples, LoRA file."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel, FlowMatchEulerDiscreteScheduler
from PIL import Image
from transformers import UMT5Config, UMT5EncoderModel

import tiny
from limner import models
from limner.captions.spec import style_of
from limner.errors import BadBase, BadRecipe
from limner.lora.file import read
from limner.models.bundled import known
from limner.models.presets import preset, preset_name
from limner.models.registry import families, family_of
from limner.planning.planner import plan
from limner.recipe.toml import change
from limner.run_folder import RunDir
from limner.runs import train
from messages import raises
from small import Told, losses, wish

FOLDER = Path(__file__).parent / "new_family"


def save_aura_flow(folder: Path) -> Path:
    """Write a tiny AuraFlow. Images of 32 px or more; text of 12 tokens."""
    torch.manual_seed(0)
    text = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    pipe = AuraFlowPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.7),
        vae=tiny.vae(scaling_factor=0.13025),
        text_encoder=UMT5EncoderModel(UMT5Config(**text)),
        tokenizer=tiny.t5_tokenizer(),
        transformer=AuraFlowTransformer2DModel(
            sample_size=8,
            num_mmdit_layers=1,
            num_single_dit_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            caption_projection_dim=32,
            pos_embed_max_size=64,
        ),
    )
    return tiny.save(pipe, folder, text_length=12)


def configs(base: Path) -> dict[str, object]:
    """The configs of a folder, as a family keeps them of a registered base."""
    index = json.loads((base / "model_index.json").read_text())
    parts = [name for name, kind in index.items() if isinstance(kind, list) and name != "tokenizer"]
    files = {part: "scheduler_config" if part == "scheduler" else "config" for part in parts}
    return {"model_index": index} | {
        part: json.loads((base / part / f"{file}.json").read_text()) for part, file in files.items()
    }


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A base of the new family, whose folder lies outside the package."""
    base = save_aura_flow(tmp_path / "base")
    shutil.copytree(FOLDER, tmp_path / "families", ignore=shutil.ignore_patterns("__pycache__"))
    there = tmp_path / "families" / "aura_flow" / "configs"
    there.mkdir()
    (there / "aura-tiny.json").write_text(json.dumps(configs(base)))
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path / "families")])
    yield base
    for name in [name for name in sys.modules if name.startswith("limner.models.aura_flow")]:
        del sys.modules[name]


def test_without_its_folder_there_is_no_such_family():
    with raises(BadBase):
        family_of("AuraFlowPipeline")
    with raises(BadRecipe):
        preset("style", "aura-flow", 10)


def test_its_facts_are_read(base: Path):
    assert "aura-flow" in families()
    assert preset_name("aura-tiny") == preset_name(str(base)) == "aura-flow"
    recipe = preset("style", "aura-flow", 10)
    assert (recipe.base, recipe.lora.rank) == ("aura-tiny", 8)
    assert style_of("someone/AuraFlow-v9").name == style_of(str(base)).name == "sentences"
    assert known("aura-tiny").config("transformer")["num_single_dit_layers"] == 2


def test_it_is_planned_by_its_configs_alone(base: Path, photos: Path):
    values = {"base": "aura-tiny", "data.images": photos, "data.resolution": 32}
    planned = plan(change(preset("subject", "aura-flow", 3), values), Told(), card="RTX 4090")
    assert planned.choice is not None and planned.profile.family == "aura-flow"
    assert len(planned.profile.blocks) == 3


def test_it_trains_samples_and_exports_what_its_pipeline_loads(base: Path, photos: Path, tmp_path: Path):
    recipe = wish(base, photos, sample={"every": 0, "steps": 2, "prompts": ["a cat"]})
    train(recipe, tmp_path / "run", Told())
    run = RunDir(tmp_path / "run")
    assert [step for step, loss, _ in losses(tmp_path / "run") if loss] == [1, 2, 3, 4]
    file = read(run.lora_path)
    assert "AuraFlow" in file.metadata["modelspec.architecture"]
    assert all(factors.up.abs().max() > 0 for factors in file.components["transformer"].values())
    pictures = sorted((tmp_path / "run").rglob("*.png"))
    with Image.open(pictures[0]) as picture:
        assert picture.size == (32, 32)
    pipe = AuraFlowPipeline.from_pretrained(base)
    pipe.load_lora_weights(run.lora_path.parent, weight_name=run.lora_path.name)
    assert len(pipe.get_list_adapters()["transformer"]) == 1
