"""Other programs' own models, at a small size, and their own loaders of LoRA files.

Their code is fetched by whoever measures, and imported from a folder; of it nothing is in this repository.
"""

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

Weights = dict[str, Tensor]

FOLDERS = {"comfyui": "ComfyUI", "sd-scripts": "sd-scripts", "musubi": "musubi-tuner/src"}
"""Program -> where its modules lie below the folder of all programs."""
COMMITS = {
    "comfyui": "783545f689a0af730065994b46b382ae24844c99",
    "sd-scripts": "48d368fa557731ad0488c07304dfeba8c07910eb",
    "musubi": "30c658c4f4b0bf05038b3346eff9670259b10fc7",
}
"""Program -> the commit that the figures are of. A checkout of another one is measured, and that is said."""
ABSENT = (
    *("torchvision", "torchsde", "kornia", "av", "sageattention", "scipy", "comfyui_frontend_package"),
    *("sentencepiece", "onnx", "blake3", "picklescan"),
)
"""Packages that the programs import beside what is used here, and that need not be installed."""


class Nothing(types.ModuleType):
    """A module that has whatever is asked for, and does none of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Absent:
    """Finds packages of ``ABSENT`` that are not installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in ABSENT else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return Nothing(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def importable(place: Path, first: Callable[[], Any]) -> str:
    """Make the modules of a program in a folder importable, or say why they are not."""
    if not place.is_dir():
        return f"there is no {place.name} in the folder"
    sys.path.append(str(place))
    for name in ("diffusers.loaders.single_file_utils", "peft"):  # they ask what is installed, so first
        importlib.import_module(name)
    importlib.import_module("transformers.utils").is_torchvision_available()
    if not any(isinstance(finder, _Absent) for finder in sys.meta_path):
        sys.meta_path.append(_Absent())  # type: ignore[arg-type]
    try:
        first()
    except ImportError as error:
        return f"it cannot be imported: {error}"
    return ""


def _comfyui() -> None:
    arguments, sys.argv = sys.argv, sys.argv[:1]  # it reads the command line as it is imported
    try:
        importlib.import_module("comfy.cli_args").args.cpu = True
        importlib.import_module("comfy.model_base")
    finally:
        sys.argv = arguments


FIRST: dict[str, Callable[[], Any]] = {
    "comfyui": _comfyui,
    "sd-scripts": lambda: importlib.import_module("networks.lora"),
    "musubi": lambda: importlib.import_module("musubi_tuner.networks.lora"),
}
"""What of a program is imported first."""

FLUX = {
    "in_channels": 16,
    "vec_in_dim": 24,
    "context_in_dim": 20,
    "hidden_size": 32,
    "mlp_ratio": 4.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [4, 6, 6],
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": True,
}
MMDIT = {"patch_size": 2, "depth": 2, "adm_in_channels": 24, "pos_embed_max_size": 8, "qk_norm": "rms"}
QWEN = {
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "in_channels": 16,
    "out_channels": 4,
    "axes_dims_rope": (4, 6, 6),
}
KREA2 = {
    **{"features": 32, "tdim": 16, "txtdim": 24, "heads": 2, "kvheads": 1, "multiplier": 4},
    **{"layers": 2, "patch": 2, "channels": 4, "txtlayers": 2, "txtheads": 2, "txtkvheads": 2},
}
IDEOGRAM4 = {
    **{"num_layers": 2, "intermediate_size": 48, "in_channels": 16, "llm_features_dim": 24},
    "mrope_section": (4, 2, 2),
}
UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "num_classes": "sequential",
    "adm_in_channels": 24,
    "num_head_channels": 16,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "context_dim": 40,
    "transformer_depth": [0, 0, 1, 1, 2, 2],
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "transformer_depth_middle": 2,
    "legacy": False,
}
UNET15 = {
    **{key: value for key, value in UNET.items() if key not in ("num_classes", "adm_in_channels")},
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "use_linear_in_transformer": False,
    "num_heads": 2,
    "num_head_channels": -1,
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
}


@dataclass(frozen=True)
class Case:
    """One family in one program."""

    build: Callable[[], nn.Module]
    """The program's model of it, small."""
    load: Callable[[nn.Module, Weights], Weights]
    """The model's weights once the program has put a LoRA file into them."""
    tool: str = ""
    """The tool whose names are written; "" for the program's own."""
    kinds: Sequence[str] = ()
    """The kinds that it reads, where they are fewer than that tool's; () for all."""
    lacks: str = ""
    """A pattern of the layers that it has no name for, where that tool has."""


def _patched_by_comfyui(model: Any, flat: Weights, keys: str = "model_lora_keys_unet") -> Weights:
    """As ``comfy.sd.load_lora_for_models`` does, weight by weight."""
    lora = importlib.import_module("comfy.lora")
    convert = importlib.import_module("comfy.lora_convert").convert_lora
    patcher = importlib.import_module("comfy.model_patcher").ModelPatcher(model, "cpu", "cpu")
    patches = lora.load_lora(convert(dict(flat)), getattr(lora, keys)(model, {}))
    patcher.add_patches(patches)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    for key, change in patcher.patches.items():
        weights[key] = lora.calculate_weight(change, weights[key], key)
    return {key.removeprefix("diffusion_model."): value for key, value in weights.items()}


