"""Our files put into other programs' own models, by their own loaders.

    cd benchmarks/programs      # which git ignores; any other folder can be named
    git clone https://github.com/Comfy-Org/ComfyUI && git -C ComfyUI checkout 783545f6
    git clone https://github.com/kohya-ss/sd-scripts && git -C sd-scripts checkout 48d368fa
    git clone https://github.com/kohya-ss/musubi-tuner && git -C musubi-tuner checkout 30c658c4
    git clone https://github.com/lllyasviel/stable-diffusion-webui-forge
    git -C stable-diffusion-webui-forge checkout dfdcbab6
    git clone https://github.com/invoke-ai/InvokeAI && git -C InvokeAI checkout 8e71a8a5
    pip install einops psutil toml opencv-python-headless
    pip install --no-deps comfy-kitchen comfy-aimdo==0.4.13
    python -m benchmarks.robustness.loaders [FOLDER]

In each program its own model of a family, at a small size, gets random weights. A change of every layer that
has a name in the family, of each kind that the program reads, is written for the program; its loader puts the
file into the model. Diffusers' own converter of single files, which knows nothing of ours, then says which of
diffusers' weights have become what: each must be the weight before and its change. (It has none for
Ideogram 4, whose names follow those of its converter of LoRAs.) ComfyUI's own CLIP and T5 get a file as well.
What the program cannot read must be what the tables say it cannot. Forge gets kohya's form, and so
does InvokeAI, which has none of its own, of UNets and FLUX.1, and diffusers' of FLUX.1 and others: what it
cannot read of them is in its cases. A program that is not in the folder is skipped, and that is said.
"""

import argparse
import logging
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from benchmarks.robustness import programs, programs_recent, programs_webui
from benchmarks.robustness.programs import TEXT_CASES, Case, Weights, importable
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks import outcome
from limner.lora import adapters, file
from limner.lora.adapters import Dora, Loha, Lokr, WeightDelta
from limner.lora.factors import Factors
from limner.lora.tools import tool_named, unsupported
from limner.models.key_map import KeyStyle
from limner.models.registry import family_keys

PLACE = Path(__file__).resolve().parents[1] / "programs"
"""Where the checkouts lie unless another folder is named; git ignores it."""
CASES = {
    program: {**cases, **programs_recent.CASES.get(program, {})}
    for program, cases in (programs.CASES | programs_webui.CASES).items()
}
COMMITS = programs.COMMITS | programs_webui.COMMITS
FOLDERS = programs.FOLDERS | programs_webui.FOLDERS
FIRST = programs.FIRST | programs_webui.FIRST
KINDS = ("LoRA", "LoHa", "LoKr", "DoRA", "DoRA of LoHa", "DoRA of LoKr")
RANK = 2
TEXT_LAYER = re.compile(r"(_proj|\.fc[12]|\.SelfAttention\.[qkvo]|\.wi_[01]|\.wo)$")
"""Layers of CLIP and T5 that trainers change."""
TEXT_PARTS = {
    "sdxl": ("clip_l", "clip_g"),
    "sd15": ("clip_l",),
    "flux": ("clip_l", "t5xxl"),
    "sd3": ("clip_l", "clip_g", "t5xxl"),
}
"""Family -> ComfyUI's names of its text encoders, in diffusers' order."""
NORM = re.compile(r"(\.(?:query|key)_norm|\.norms\.\d+)\.weight$")
"""A weight of the norms of FLUX and its kin as ComfyUI names it since 2026; the authors call it a scale."""
TOLERANCE = 1e-4
"""Relative error of a change; programs add it to weights of float32, some as products in another order."""


def _unet(weights: Weights) -> Weights:
    long = {f"model.diffusion_model.{name}": value for name, value in weights.items()}
    sizes = {"addition_embed_type": "text_time"} if "label_emb.0.0.weight" in weights else {}
    return single_file_utils.convert_ldm_unet_checkpoint(long, {"layers_per_block": 2, **sizes})


