"""Law 2: step 0 = the base model. Exported, then loaded by stock diffusers = the trained model."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from limner.assembly.resolve import resolve
from limner.lora import file
from limner.models.latents import grid
from limner.recipe.schema import Recipe
from limner.run_folder import RunDir
from limner.training.cache import fill_cache
from limner.training.export import export
from limner.training.model import TrainableModel
from small import Told, wish
from waiting import LONGEST

HARMLESS = "No LoRA keys associated to CLIPTextModel found"
"""diffusers says so of every LoRA without a text encoder, its own examples' included."""

STOCK = """
import json, logging, sys, warnings
import torch
from diffusers import FluxPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

base, lora, folder, asked = sys.argv[1:5]
asked = json.loads(asked)
heard = []


class Ear(logging.Handler):
    def emit(self, record):
        heard.append(record.getMessage())


for name in ("diffusers", "transformers", "peft"):
    logging.getLogger(name).addHandler(Ear(logging.WARNING))
pipe = FluxPipeline.from_pretrained(base, local_files_only=True)
pipe.set_progress_bar_config(disable=True)
heard.clear()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    pipe.load_lora_weights(lora)
parts = {name: model for name, model in pipe.components.items() if isinstance(model, torch.nn.Module)}
used = {
    f"{name}.{key}": value.detach().clone().contiguous()
    for name, model in parts.items()
    for key, value in model.state_dict().items()
    if "lora_" in key
}
inputs = load_file(folder + "/inputs.safetensors")
with torch.no_grad():
    pred = pipe.transformer(**inputs, return_dict=False)[0]
save_file({"pred": pred}, folder + "/pred.safetensors")
save_file(used, folder + "/used.safetensors")
generator = torch.Generator().manual_seed(asked["seed"])
pipe(asked["prompt"], **asked["options"], generator=generator).images[0].save(folder + "/stock.png")
print(json.dumps({
    "warnings": heard + [str(each.message) for each in caught],
    "meta": [f"{n}.{k}" for n, model in parts.items() for k, p in model.named_parameters() if p.is_meta],
    "scales": sorted({
        scale for model in parts.values() for module in model.modules()
        if isinstance(getattr(module, "scaling", None), dict) for scale in module.scaling.values()
    }),
    "limner": [name for name in sys.modules if name.split(".")[0] == "limner"],
}))
"""


def trainable_model(recipe: Recipe, *, moved: bool) -> TrainableModel:
    resolved = resolve(recipe)
    made = TrainableModel(resolved, fill_cache(resolved, Told())[0])
    for number, factor in enumerate(made.parameters if moved else ()):
        torch.nn.init.normal_(factor, std=0.2, generator=torch.Generator().manual_seed(number))
    return made


def inputs(one: TrainableModel) -> dict[str, torch.Tensor]:
    """What a transformer reads, for a picture of 32 x 32."""
    draw = torch.Generator().manual_seed(5)
    config = one.models["transformer"].config
    text, pooled = (torch.randn(*shape, generator=draw) for shape in ((1, 12, 16), (1, 16)))
    more = {"guidance": torch.tensor([3.5])} if config.guidance_embeds else {}
    return {
        "hidden_states": torch.randn(1, 4, config.in_channels, generator=draw),
        "encoder_hidden_states": text, "pooled_projections": pooled, "timestep": torch.tensor([0.4]),
        "img_ids": torch.nn.functional.pad(grid(2, 2, torch.device("cpu")), (1, 0)),
        "txt_ids": torch.zeros(12, 3), **more,
    }  # fmt: skip


