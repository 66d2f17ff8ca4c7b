"""Files written for DiffSynth, read by DiffSynth's own loaders into DiffSynth's own models at true size.

    pip install --target DIR --no-deps diffsynth==2.1.12 einops
    python -m benchmarks.robustness.diffsynth_files DIR

A LoRA of rank 1 on every layer that each family trains, in the true shapes, is written for DiffSynth. Its
loader turns it into its own names; each must be a layer of its own model (built without weights), of the
right shape. The numbers are compared with what was written; those of FLUX.1, whose q, k and v it keeps as
one, with what the same loader makes of the file for diffusers. Its ``__init__``, which wants torchvision, is
passed by.
"""

import argparse
import importlib
import sys
import types
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks import outcome
from limner.lora import file
from limner.lora.factors import Factors
from limner.lora.tools import DIFFUSERS, tool_named
from limner.models.bundled import known
from limner.models.loading import skeleton
from limner.models.registry import family_of
from limner.nn.layers import lora

CASES = {
    "flux-dev": ("flux_dit:FluxDiT", "flux:FluxLoRALoader", {}),
    "flux2-klein-4b": (
        "flux2_dit:Flux2DiT",
        "general:GeneralLoRALoader",
        {
            "num_layers": 5,
            "num_single_layers": 20,
            "num_attention_heads": 24,
            "joint_attention_dim": 7680,
            "guidance_embeds": False,
        },
    ),
    "qwen-image": ("qwen_image_dit:QwenImageDiT", "general:GeneralLoRALoader", {}),
    "z-image": ("z_image_dit:ZImageDiT", "general:GeneralLoRALoader", {}),
    "sdxl": (
        "stable_diffusion_xl_unet:SDXLUNet2DConditionModel",
        "sdxl:SdxlLoRALoader",
        {
            "attention_head_dim": [5, 10, 20],
            "transformer_layers_per_block": [1, 2, 10],
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
    ),
    "sd15": ("stable_diffusion_unet:UNet2DConditionModel", "general:GeneralLoRALoader", {}),
}
"""Base -> DiffSynth's class of the model, its loader, arguments of that class from its configs."""


def bare_package(folder: Path) -> None:
    """Make DiffSynth's modules importable one by one."""
    sys.path.insert(0, str(folder))
    for name in (
        "diffsynth",
        "diffsynth.models",
        "diffsynth.utils",
        "diffsynth.utils.lora",
        "diffsynth.core",
    ):
        stub = types.ModuleType(name)
        stub.__path__ = [str(folder / name.replace(".", "/"))]
        sys.modules[name] = stub


def named(room: str, spelling: str) -> Any:
    """A class of DiffSynth by "module:Class"."""
    module, _, kind = spelling.partition(":")
    return getattr(importlib.import_module(f"diffsynth.{room}.{module}"), kind)


def written(base: str) -> tuple[dict[str, Factors], str, str]:
    """A change of rank 1 of every layer that is trained, the component and the pipeline."""
    source = known(base)
    family = family_of(source.index["_class_name"])
    model = skeleton(family, source, family.denoiser, dtype=torch.bfloat16)
    draw = torch.Generator().manual_seed(0)
    stub = {}
    for name in lora.matching(model, family.endings(family.denoiser, "auto")):
        out, width = model.get_submodule(name).get_parameter("weight").shape
        stub[name] = Factors(torch.randn(1, width, generator=draw), torch.randn(out, 1, generator=draw))
    return stub, family.denoiser, family.pipeline


def compared(base: str, folder: Path) -> dict[str, Any]:
    """How many layers DiffSynth finds, and how far its numbers are from those written."""
    adapter, component, pipeline = written(base)
    model_name, loader_name, arguments = CASES[base]
    with torch.device("meta"):
        model = named("models", model_name)(**arguments)
    layers = {
        name.removesuffix(".weight"): weight.shape
        for name, weight in model.named_parameters()
        if name.endswith(".weight")
    }
    loader = named("utils.lora", loader_name)()
    pairs_by_tool = {}
    for tool in (tool_named("diffsynth"), DIFFUSERS):
        path = folder / f"{base}-{tool.name}.safetensors"
        file.write(path, {component: adapter}, {}, tool=tool, family=pipeline)
        if tool is DIFFUSERS and base != "flux-dev":
            break
        state = loader.convert_state_dict(load_file(path))
        stems = {name.removesuffix(".lora_B.weight") for name in state if name.endswith(".lora_B.weight")}
        pairs_by_tool[tool.name] = {
            s: (state[f"{s}.lora_A.weight"], state[f"{s}.lora_B.weight"]) for s in stems
        }
    diffsynth_pairs = pairs_by_tool["diffsynth"]
    strange = [
        name
        for name, (down, up) in diffsynth_pairs.items()
        if layers.get(name) is None or tuple(layers[name][:2]) != (up.shape[0], down.shape[1])
    ]
    expected = pairs_by_tool.get("diffusers") or {name: (row.down, row.up) for name, row in adapter.items()}
    error = 0.0
    for name, (down, up) in expected.items():
        probe = torch.randn(down.flatten(1).shape[1], generator=torch.Generator().manual_seed(1)).double()
        product = diffsynth_pairs[name][1].double().flatten(1) @ (
            diffsynth_pairs[name][0].double().flatten(1) @ probe
        )
        peer_product = up.double().flatten(1) @ (down.double().flatten(1) @ probe)
        error = max(error, float((product - peer_product).norm() / peer_product.norm()))
    return {
        "layers_trained": len(adapter),
        "names_after_loading": len(diffsynth_pairs),
        "of_them_in_their_model": len(diffsynth_pairs) - len(strange),
        "not_in_their_model": strange[:5],
        "same_names_as_wanted": diffsynth_pairs.keys() == expected.keys(),
        "largest_relative_error": error,
    }


def main() -> None:
    """Compare and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("package", type=Path, help="folder that DiffSynth was installed to")
    parser.add_argument("--bases", nargs="*", default=list(CASES))
    options = parser.parse_args()
    bare_package(options.package)
    with TemporaryDirectory() as folder:
        facts = {base: compared(base, Path(folder)) for base in options.bases}
    path = outcome.save("diffsynth_files", facts)
    rows = [
        [
            base,
            str(row["layers_trained"]),
            str(row["names_after_loading"]),
            str(row["of_them_in_their_model"]),
            f"{row['largest_relative_error']:.0e}",
        ]
        for base, row in facts.items()
    ]
    print(outcome.table(["base", "layers trained", "as DiffSynth names them", "in its model", "error"], rows))
    print(path)
    if any(row["not_in_their_model"] or not row["same_names_as_wanted"] for row in facts.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
