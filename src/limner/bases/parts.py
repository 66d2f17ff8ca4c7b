"""The embedded base's models: FLUX.1's classes and wiring, in miniature."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from limner.bases import vocabulary
from limner.files import write_json


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a base is, and what it is trained on. Everything else is the same."""

    side: int
    """Pixels."""
    concepts: int
    """Nouns that it learns: the first ones of ``concepts.txt``."""
    vae_channels: tuple[int, int, int, int]
    latent_channels: int
    blocks: tuple[int, int]
    """Double and single blocks."""
    heads: int
    """Of 64 numbers each."""
    text_length: int
    """T5 tokens that captions are padded to, when a tool does not say otherwise."""

    @property
    def facts(self) -> dict[str, Any]:
        """Defaults for tools, written beside the base as ``limner.json``."""
        return {
            "name": "glyph",
            "resolution": self.side,
            "text_length": self.text_length,
            "guidance": 3.0,
            "concepts": self.concepts,
        }


SIZES = {
    "cpu": Size(
        side=64,
        concepts=64,
        vae_channels=(16, 32, 64, 128),
        latent_channels=32,
        blocks=(2, 4),
        heads=4,
        text_length=20,
    ),
    "gpu": Size(
        side=128,
        concepts=300,
        vae_channels=(32, 64, 128, 128),
        latent_channels=16,
        blocks=(2, 6),
        heads=4,
        text_length=32,
    ),
}
"""``cpu``: an hour on two cores. ``gpu``: 20 minutes on a large GPU."""


def fresh_vae(size: Size) -> AutoencoderKL:
    """An eighth of the side, as FLUX.1's. A smaller picture needs more channels for the same sharpness.

    Residual branches start at zero and posteriors narrow, so that the whole starts as a shallow, nearly
    linear autoencoder: on a CPU's budget of images that is worth a factor of four.
    """
    make: Any = AutoencoderKL  # its annotations want tuples of one
    vae = make(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=size.vae_channels,
        layers_per_block=1,
        latent_channels=size.latent_channels,
        norm_num_groups=8,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        scaling_factor=1.0,
        shift_factor=0.0,
        sample_size=size.side,
    )
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(_bias(module))
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
    nn.init.constant_(_bias(vae.encoder.conv_out)[size.latent_channels :], -4.0)
    return vae


def _bias(module: nn.Conv2d) -> Tensor:
    return torch.empty(0) if module.bias is None else module.bias


def fresh_transformer(size: Size) -> FluxTransformer2DModel:
    """Modulations and last layer start at zero (arXiv:2212.09748)."""
    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * size.latent_channels,
        num_layers=size.blocks[0],
        num_single_layers=size.blocks[1],
        attention_head_dim=64,
        num_attention_heads=size.heads,
        joint_attention_dim=192,
        pooled_projection_dim=128,
        guidance_embeds=False,
        axes_dims_rope=(8, 28, 28),
    )
    gates = ("norm1.linear", "norm1_context.linear", "norm.linear", "norm_out.linear")
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
            if name.endswith(gates) or name == "proj_out":
                nn.init.zeros_(module.weight)
    return model


def fresh_clip() -> CLIPTextModel:
    """2 layers, 128 wide, 77 positions."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary.SIZE,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=vocabulary.CLIP_LENGTH,
            projection_dim=128,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


def fresh_t5() -> T5EncoderModel:
    """3 blocks, 192 wide; relative positions, so any length."""
    make: Any = T5Config  # accepts more than it declares
    config = make(
        vocab_size=vocabulary.SIZE,
        d_model=192,
        d_kv=48,
        d_ff=384,
        num_layers=3,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    return T5EncoderModel(config)


def fresh_pipeline(vae: Path, size: Size) -> dict[str, Any]:
    """Untrained text encoders and transformer beside a trained VAE."""
    return {
        "vae": AutoencoderKL.from_pretrained(vae),
        "tokenizer": vocabulary.clip_tokenizer(),
        "tokenizer_2": vocabulary.t5_tokenizer(),
        "text_encoder": fresh_clip(),
        "text_encoder_2": fresh_t5(),
        "transformer": fresh_transformer(size),
    }


def load_pipeline(folder: Path) -> dict[str, Any]:
    """The parts of a saved pipeline, in fp32."""
    pipe = FluxPipeline.from_pretrained(folder, local_files_only=True)
    return {
        name: pipe.components[name]
        for name in ("vae", "tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "transformer")
    }


def save_pipeline(folder: Path, parts: Mapping[str, Any], size: Size, *, dtype: torch.dtype) -> None:
    """Write a whole FLUX.1 pipeline in diffusers layout, weights rounded to ``dtype``, with its facts.

    Text encoders are marked as float32: transformers loads what is
    marked, diffusers loads float32, and only when both agree does a pipeline run that was loaded plainly.
    """
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
    models = {
        name: nn.Module.to(copy.deepcopy(part), "cpu", dtype) if isinstance(part, nn.Module) else part
        for name, part in parts.items()
    }
    pipeline_class: Any = FluxPipeline
    pipeline_class(scheduler=scheduler, **models).save_pretrained(
        folder, safe_serialization=True, max_shard_size="15MB"
    )
    for config in folder.glob("*/config.json"):
        config_json = json.loads(config.read_text(encoding="utf-8"))
        config_json.pop("_name_or_path", None)  # where it lay on the machine that made it
        precision = {"dtype": "float32"} if config.parent.name.startswith("text_encoder") else {}
        write_json(config, config_json | precision)
    write_json(folder / "limner.json", size.facts)