def _comfyui_model(name: str, config: dict[str, Any]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        kind = getattr(importlib.import_module("comfy.supported_models"), name)
        kind = type(name, (kind,), {"unet_extra_config": {}})  # of which some name the true sizes
        settings = kind(dict(config))
        settings.set_inference_dtype(torch.float32, None)
        return settings.get_model({}, "", device="cpu")

    return build


def _text_of_comfyui(module: str, name: str) -> Callable[[], nn.Module]:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3}
    t5 = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_heads": 2, "num_layers": 2}
    options = {"clip_l_model_config": sizes, "clip_g_model_config": sizes, "t5xxl_model_config": t5}

    def build() -> nn.Module:
        kind = getattr(importlib.import_module(module), name)
        return kind(dtype=torch.float32, model_options=options)

    return build


def _merged_by(module: str) -> Callable[[nn.Module, Weights], Weights]:
    """As sd-scripts' ``*_minimal_inference.py`` do: the network is made of the file, and merged."""

    def load(model: nn.Module, flat: Weights) -> Weights:
        create = importlib.import_module(module).create_network_from_weights
        network, weights = create(1.0, "", None, [], model, weights_sd=dict(flat), for_inference=True)
        network.merge_to([], model, weights, torch.float32, "cpu")
        return dict(model.state_dict())

    return load


def _read_by_musubi(model: nn.Module, flat: Weights) -> Weights:
    """As its scripts that generate do: weights are merged as the model's file is read."""
    load = importlib.import_module("musubi_tuner.utils.lora_utils").load_safetensors_with_lora_and_fp8
    with TemporaryDirectory() as folder:
        path = f"{folder}/model.safetensors"
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
        return load(path, [dict(flat)], [1.0], fp8_optimization=False, calc_device=torch.device("cpu"))


def _flux_of_kohya() -> nn.Module:
    models = importlib.import_module("library.flux_models")
    return models.Flux(models.FluxParams(**FLUX))


def _chroma_of_kohya() -> nn.Module:
    models = importlib.import_module("library.chroma_models")
    sizes = {key: value for key, value in FLUX.items() if key != "vec_in_dim"}
    inner = {"approximator_in_dim": 16, "approximator_depth": 2, "approximator_hidden_size": 24}
    return models.Chroma(models.ChromaParams(**sizes, **inner, _use_compiled=False))


def _sd3_of_kohya() -> nn.Module:
    models = importlib.import_module("library.sd3_models")
    sizes = {"context_embedder_in_features": 20, "context_embedder_out_features": 128, "num_patches": 64}
    return models.create_sd3_mmdit(
        models.SD3Params(**MMDIT, **sizes, x_block_self_attn_layers=[0], model_type="small")
    )


@contextmanager
def _small(module: Any, **sizes: Any) -> Iterator[None]:
    """Sizes that a module has as constants."""
    before = {name: getattr(module, name) for name in sizes}
    vars(module).update(sizes)
    try:
        yield
    finally:
        vars(module).update(before)


def _sdxl_of_kohya() -> nn.Module:
    unet = importlib.import_module("library.sdxl_original_unet")
    with _small(unet, MODEL_CHANNELS=64, TIME_EMBED_DIM=256, ADM_IN_CHANNELS=24, CONTEXT_DIM=40):
        return unet.SdxlUNet2DConditionModel()


def _sd15_of_kohya() -> nn.Module:
    unet, channels = importlib.import_module("library.original_unet"), (32, 64, 128, 128)
    with _small(unet, BLOCK_OUT_CHANNELS=channels, TIMESTEP_INPUT_DIM=32, TIME_EMBED_DIM=128):
        return unet.UNet2DConditionModel(sample_size=8, attention_head_dim=2, cross_attention_dim=40)


def _qwen_of_musubi() -> nn.Module:
    return importlib.import_module("musubi_tuner.qwen_image.qwen_image_model").QwenImageTransformer2DModel(
        **QWEN
    )


def _z_image_of_musubi() -> nn.Module:
    model = importlib.import_module("musubi_tuner.zimage.zimage_model").ZImageTransformer2DModel
    return model(
        dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=24, axes_dims=[4, 6, 6]
    )


def _flux2_of_musubi() -> nn.Module:
    models = importlib.import_module("musubi_tuner.flux_2.flux2_models")
    sizes = {"in_channels": 16, "context_in_dim": 24, "hidden_size": 32, "num_heads": 2, "depth": 2}
    return models.Flux2(
        models.Flux2Params(**sizes, depth_single_blocks=2, axes_dim=[4, 4, 4, 4], use_guidance_embed=False),
        attn_mode="torch",
    )


