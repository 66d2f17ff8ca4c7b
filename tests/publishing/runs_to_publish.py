"""A finished run of a tiny LoRA, in a folder with secrets."""

import json
from dataclasses import replace
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

import loras
from limner.lora import file
from limner.lora.metadata import LoraMetadata, header_entries
from limner.lora.tools import tool_named
from limner.recipe import Data, Recipe, Sample
from limner.recipe.schema import Export
from limner.recipe.toml import dump
from limner.run_folder import RunDir

SECRET = "a secret caption of mine"
INFO = LoraMetadata(
    title="My Cat",
    architecture="flux-1-dev/lora",
    base="flux-dev",
    base_version="flux1",
    trigger="sks cat",
    resolution=(1024, 1024),
    steps=300,
)


def lora_file(path: Path, info: LoraMetadata = INFO, tool: str = "diffusers", **entries: str) -> Path:
    components = {"transformer": loras.denoiser("flux", blocks=1)}
    metadata = header_entries(info, components) | entries
    path.parent.mkdir(parents=True, exist_ok=True)
    file.write(path, components, metadata, tool=tool_named(tool), family="flux")
    return path


def finished_run(
    folder: Path,
    *,
    base: str = "flux-dev",
    prompts: tuple[str, ...] = ("[trigger] on a hill",),
    tools: tuple[str, ...] = ("diffusers", "comfyui"),
) -> RunDir:
    """A run with the files of its tools, samples of steps 0, 300 and 400, and a data sheet."""
    run = RunDir(folder)
    images = folder.parent / "images-of-ada"
    images.mkdir(exist_ok=True)
    info = replace(INFO, base=base)
    lora_file(run.lora_path, info)
    for tool in tools[1:]:
        lora_file(run.lora_path_for(tool), info, tool)
    recipe = Recipe(
        name="My Cat",
        base=base,
        data=Data(images=images, trigger="sks cat"),
        sample=Sample(prompts=prompts),
        export=Export.model_validate({"for": tools}),
    )
    run.recipe_path.write_text(dump(recipe))
    data = {
        "images": [{"name": "0.png", "captions": [f"sks cat, {SECRET}"]}, {"name": "1.png", "captions": []}]
    }
    run.data_path.write_text(json.dumps(data))
    run.write_prompts(["sks cat on a hill", SECRET])
    for step in (0, 300, 400):
        for number in range(2):
            path = run.sample_path(step, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            info_chunk = PngInfo()
            info_chunk.add_text("Comment", f"made in {folder}")
            Image.new("RGB", (8, 8), (step % 251, number, 0)).save(path, pnginfo=info_chunk)
    for step in (1, 2):
        run.log({"step": step, "loss": 0.5, "seconds": 45.0})
    return run
