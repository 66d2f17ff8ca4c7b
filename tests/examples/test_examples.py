"""Each example runs as its docstring says, on the embedded base."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel, SiglipVisionConfig, SiglipVisionModel

from limner.bases.demo_sets import folder
from limner.hyper.predictor import Look, Predictor
from limner.lora import file
from limner.recipe.toml import change, load
from limner.reporter import Reporter
from limner.runs import train
from style_folders import style_folders
from tiny import save_z_image

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {**SIZES, "patch_size": 16, "image_size": 32}


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Run an example in an empty folder, and give what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(name, *arguments):
        done = subprocess.run(
            [sys.executable, EXAMPLES / name, *arguments],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONWARNINGS": "default"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


def test_a_run_is_watched_and_used(execute, tmp_path):
    told = execute("train.py", str(folder("mascot")), "--steps", "2", "--out", "run")
    assert "step 2: validation loss" in told and "latents and text embeddings:" in told
    lora = file.read(tmp_path / "run" / "lora.safetensors")
    assert lora.metadata["ss_steps"] == "2"
    image = Path(told.rpartition("Image: ")[2].strip())
    assert (tmp_path / image).is_file()


def test_ranks_are_compared_in_a_thread(execute, tmp_path):
    arguments = (str(folder("mascot")), "--steps", "2", "--ranks", "2", "3")
    told = execute("sweep.py", *arguments)
    assert "rank 2: validation loss" in told and "rank 3: validation loss" in told
    best = next(rank for rank in (2, 3) if f"Best: rank {rank}" in told)
    assert (tmp_path / "sweep" / f"rank-{best}" / "lora-comfyui.safetensors").is_file()
    assert execute("sweep.py", *arguments) == told, "runs that are complete stay as they are"


def test_every_example_is_tested_here():
    here = Path(__file__).read_text(encoding="utf-8")
    assert [path.name for path in sorted(EXAMPLES.glob("*.py"))] == ["sweep.py", "train.py"]
    assert all(f'execute("{path.name}"' in here for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", ["sweep.py", "train.py"])
def test_an_example_says_how_it_is_run(name):
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    assert f"    python examples/{name} FOLDER" in text


def test_the_recipe_trains_a_predictor_of_tiny_models(tmp_path):
    """As it stands but for sizes: two frozen encoders, a static part first, then heads."""
    torch.manual_seed(0)
    SiglipVisionModel(SiglipVisionConfig(**VISION)).save_pretrained(tmp_path / "encoders" / "siglip2")
    DINOv3ViTModel(DINOv3ViTConfig(**VISION)).save_pretrained(tmp_path / "encoders" / "dinov3")
    styles = style_folders(tmp_path / "styles", 3, 3)
    small = {
        "base": str(save_z_image(tmp_path / "base")),
        "data.images": str(styles),
        "data.resolution": 32,
        "data.min_side": 16,
        "data.validation_count": 0,
        "instant.encoder_folder": str(tmp_path / "encoders"),
        "instant.static_steps": 1,
        "instant.width": 16,
        "instant.bottleneck": 4,
        "lora.rank": 2,
        "train.batch": 4,
        "train.steps": 2,
        "train.warmup": 0,
        "sample.every": -1,
    }
    done = train(change(load(EXAMPLES / "instant-z-image.toml"), small), tmp_path / "run", Reporter())
    assert done.model is not None
    predictor = Predictor.load(done.model)
    assert predictor.config.looks == (Look("siglip2", 16), Look("dinov3", 16))
    assert not hasattr(predictor, "encoder") and any(up.any() for up in predictor.static_up)