def _krea2_of_musubi() -> nn.Module:
    models = importlib.import_module("musubi_tuner.krea2.krea2_mmdit")
    return models.SingleStreamDiT(models.SingleMMDiTConfig(**KREA2))


def _ideogram4_of_musubi() -> nn.Module:
    models = importlib.import_module("musubi_tuner.ideogram4.ideogram4_model")
    return models.Ideogram4Transformer(
        models.Ideogram4Config(**IDEOGRAM4, emb_dim=32, num_heads=2, adanln_dim=16)
    )


MMDIT_COMFYUI = {
    **MMDIT,
    "in_channels": 16,
    "num_patches": 64,
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": 20, "out_features": 128},
    },
    "x_block_self_attn_layers": [0],
}
FLUX_COMFYUI = {**FLUX, "image_model": "flux", "out_channels": 4, "patch_size": 2, "txt_ids_dims": []}
FLUX2_COMFYUI = {
    **{key: value for key, value in FLUX.items() if key not in ("vec_in_dim", "guidance_embed")},
    "image_model": "flux2",
    "mlp_ratio": 3.0,
    "axes_dim": [4, 4, 4, 4],
    "vec_in_dim": None,
    "guidance_embed": True,
    "out_channels": 16,
    "patch_size": 1,
    "qkv_bias": False,
    "ops_bias": False,
    "global_modulation": True,
    "mlp_silu_act": True,
    "txt_ids_dims": [3],
}
CHROMA_COMFYUI = {
    **{key: value for key, value in FLUX_COMFYUI.items() if key != "guidance_embed"},
    **{"image_model": "chroma", "in_dim": 16, "out_dim": 32, "hidden_dim": 24, "n_layers": 2},
}
Z_IMAGE_COMFYUI = {
    "image_model": "lumina2",
    "dim": 32,
    "n_layers": 2,
    "n_refiner_layers": 1,
    "n_heads": 2,
    "n_kv_heads": 2,
    "in_channels": 16,
    "cap_feat_dim": 24,
    "axes_dims": [4, 6, 6],
    "ffn_dim_multiplier": 8 / 3,
    "qk_norm": True,
    "z_image_modulation": True,
}
IDEOGRAM4_COMFYUI = {
    **IDEOGRAM4,
    **{"image_model": "ideogram4", "num_attention_heads": 2, "attention_head_dim": 16, "adaln_dim": 16},
}
CASES: dict[str, dict[str, Case]] = {
    "comfyui": {
        family: Case(_comfyui_model(name, config), _patched_by_comfyui)
        for family, name, config in (
            ("flux", "Flux", FLUX_COMFYUI),
            ("sd3", "SD3", MMDIT_COMFYUI),
            ("sdxl", "SDXL", UNET),
            ("sd15", "SD15", UNET15),
            ("qwen-image", "QwenImage", {**QWEN, "image_model": "qwen_image"}),
            ("chroma", "Chroma", CHROMA_COMFYUI),
            ("flux2", "Flux2", FLUX2_COMFYUI),
            ("krea2", "Krea2", {**KREA2, "image_model": "krea2"}),
            ("z-image", "ZImage", Z_IMAGE_COMFYUI),
            ("ideogram4", "Ideogram4", IDEOGRAM4_COMFYUI),
        )
    },
    "sd-scripts": {
        "flux": Case(_flux_of_kohya, _merged_by("networks.lora_flux")),
        "chroma": Case(_chroma_of_kohya, _merged_by("networks.lora_flux")),
        "sd3": Case(_sd3_of_kohya, _merged_by("networks.lora_sd3")),
        "sdxl": Case(_sdxl_of_kohya, _merged_by("networks.lora")),
        "sd15": Case(_sd15_of_kohya, _merged_by("networks.lora")),
    },
    "musubi": {
        "qwen-image": Case(_qwen_of_musubi, _read_by_musubi),
        "z-image": Case(_z_image_of_musubi, _read_by_musubi),
        "flux2": Case(_flux2_of_musubi, _read_by_musubi),
        "krea2": Case(_krea2_of_musubi, _read_by_musubi),
        "ideogram4": Case(_ideogram4_of_musubi, _read_by_musubi),
    },
}
"""Program -> family -> the program's own model and loader of it."""
TEXT_CASES = {
    family: Case(_text_of_comfyui(module, name), partial(_patched_by_comfyui, keys="model_lora_keys_clip"))
    for family, module, name in (
        ("sdxl", "comfy.sdxl_clip", "SDXLClipModel"),
        ("sd15", "comfy.sd1_clip", "SD1ClipModel"),
        ("flux", "comfy.text_encoders.flux", "FluxClipModel"),
        ("sd3", "comfy.text_encoders.sd3_clip", "SD3ClipModel"),
    )
}
"""Family -> ComfyUI's own text encoders of it, in one model, and its loader."""
