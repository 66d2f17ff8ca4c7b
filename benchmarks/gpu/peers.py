"""How other programs are started on the same cell. Their sources are not part of this repository.

``script``: the project's own training program, unchanged. ``module level``: the project's own model,
quantiser, adapter and memory devices in a loop of ours, where its program needs the network or knows no
such setting.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from gpu.cells import CAPTION, RANK, TARGETS, WARM_UP, Cell

FOLDER = Path(__file__).resolve().parent
SCRIPTS = {
    "flux-dev": "train_dreambooth_lora_flux.py",
    "sdxl": "train_dreambooth_lora_sdxl.py",
    "qwen-image": "train_dreambooth_lora_qwen_image.py",
    "z-image": "train_dreambooth_lora_z_image.py",
}
"""Base -> file in ``examples/dreambooth`` of the diffusers repository."""
NF4 = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_use_double_quant": True,
}
TEXT_LENGTHS = {"flux-dev": 512, "qwen-image": 512, "z-image": 512}


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a side is started with."""

    cell: Cell
    tiny: bool
    base: Path
    """A folder in diffusers layout, with random weights."""
    photos: Path
    out: Path
    """A folder of this turn alone."""
    sources: Mapping[str, Path]
    """Project -> where its files are."""

    @property
    def steps(self) -> int:
        """All steps, and one more for programs that save after the last."""
        return WARM_UP + self.cell.steps + 1


@dataclass(frozen=True)
class Peer:
    """Another way to train a LoRA."""

    source: str
    """What has to be given on the command line."""
    level: Literal["script", "module level"]
    command: Callable[[Turn], list[str]]
    """Arguments after the interpreter."""
    checkpointed: bool
    """Whether the whole forward pass is computed twice."""
    proved: bool = True
    """Whether its steps were seen on a processor, tiny. If not, it runs only where ``--sides`` says so."""


def options(**values: Any) -> list[str]:
    """``--name=value`` for each; True is a bare flag, None is left out."""
    arguments = []
    for name, value in values.items():
        if value is True:
            arguments.append(f"--{name}")
        elif value is not None:
            arguments.append(f"--{name}={value}")
    return arguments


def diffusers(turn: Turn, *, keep: bool = False, nf4: bool = False) -> list[str]:
    """The example script of the base.

    Args:
        turn: Of what.
        keep: No block is checkpointed.
        nf4: The denoiser in 4 bits; Qwen-Image and Z-Image alone know it.
    """
    cell, base = turn.cell, turn.cell.base
    rectified_flow = base != "sdxl"
    later = base in ("qwen-image", "z-image")
    arguments = options(
        pretrained_model_name_or_path=turn.base,
        instance_data_dir=turn.photos,
        instance_prompt=CAPTION,
        output_dir=turn.out / "out",
        cache_dir=turn.out / "downloads",
        resolution=cell.largest[0] if len(cell.sizes) == 1 else 1024,
        train_batch_size=cell.batch,
        max_train_steps=turn.steps,
        rank=RANK,
        lora_alpha=RANK if rectified_flow else None,
        learning_rate=1e-4,
        lr_scheduler="constant",
        lr_warmup_steps=0,
        checkpointing_steps=10**6,
        seed=0,
        mixed_precision="no" if turn.tiny else "bf16",
        center_crop=True,
        gradient_checkpointing=not keep or None,
        cache_latents=rectified_flow or None,
        guidance_scale=1 if base in ("flux-dev", "z-image") else None,
        max_sequence_length=(64 if turn.tiny else TEXT_LENGTHS.get(base)) if rectified_flow else None,
        lora_layers=",".join(TARGETS[base]) if rectified_flow else None,
        offload=later or None,
        bnb_quantization_config_path=_nf4(turn.out) if nf4 else None,
    )
    if len(cell.sizes) > 1:
        buckets = ";".join(f"{height},{width}" for width, height in cell.sizes)
        arguments += ["--use_aspect_ratio_buckets", f"--aspect_ratio_buckets={buckets}"]
    return ["-m", "gpu.standin", str(turn.sources["diffusers"] / SCRIPTS[base]), *arguments]


def _nf4(folder: Path) -> Path:
    path = folder / "nf4.json"
    path.write_text(json.dumps(NF4))
    return path


def diffusers_nf4(turn: Turn) -> list[str]:
    """4-bit weights: the script where it knows them, else the same parts in a loop of ours."""
    if turn.cell.base in ("qwen-image", "z-image"):
        return diffusers(turn, nf4=True)
    settings = {
        "base": turn.cell.base,
        "folder": str(turn.base),
        "size": turn.cell.largest,
        "tiny": turn.tiny,
    }
    settings |= {"batch": turn.cell.batch, "steps": turn.steps, "text_length": 64 if turn.tiny else 512}
    return ["-m", "gpu.modules", json.dumps(settings)]


SWAPS = {80: 0, 24: 0, 16: 8, 12: 16, 8: 28}
"""Card in GiB -> blocks that sd-scripts exchanges with the host, by its documentation of FLUX.1."""


