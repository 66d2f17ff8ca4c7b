"""Starts musubi-tuner's own trainers on a base and a cache that were never encoded.

``python -m gpu.musubi JSON ARGUMENTS``. Its program, quantiser, block swap, networks and loop are its own:
its training reads a denoiser in the stock layout and a cache of latents and captions, so random numbers of
the true shapes stand in for the cache. Replaced is the package ``av``, which only its video samples need,
where it is missing. For tiny bases the denoiser's sizes, constants of the program, are changed.
"""

import importlib
import importlib.machinery
import importlib.util
import json
import runpy
import sys
import types
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import torchvision_standin
from gpu.clock import from_environment
from gpu.fake import TINY, described

KINDS = {
    "qwen-image": ("qi", "qwen_image", "varlen_vl_embed", "QwenImageTransformer2DModel"),
    "z-image": ("zi", "z_image", "varlen_llm_embed", "ZImageTransformer2DModel"),
}
"""Base -> its mark in names of files, its name in their metadata, the caption's key, the denoiser's class."""
MODELS = {"qwen-image": "qwen_image.qwen_image_model", "z-image": "zimage.zimage_model"}
WIDTHS = {"qwen-image": "joint_attention_dim", "z-image": "cap_feat_dim"}


def cache(folder: Path, base: str, *, size: tuple[int, int], count: int, tokens: int, tiny: bool) -> Path:
    """So many images and captions as musubi-tuner keeps them, of random numbers."""
    folder.mkdir(parents=True)
    family, source = described(base, tiny=tiny)
    mark, name, key, _ = KINDS[base]
    width, height = size
    shape = (16, 1, height // 8, width // 8) if base == "qwen-image" else (16, height // 8, width // 8)
    wide = source.config(family.denoiser)[WIDTHS[base]]
    for number in range(count):
        draw = torch.Generator().manual_seed(number)
        latent = {
            f"latents_1x{height // 8}x{width // 8}_float32": torch.randn(shape, generator=draw),
        }
        facts = {"architecture": name, "width": str(width), "height": str(height), "format_version": "1.0.1"}
        item = f"{number:02d}"
        save_file(latent, folder / f"{item}_{width:04d}x{height:04d}_{mark}.safetensors", metadata=facts)
        text = {f"{key}_bf16": torch.randn(tokens, wide, generator=draw).bfloat16()}
        facts = {"architecture": name, "caption1": "", "format_version": "1.0.1"}
        save_file(text, folder / f"{item}_{mark}_te.safetensors", metadata=facts)
    return folder


def dataset(path: Path, photos: Path, cache_folder: Path, size: tuple[int, int], batch: int) -> Path:
    """The file that tells the trainer where its data is."""
    path.write_text(
        f"[general]\nresolution = [{size[0]}, {size[1]}]\nbatch_size = {batch}\nenable_bucket = false\n"
        f'caption_extension = ".txt"\n[[datasets]]\nimage_directory = {json.dumps(str(photos))}\n'
        f"cache_directory = {json.dumps(str(cache_folder))}\nnum_repeats = 10\n"
    )
    return path


def shrunk(base: str) -> None:
    """Let the trainer's denoiser be a tiny one."""
    module: Any = importlib.import_module(f"musubi_tuner.{MODELS[base]}")
    kind = KINDS[base][3]
    whole = getattr(module, kind)
    changes = TINY[base]["transformer"]

    def small(**sizes: Any) -> Any:
        return whole(**(sizes | changes))

    setattr(module, kind, small)


def main() -> None:
    """Lay the cache, run the trainer."""
    settings = json.loads(sys.argv[1])
    torchvision_standin.install()
    if importlib.util.find_spec("av") is None:
        for name in ("transformers", "diffusers"):  # they look for it as they load, and must not find this
            importlib.import_module(f"{name}.utils.import_utils")
        sys.modules["av"] = types.ModuleType("av")
        sys.modules["av"].__spec__ = importlib.machinery.ModuleSpec("av", loader=None)
    sys.path[:0] = [
        str(Path(settings["source"]) / "src"),
        str(Path(settings["source"]) / "src" / "musubi_tuner"),
    ]
    work, size = Path(settings["work"]), tuple(settings["size"])
    tokens = 64 if settings["tiny"] else 512
    cache_folder = cache(
        work / "cache", settings["base"], size=size, count=10, tokens=tokens, tiny=settings["tiny"]
    )
    config = dataset(work / "data.toml", Path(settings["photos"]), cache_folder, size, settings["batch"])
    clock = from_environment()
    if settings["tiny"]:
        shrunk(settings["base"])
    program = Path(settings["source"]) / "src" / "musubi_tuner" / settings["program"]
    sys.argv = [str(program), f"--dataset_config={config}", *sys.argv[2:]]
    runpy.run_path(str(program), run_name="__main__")
    clock.write()


if __name__ == "__main__":
    main()
