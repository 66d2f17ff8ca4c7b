"""The flow-matching loss of LoRA files on pictures they have not seen, measured by stock diffusers alone.

``python benchmarks/quality/held_out.py --base FOLDER --images FOLDER --out loss.json [LORA ...]``. The folder
holds images and a ``metadata.jsonl`` (``file_name``, ``text``). Times and noise are fixed, so two files are
compared on equal draws; the base without any LoRA comes first. Imports no Limner: both sides of a
comparison pass through the same code.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FluxPipeline
from PIL import Image, ImageOps
from torch import Tensor

TIMES = 9
"""Noise levels per picture: the midpoints of equal parts of [0, 1]."""


def pixels(path: Path, side: int) -> Tensor:
    """The centre square of a picture, (1, 3, side, side), in [-1, 1]."""
    with Image.open(path) as image:
        square = ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (side, side))
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)[None].float() / 127.5 - 1


@torch.no_grad()
def prepare(pipe: Any, folder: Path, side: int, length: int) -> list[dict[str, Tensor]]:
    """For each picture: its packed clean latent (1, L, D), positions, and its caption's encodings."""
    examples = []
    for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        latent = pipe.vae.encode(pixels(folder / row["file_name"], side).to(pipe.device, pipe.vae.dtype))
        clean = (latent.latent_dist.mode() - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor
        _, channels, height, width = clean.shape
        text, pooled, text_ids = pipe.encode_prompt(row["text"], None, max_sequence_length=length)
        examples.append(
            {
                "clean": pipe._pack_latents(clean, 1, channels, height, width),
                "img_ids": pipe._prepare_latent_image_ids(
                    1, height // 2, width // 2, pipe.device, clean.dtype
                ),
                "encoder_hidden_states": text,
                "pooled_projections": pooled,
                "txt_ids": text_ids,
            }
        )
    return examples


@torch.no_grad()
def loss(pipe: Any, examples: list[dict[str, Tensor]]) -> float:
    """Mean squared error of the velocity over all pictures and times (Lipman 2022, arXiv 2210.02747)."""
    generator = torch.Generator().manual_seed(0)
    takes_guidance = pipe.transformer.config.guidance_embeds
    total = 0.0
    for example in examples:
        inputs = {key: value for key, value in example.items() if key != "clean"}
        for part in range(TIMES):
            time = (part + 0.5) / TIMES
            clean = example["clean"]
            noise = torch.randn(clean.shape, generator=generator).to(clean)
            pred = pipe.transformer(
                hidden_states=(1 - time) * clean + time * noise,
                timestep=torch.full((1,), time).to(clean),
                guidance=torch.ones(1).to(clean) if takes_guidance else None,
                **inputs,
            ).sample
            total += (pred.float() - (noise - clean).float()).square().mean().item()
    return total / (len(examples) * TIMES)


def main() -> None:
    """Measure the base and each file, and write ``[{"lora", "loss", "parameters"}]``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loras", nargs="*", type=Path)
    parser.add_argument("--base", required=True)
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--resolution", required=True, type=int)
    parser.add_argument("--text-length", type=int, default=512)
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args()
    pipe: Any = FluxPipeline.from_pretrained(options.base, dtype=torch.float32)
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    pipe.set_progress_bar_config(disable=True)
    examples = prepare(pipe, options.images, options.resolution, options.text_length)
    rows: list[dict[str, Any]] = [{"lora": None, "loss": loss(pipe, examples), "parameters": 0}]
    for path in options.loras:
        pipe.load_lora_weights(path)
        count = sum(p.numel() for n, p in pipe.transformer.named_parameters() if "lora_" in n)
        rows.append({"lora": str(path), "loss": loss(pipe, examples), "parameters": count})
        pipe.unload_lora_weights()
    options.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