def by_stock(base: Path, lora: Path, one: TrainableModel, folder: Path) -> dict[str, Any]:
    """Load the file in a process that never imports limner; what it heard, and what it computed."""
    from limner.models.family import SamplingParams

    folder.mkdir()
    save_file(inputs(one), folder / "inputs.safetensors")
    resolved = one.resolved
    options = resolved.family.pipeline_kwargs(resolved.source, SamplingParams(width=32, height=32, steps=2))
    wished = {"seed": 0, "prompt": "zorb", "options": options}
    command = [sys.executable, "-c", STOCK, str(base), str(lora), str(folder), json.dumps(wished)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    return said | {name: load_file(folder / f"{name}.safetensors") for name in ("pred", "used")}


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_step_zero_is_the_base(tiny_base, photos, tmp_path):
    sample = {"every": 0, "prompts": ["zorb"], "steps": 2}
    recipe = wish(
        tiny_base, photos, sample=sample, train={"steps": 0}, lora={"text_encoders": ["text_encoder"]}
    )
    one, run = trainable_model(recipe, moved=False), RunDir(tmp_path / "run")
    (mine,) = one.sample(1)
    bare = one.resolved.family
    from limner.models.loading import load

    models = {
        name: load(bare, one.resolved.source, name, dtype=torch.float32, device=one.resolved.device)
        for name in bare.parts
    }
    reads = inputs(one)
    with torch.no_grad():
        assert torch.equal(one.models["transformer"](**reads)[0], models["transformer"](**reads)[0])
    export(one, run, Told())
    components = file.read(run.lora_path).components
    assert all(not factors.up.any() for adapter in components.values() for factors in adapter.values())
    from limner.generation.pipeline import pipeline

    stock_base = pipeline(bare, one.resolved.source)
    from limner.models.family import SamplingParams

    options = bare.pipeline_kwargs(one.resolved.source, SamplingParams(width=32, height=32, steps=2))
    painted = stock_base("zorb", **options, generator=torch.Generator().manual_seed(0)).images[0]
    assert np.abs(np.asarray(painted, int) - np.asarray(mine, int)).max() <= 1


@pytest.mark.parametrize(
    "lora",
    [
        {"alpha": 2.0},
        pytest.param({"alpha": 1.0, "text_encoders": ["text_encoder"]}, marks=pytest.mark.slow),
    ],
    ids=["denoiser", "clip"],
)
def test_stock_diffusers_loads_what_was_trained(tiny_base, photos, tmp_path, lora):
    sample = {"every": 0, "prompts": ["zorb"], "steps": 2}
    recipe = wish(tiny_base, photos, sample=sample, lora={"rank": 2, **lora})
    one, run = trainable_model(recipe, moved=True), RunDir(tmp_path / "run")
    export(one, run, Told())
    components = file.read(run.lora_path).components
    said = by_stock(tiny_base, run.lora_path, one, tmp_path / "stock")
    assert said["limner"] == [] and said["meta"] == []
    assert [
        each for each in said["warnings"] if not (each.startswith(HARMLESS) and len(components) == 1)
    ] == []
    assert said["scales"] == [1.0], "the scale is in the factors"
    written = load_file(run.lora_path)
    assert len(said["used"]) == len(written) == len(one.parameters), "every key is used"
    assert sorted(v.double().sum().item() for v in said["used"].values()) == sorted(
        v.double().sum().item() for v in written.values()
    )
    with torch.no_grad():
        mine = one.models["transformer"](**inputs(one))[0]
    exact = recipe.lora.alpha in (None, 2.0)
    assert (
        torch.equal(said["pred"]["pred"], mine)
        if exact
        else torch.allclose(said["pred"]["pred"], mine, atol=1e-5)
    )
    (painted,) = one.sample(1)
    assert np.abs(picture(tmp_path / "stock" / "stock.png") - np.asarray(painted, int)).max() <= 1


def test_a_lora_changes_what_is_painted(tiny_base, photos):
    sample = {"every": 0, "prompts": ["zorb"], "steps": 2}
    recipe = wish(tiny_base, photos, sample=sample)
    (base,), (other,) = (
        trainable_model(recipe, moved=False).sample(1),
        trainable_model(recipe, moved=True).sample(1),
    )
    assert np.abs(np.asarray(base, int) - np.asarray(other, int)).max() > 3