class _AnyWidth:
    """torch for a converter that has FLUX.1's width written in: parts keep their proportions."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def split(self, whole: Tensor, sizes: Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
        unit = whole.shape[dim] / sum(sizes)
        return torch.split(whole, [round(size * unit) for size in sizes], dim=dim)


def _of_any_width(convert: Callable[[Weights], Weights]) -> Callable[[Weights], Weights]:
    def converted(weights: Weights) -> Weights:
        vars(single_file_utils)["torch"] = _AnyWidth()
        try:
            return convert(weights)
        finally:
            vars(single_file_utils)["torch"] = torch

    return converted


def _ideogram4(weights: Weights) -> Weights:
    """As diffusers names the LoRA of such a weight; it reads whole models in its own names alone."""
    result: Weights = {}
    for name, value in weights.items():
        head, key, _ = name.partition(".attention.qkv.")
        if key:
            parts = zip("qkv", value.chunk(3), strict=True)
            result |= {f"{head}.attention.to_{part}.weight": rows.clone() for part, rows in parts}
        else:
            result[name.replace(".attention.o.", ".attention.to_out.0.")] = value
    return result


def _anima(weights: Weights) -> Weights:
    """Without the conditioner of the text, which has layers of the same names."""
    bare = {name: value for name, value in weights.items() if not name.startswith("llm_adapter.")}
    return single_file_utils.convert_cosmos_transformer_checkpoint_to_diffusers(bare)


CONVERTERS: dict[str, Callable[[Weights], Weights]] = {
    "flux": _of_any_width(single_file_utils.convert_flux_transformer_checkpoint_to_diffusers),
    "chroma": _of_any_width(single_file_utils.convert_chroma_transformer_checkpoint_to_diffusers),
    "flux2": single_file_utils.convert_flux2_transformer_checkpoint_to_diffusers,
    "krea2": single_file_utils.convert_krea2_transformer_checkpoint_to_diffusers,
    "sd3": single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers,
    "z-image": single_file_utils.convert_z_image_transformer_checkpoint_to_diffusers,
    "sdxl": _unet,
    "sd15": _unet,
    "qwen-image": dict,
    "ideogram4": _ideogram4,
    "anima": _anima,
    "hidream": dict,
}
"""Family -> from the authors' names of weights to diffusers'."""


def randomised(model: nn.Module) -> None:
    """Give a model weights by a seed."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=draw) * 0.1)


def in_diffusers(family: str, weights: Mapping[str, Tensor]) -> Weights:
    """Weights by diffusers' names; what has them already stays."""
    bare = {
        NORM.sub(r"\1.scale", name.removeprefix("diffusion_model.")): value.clone()
        for name, value in weights.items()
    }
    if any(name.startswith(("down_blocks.", "all_x_embedder.", "transformer_blocks.")) for name in bare):
        return bare
    return CONVERTERS[family](bare)