def sd_scripts(turn: Turn) -> list[str]:
    """The FLUX.1 trainer: bf16 where that is asked for, else its 8-bit base; blocks swapped by its advice."""
    cell = turn.cell
    first = sorted((turn.base / "transformer").glob("*.safetensors"))[0]
    folder = turn.out / "train" / "10_photo"
    folder.parent.mkdir()
    folder.symlink_to(turn.photos)
    settings = {"source": str(turn.sources["sd-scripts"]), "base": str(turn.base), "tiny": turn.tiny}
    arguments = options(
        pretrained_model_name_or_path=first,
        clip_l="none",
        t5xxl="none",
        ae="none",
        train_data_dir=folder.parent,
        output_dir=turn.out / "out",
        output_name="lora",
        save_model_as="safetensors",
        resolution=f"{cell.largest[0]},{cell.largest[1]}",
        train_batch_size=cell.batch,
        max_train_steps=turn.steps,
        network_module="networks.lora_flux",
        network_dim=RANK,
        network_alpha=RANK,
        network_train_unet_only=True,
        learning_rate=1e-4,
        optimizer_type="AdamW",
        lr_scheduler="constant",
        mixed_precision="no" if turn.tiny else "bf16",
        sdpa=True,
        gradient_checkpointing=True,
        fp8_base=cell.quality != "16bit" and not turn.tiny or None,
        blocks_to_swap=(1 if turn.tiny else SWAPS[cell.card]) if SWAPS[cell.card] else None,
        cache_latents=True,
        cache_text_encoder_outputs=True,
        timestep_sampling="shift",
        discrete_flow_shift=3.1582,
        model_prediction_type="raw",
        guidance_scale=1.0,
        max_data_loader_n_workers=0 if turn.tiny else 2,
        seed=0,
    )
    return ["-m", "gpu.kohya", json.dumps(settings), *arguments]


PROGRAMS = {"qwen-image": "qwen_image_train_network.py", "z-image": "zimage_train_network.py"}
NETWORKS = {"qwen-image": "networks.lora_qwen_image", "z-image": "networks.lora_zimage"}
STREAM_COUNTS = {("qwen-image", 24): 16}
"""Base and card in GiB -> blocks that musubi-tuner streams; its documentation says 16 for 24 GB."""


def musubi(turn: Turn) -> list[str]:
    """The trainer of the base, its scaled 8-bit weights and its one-way block swap."""
    cell, base = turn.cell, turn.cell.base
    first = sorted((turn.base / "transformer").glob("*.safetensors"))[0]
    swap = 0 if turn.tiny else STREAM_COUNTS.get((base, cell.card), 0)
    codes = (cell.quality != "16bit" and not turn.tiny) or None
    settings = {"source": str(turn.sources["musubi"]), "work": str(turn.out), "photos": str(turn.photos)}
    settings |= {"base": base, "size": cell.largest, "batch": cell.batch, "tiny": turn.tiny}
    settings |= {"program": PROGRAMS[base]}
    arguments = options(
        dit=first,
        vae="none",
        text_encoder="none",
        sdpa=True,
        mixed_precision="no" if turn.tiny else "bf16",
        timestep_sampling="shift",
        weighting_scheme="none",
        discrete_flow_shift=2.2,
        optimizer_type="adamw",
        learning_rate=1e-4,
        gradient_checkpointing=True,
        max_data_loader_n_workers=0 if turn.tiny else 2,
        persistent_data_loader_workers=not turn.tiny or None,
        network_module=NETWORKS[base],
        network_dim=RANK,
        network_alpha=RANK,
        max_train_steps=turn.steps,
        seed=0,
        output_dir=turn.out / "out",
        output_name="lora",
        fp8_base=codes,
        fp8_scaled=codes,
        blocks_to_swap=swap or None,
        block_swap_h2d_only=bool(swap) or None,
        use_pinned_memory_for_block_swap=bool(swap) or None,
        num_layers=2 if turn.tiny and base == "qwen-image" else None,
    )
    return ["-m", "gpu.musubi", json.dumps(settings), *arguments]


def level(name: str, base: str) -> str:
    """How a peer runs on a base."""
    if name == "diffusers-nf4" and base == "flux-dev":
        return "module level"
    return PEERS[name].level


PEERS = {
    "diffusers": Peer("diffusers", "script", diffusers, checkpointed=True),
    "diffusers-kept": Peer("diffusers", "script", partial(diffusers, keep=True), checkpointed=False),
    "diffusers-nf4": Peer("diffusers", "script", diffusers_nf4, checkpointed=True, proved=False),
    "sd-scripts": Peer("sd-scripts", "script", sd_scripts, checkpointed=True, proved=False),
    "musubi": Peer("musubi", "script", musubi, checkpointed=True, proved=False),
}


def command(name: str, turn: Turn) -> list[str]:
    """The whole command line of a peer's turn."""
    return [sys.executable, *PEERS[name].command(turn)]
