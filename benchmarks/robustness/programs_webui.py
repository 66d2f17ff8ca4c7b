"""Forge's and InvokeAI's own models, at a small size, and their own loaders of LoRA files.

As in :mod:`benchmarks.robustness.programs`, nothing of their code is here. What of the programs has no part
in reading a LoRA (settings of the server, quantised models, the list of models) is stood in for.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from benchmarks.robustness.programs import FLUX, MMDIT_COMFYUI, QWEN, UNET, UNET15, Case, Nothing, Weights
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn

FOLDERS = {"forge": "stable-diffusion-webui-forge", "invokeai": "InvokeAI"}
COMMITS = {
    "forge": "dfdcbab685e57677014f05a3309b48cc87383167",
    "invokeai": "8e71a8a519399d6db32054ae9afc7c6c4e2355af",
}
INVOKEAI_ABSENT = (
    "invokeai.app.services.config",
    "invokeai.app.services.config.config_default",
    "invokeai.backend.model_manager.configs.base",
    "invokeai.backend.model_manager.configs.factory",
    "invokeai.backend.model_manager.load.load_default",
    "invokeai.backend.model_manager.load.model_util",
    "invokeai.backend.model_manager.model_on_disk",
    "invokeai.backend.quantization.gguf.ggml_tensor",
)
"""Modules that its loader of LoRAs names, for types or for other models, and that need many packages."""
INVOKEAI_BARE = ("invokeai.backend.model_manager", "invokeai.backend.model_manager.load")
"""Packages that import every kind of model."""


def _forge() -> None:
    arguments, sys.argv = (
        sys.argv,
        [sys.argv[0], "--always-cpu"],
    )  # it reads the command line as it is imported
    try:
        sys.path.extend(importlib.import_module("packages_3rdparty").__path__)
        importlib.import_module(
            "transformers.utils"
        ).is_sentencepiece_available()  # before a stand-in is found
        importlib.import_module("backend.patcher.unet")
    finally:
        sys.argv = arguments


def _invokeai() -> None:
    root = Path(next(iter(importlib.import_module("invokeai").__path__)))
    for name in INVOKEAI_BARE:
        package = Nothing(name)
        package.__path__ = [str(root.parent / name.replace(".", "/"))]
        sys.modules[name] = package
    for name in INVOKEAI_ABSENT:
        sys.modules[name] = Nothing(name)
        sys.modules[name].__path__ = []
    settings = SimpleNamespace(log_level="error", log_handlers=[])
    vars(sys.modules[INVOKEAI_ABSENT[1]])["get_config"] = lambda: settings
    if importlib.util.find_spec("deprecated") is None:
        sys.modules["deprecated"] = Nothing("deprecated")
        vars(sys.modules["deprecated"])["deprecated"] = lambda *_, **__: lambda function: function
    importlib.import_module("invokeai.backend.model_manager.load.model_loaders.lora")
    importlib.import_module("invokeai.backend.flux.model")


FIRST: dict[str, Callable[[], Any]] = {"forge": _forge, "invokeai": _invokeai}
"""What of a program is imported first."""


def _unet_of_forge(config: dict[str, Any]) -> Callable[[], nn.Module]:
    sizes = {key: value for key, value in config.items() if key not in ("image_size", "legacy")}
    return lambda: _sized(
        importlib.import_module("backend.nn.unet").IntegratedUNet2DConditionModel.from_config(sizes), sizes
    )


def _transformer_of_forge(module: str, name: str, config: dict[str, Any]) -> Callable[[], nn.Module]:
    return lambda: _sized(getattr(importlib.import_module(module), name)(**config), config)


def _sized(model: Any, config: dict[str, Any]) -> nn.Module:
    """As ``backend.loader`` leaves a model that it has made."""
    setattr(model, "_internal_dict" if hasattr(model, "_internal_dict") else "config", config)
    model.storage_dtype = model.computation_dtype = torch.float32
    model.load_device = model.offload_device = model.initial_device = torch.device("cpu")
    return model


def _patched_by_forge(repository: str) -> Callable[[nn.Module, Weights], Weights]:
    """As ``load_lora_for_models`` of its extension sd_forge_lora does, whose module starts the web page."""

    def load(model: nn.Module, flat: Weights) -> Weights:
        lora = importlib.import_module("backend.patcher.lora")
        patcher = importlib.import_module("backend.patcher.unet").UnetPatcher.from_model(
            model, None, SimpleNamespace(huggingface_repo=repository), k_predictor=nn.Identity()
        )
        patches, rest = lora.load_lora(dict(flat), lora.model_lora_keys_unet(patcher.model, {}))
        if len(rest) > 12:
            raise ValueError(f"Forge takes a file with {len(rest)} unknown keys for one of another model")
        patcher.add_patches(filename="lora", patches=patches)
        patcher.refresh_loras()
        return {name: value.clone() for name, value in model.state_dict().items()}

    return load


def _flux_of_invokeai() -> nn.Module:
    models = importlib.import_module("invokeai.backend.flux.model")
    return models.Flux(models.FluxParams(**FLUX, out_channels=16))


def _diffusers_model(name: str, sizes: dict[str, Any]) -> Callable[[], nn.Module]:
    return lambda: getattr(diffusers, name)(**sizes)


def _sdxl_of_diffusers() -> nn.Module:
    sizes: dict[str, Any] = {
        "block_out_channels": (32, 64, 128),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 1, 2),
        "attention_head_dim": (2, 4, 8),
        "use_linear_projection": True,
        "cross_attention_dim": 40,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 24,
    }
    return UNet2DConditionModel(**sizes)


def _sd15_of_diffusers() -> nn.Module:
    channels = (32, 64, 128, 128)
    return UNet2DConditionModel(block_out_channels=channels, attention_head_dim=2, cross_attention_dim=40)


@contextmanager
def _small_parts() -> Iterator[None]:
    """FLUX.1's width is written in where diffusers' q, k and v are put together: parts keep their shares."""
    conversion = importlib.import_module(
        "invokeai.backend.patches.lora_conversions.flux_diffusers_lora_conversion_utils"
    )
    true, share = conversion.Range, FLUX["hidden_size"] / 3072
    vars(conversion)["Range"] = lambda start, end: true(round(start * share), round(end * share))
    try:
        yield
    finally:
        vars(conversion)["Range"] = true


def _patched_by_invokeai(base: str, prefix: str) -> Callable[[nn.Module, Weights], Weights]:
    """Its own loader of the file, and its own patcher as it works on a GPU: the weights are changed."""

    def load(model: nn.Module, flat: Weights) -> Weights:
        loading = importlib.import_module("invokeai.backend.model_manager.load.model_loaders.lora")
        patcher = importlib.import_module("invokeai.backend.patches.layer_patcher").LayerPatcher
        cast = "invokeai.backend.model_manager.load.model_cache.torch_module_autocast.torch_module_autocast"
        loader = loading.LoRALoader.__new__(loading.LoRALoader)
        loader._model_base = getattr(loading.BaseModelType, base)
        loader._torch_dtype = torch.float32
        with TemporaryDirectory() as folder, _small_parts():
            path = f"{folder}/lora.safetensors"
            save_file(dict(flat), path)
            config = SimpleNamespace(path=path, format=loading.ModelFormat.LyCORIS, base=loader._model_base)
            patch = loader._load_model(config)
        importlib.import_module(cast).apply_custom_layers_to_model(model)
        patches, dtype = [(patch, 1.0)], torch.float32
        with patcher.apply_smart_model_patches(model, patches, prefix, dtype, force_direct_patching=True):
            return {name: value.clone() for name, value in model.state_dict().items()}

    return load


PLAIN = ("LoRA", "LoHa", "LoKr", "DoRA")
"""What InvokeAI reads: at a DoRA of a LoHa or LoKr it stops."""
Z_IMAGE = {
    **{"dim": 32, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 24},
    "axes_dims": [4, 6, 6],
}
FLUX2 = {
    **{"in_channels": 16, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 16},
    **{"num_attention_heads": 2, "joint_attention_dim": 24, "axes_dims_rope": (4, 4, 4, 4)},
}
KREA2 = {
    **{"in_channels": 16, "num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2},
    **{"num_key_value_heads": 1, "intermediate_size": 64, "timestep_embed_dim": 16, "text_hidden_dim": 24},
    **{"num_text_layers": 2, "text_num_attention_heads": 2, "text_num_key_value_heads": 2},
    **{"text_intermediate_size": 48, "axes_dims_rope": (4, 6, 6)},
}
CHROMA_FORGE = {
    **{key: value for key, value in FLUX.items() if key != "guidance_embed"},
    **{"in_channels": 4, "guidance_out_dim": 32, "guidance_hidden_dim": 24, "guidance_n_layers": 2},
}
CASES: dict[str, dict[str, Case]] = {
    "forge": {
        family: Case(build, _patched_by_forge(repository), tool="kohya")
        for family, build, repository in (
            ("sdxl", _unet_of_forge(UNET), "stabilityai/stable-diffusion-xl-base-1.0"),
            ("sd15", _unet_of_forge(UNET15), "stable-diffusion-v1-5/stable-diffusion-v1-5"),
            (
                "flux",
                _transformer_of_forge(
                    "backend.nn.flux", "IntegratedFluxTransformer2DModel", {**FLUX, "in_channels": 4}
                ),
                "black-forest-labs/FLUX.1-dev",
            ),
            (
                "chroma",
                _transformer_of_forge(
                    "backend.nn.chroma", "IntegratedChromaTransformer2DModel", CHROMA_FORGE
                ),
                "Chroma",
            ),
            (
                "sd3",
                _transformer_of_forge("backend.nn.mmditx", "MMDiTX", MMDIT_COMFYUI),
                "stabilityai/stable-diffusion-3-medium-diffusers",
            ),
        )
    },
    "invokeai": {
        "sdxl": Case(
            _sdxl_of_diffusers, _patched_by_invokeai("StableDiffusionXL", "lora_unet_"), "kohya", PLAIN
        ),
        "sd15": Case(
            _sd15_of_diffusers, _patched_by_invokeai("StableDiffusion1", "lora_unet_"), "kohya", PLAIN
        ),
        **{
            family: Case(
                _diffusers_model(name, sizes),
                _patched_by_invokeai(base, "lora_transformer-"),
                "diffusers",
                ("LoRA",),
            )
            for family, name, sizes, base in (
                ("qwen-image", "QwenImageTransformer2DModel", QWEN, "QwenImage"),
                ("z-image", "ZImageTransformer2DModel", Z_IMAGE, "ZImage"),
                ("flux2", "Flux2Transformer2DModel", FLUX2, "Flux2"),
                ("krea2", "Krea2Transformer2DModel", KREA2, "Krea2"),
            )
        },
        "flux": Case(
            _flux_of_invokeai,
            _patched_by_invokeai("Flux", "lora_transformer-"),
            "diffusers",
            ("LoRA",),
            r"time_text_embed\.guidance|norm_out",
        ),
        "flux, kohya's form": Case(
            _flux_of_invokeai,
            _patched_by_invokeai("Flux", "lora_transformer-"),
            "kohya",
            PLAIN,
            r"(?!(single_)?transformer_blocks\.)",
        ),
    },
}
"""Program -> family -> the program's own model and loader of it; those of InvokeAI are diffusers' classes,
but for FLUX.1's."""