def change_of(kind: str, weight: Tensor, draw: torch.Generator) -> WeightDelta:
    """A random change of a weight, of one kind."""
    rows, columns, kernel = weight.shape[0], weight.shape[1], tuple(weight.shape[2:])

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw) * 0.3

    factors = Factors(noise(RANK, columns, *kernel), noise(rows, RANK, *(1 for _ in kernel)))
    wide = columns * kernel[0] * kernel[1] if kernel else columns
    change: Factors | Loha | Lokr = factors
    if kind.endswith("LoHa"):
        change = Loha(
            noise(rows, RANK), noise(RANK, wide), noise(rows, RANK), noise(RANK, wide), kernel=kernel
        )
    elif kind.endswith("LoKr"):
        change = Lokr((noise(2, 2),), (noise(rows // 2, RANK), noise(RANK, wide // 2)), kernel=kernel)
    if kind.startswith("DoRA"):
        return Dora(change, 0.5 + torch.rand(columns, generator=draw), "in")
    return change


def dense(change: WeightDelta, weight: Tensor) -> Tensor:
    """The weight with its change."""
    if isinstance(change, Dora):
        return change.over(weight).view_as(weight)
    unit = torch.eye(weight.flatten(1).shape[1], dtype=torch.float64)
    return (weight.double().flatten(1) + change.times(unit)).view_as(weight)


def changes_of(kind: str, family: str, layers: Mapping[str, Tensor]) -> dict[str, WeightDelta]:
    """A change of every layer that has a name in the family; of even sides, that a LoKr has a factor of 2."""
    table, draw = family_keys(family).table, torch.Generator().manual_seed(1)
    return {
        name: change_of(kind, weight, draw)
        for name, weight in layers.items()
        if (TEXT_LAYER.search(name) or table.find(name, KeyStyle("", "diffusers")))
        and weight.shape[0] % 2 == weight.shape[1] % 2 == 0
    }


def in_components(family: str, weights: Mapping[str, Tensor], *, text: bool) -> dict[str, Weights]:
    """Weights of a model, or of ComfyUI's text encoders, by component and diffusers' name."""
    if not text:
        return {family_keys(family).component: in_diffusers(family, weights)}
    parts = dict(zip(TEXT_PARTS[family], family_keys(family).text, strict=True))
    result: dict[str, Weights] = {component: {} for component in parts.values()}
    for name, value in weights.items():
        part, _, inner = name.partition(".transformer.")
        if part in parts:
            result[parts[part]][inner.removeprefix("text_model.")] = value.clone()
    return result


def nameless(
    changes: Mapping[str, Mapping[str, WeightDelta]], case: Case, program: str
) -> dict[tuple[str, str], str]:
    """What a program does not read of another tool's files: (component, module) -> reason."""
    reasons = {}
    for component, adapter in changes.items():
        for module, change in adapter.items():
            if case.kinds and adapters.kind(change) not in case.kinds:
                reasons[component, module] = f"{program} reads no {adapters.kind(change)}"
            elif case.lacks and re.match(case.lacks, module):
                reasons[component, module] = f"{program} has no name for it"
    return reasons


def compared(
    case: Case, program: str, family: str, kind: str, folder: Path, *, text: bool = False
) -> dict[str, Any]:
    """How many weights became what they should."""
    model, tool = case.build(), tool_named(case.tool or program)
    randomised(model)
    before = in_components(family, model.state_dict(), text=text)
    changes = {}
    for component, weights in before.items():
        layers = {
            name.removesuffix(".weight"): value
            for name, value in weights.items()
            if name.endswith(".weight") and value.dim() in (2, 4)
        }
        changes[component] = changes_of(kind, family, layers)
    reasons = unsupported(changes, family, tool) | nameless(changes, case, program)
    written_layers = {
        component: {name: change for name, change in adapter.items() if (component, name) not in reasons}
        for component, adapter in changes.items()
    }
    counts = {"layers": sum(map(len, changes.values())), "written": sum(map(len, written_layers.values()))}
    facts = {**counts, "refused": dict(Counter(reasons.values()))}
    if not counts["written"]:
        return {**facts, "right": 0, "wrong": [], "error": 0.0}
    path = folder / "lora.safetensors"
    file.write(path, written_layers, {}, tool=tool, family=family)
    after = in_components(family, case.load(model, load_file(path)), text=text)
    return {**facts, **_errors(before, after, written_layers)}


def _errors(
    before: Mapping[str, Weights],
    after: Mapping[str, Weights],
    written_layers: Mapping[str, Mapping[str, WeightDelta]],
) -> dict[str, Any]:
    errors, edits = {}, set()
    for component, weights in before.items():
        for name, value in weights.items():
            layer = name.removesuffix(".weight") if name.endswith(".weight") else ""
            change = written_layers[component].get(layer)
            expected = value.double() if change is None else dense(change, value)
            size = value.double().norm() if change is None else (expected - value).norm()
            error = (after[component][name].double() - expected).norm() / size.clamp(min=1e-12)
            errors[component, name] = float(error)
            if change is not None:
                edits.add((component, name))
    wrong = [key for key, error in errors.items() if not error < TOLERANCE]
    return {
        "right": len(edits.difference(wrong)),
        "wrong": [".".join(key) for key in wrong[:5]],
        "error": max(errors[key] for key in edits),
    }


def commit(program: str, folder: Path) -> str:
    """The commit of a checkout, or what its file COMMIT says; and whether it is the pinned one."""
    place = folder / FOLDERS[program].split("/")[0]
    command = ["git", "-C", str(place), "rev-parse", "HEAD"]
    if (place / ".git").exists():
        text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    else:
        text = (place / "COMMIT").read_text(encoding="utf-8") if (place / "COMMIT").is_file() else "unknown"
    name = text.strip()
    return name if name == COMMITS[program] else f"{name}, and not {COMMITS[program]}"


def rows_of(program: str) -> list[dict[str, Any]]:
    """Every family and kind in a program."""
    rows: list[dict[str, Any]] = []
    for family, case in CASES[program].items():
        for kind in KINDS:
            with TemporaryDirectory() as folder:
                facts = compared(case, program, family.partition(",")[0], kind, Path(folder))
            rows.append({"program": program, "family": family, "kind": kind, **facts})
    if program == "comfyui":
        for family, case in TEXT_CASES.items():
            for kind in KINDS:
                with TemporaryDirectory() as folder:
                    facts = compared(case, program, family, kind, Path(folder), text=True)
                rows.append({"program": program, "family": f"{family}, text", "kind": kind, **facts})
    return rows


def main() -> None:
    """Compare every program that is there, and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "folder", type=Path, nargs="?", default=PLACE, help="folder of the programs' checkouts"
    )
    parser.add_argument("--programs", nargs="*", default=list(CASES), choices=list(CASES))
    options = parser.parse_args()
    logging.disable(logging.INFO)
    reasons = {
        program: importable(options.folder / FOLDERS[program], FIRST[program]) for program in options.programs
    }
    rows = [row for program, reason in reasons.items() if not reason for row in rows_of(program)]
    reasons_skipped = {program: reason for program, reason in reasons.items() if reason}
    if rows:
        commits = {name: commit(name, options.folder) for name in reasons.keys() - reasons_skipped.keys()}
        print(outcome.save("loaders", {"commits": commits, "skipped": reasons_skipped, "rows": rows}))
    header = ("program", "family", "kind", "layers", "written", "right", "error")
    cells = [tuple(str(row.get(name, "")) for name in header[:-1]) + (f"{row['error']:.0e}",) for row in rows]
    print(outcome.table(header, cells))
    for program, reason in reasons_skipped.items():
        print(f"{program} is skipped: {reason}")
    if any(row["wrong"] for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
