"""Pipelines of the true architectures with a few thousand random weights, saved in the true layouts."""

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    Krea2Pipeline,
    Krea2Transformer2DModel,
    PNDMScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    Qwen3VLConfig,
    Qwen3VLModel,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789,."


def save_flux_kontext(folder: Path) -> Path:
    """Write a tiny FLUX.1 Kontext to ``folder``. Images of 32 px or more; text of 12 tokens."""
    return save_flux(folder, guided=True, pipeline=FluxKontextPipeline)


def save_flux(folder: Path, *, guided: bool = False, pipeline: Any = FluxPipeline) -> Path:
    """Write the pipeline to ``folder``. Images of 32 px or more; text of 12 tokens."""
    torch.manual_seed(0)
    pipe = pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=vae(scaling_factor=0.5, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5(16),
        tokenizer_2=t5_tokenizer(),
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            guidance_embeds=guided,
            axes_dims_rope=(4, 6, 6),
        ),
    )
    return save(pipe, folder, text_length=12)


def save_sdxl(folder: Path, **scheduler: Any) -> Path:
    """Write a tiny SDXL to ``folder``. Images of 32 px or more."""
    torch.manual_seed(0)
    pipe = StableDiffusionXLPipeline(
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
            **scheduler,
        ),
        vae=vae(scaling_factor=0.13025),
        text_encoder=_clip(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(hidden_size=24, projection_dim=12)),
        tokenizer_2=clip_tokenizer(pad_token="!"),
        unet=_unet(
            cross_attention_dim=16 + 24,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 12,
            transformer_layers_per_block=(1, 2),
        ),
    )
    return save(pipe, folder)


def save_sd15(folder: Path, **scheduler: Any) -> Path:
    """Write a tiny Stable Diffusion 1.5 to ``folder``. Images of 32 px or more."""
    torch.manual_seed(0)
    pipe = StableDiffusionPipeline(
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            set_alpha_to_one=False,
            steps_offset=1,
            **scheduler,
        ),
        vae=vae(scaling_factor=0.18215),
        text_encoder=_clip(),
        tokenizer=clip_tokenizer(),
        unet=_unet(cross_attention_dim=16),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return save(pipe, folder)


def save_sd3(folder: Path) -> Path:
    """Write a tiny Stable Diffusion 3.5 to ``folder``. Images of 32 px or more; text of 12 tokens."""
    torch.manual_seed(0)
    pipe = StableDiffusion3Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(scaling_factor=0.5, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModelWithProjection(clip_config(projection_dim=8)),
        tokenizer=clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(hidden_size=24, projection_dim=12)),
        tokenizer_2=clip_tokenizer(pad_token="!"),
        text_encoder_3=t5(48),
        tokenizer_3=t5_tokenizer(),
        transformer=SD3Transformer2DModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=48,
            caption_projection_dim=32,
            pooled_projection_dim=8 + 12,
            pos_embed_max_size=16,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ),
    )
    return save(pipe, folder, text_length=12)


ONE_LAYER = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}


def save_qwen_image(
    folder: Path,
    *,
    pipeline: Any = QwenImagePipeline,
    vision: Any = ONE_LAYER,
    options: Any = MappingProxyType({}),
    transformer: Any = MappingProxyType({}),
    facts: Any = MappingProxyType({}),
) -> Path:
    """Write a tiny Qwen-Image to ``folder``. Images of 32 px or more."""
    torch.manual_seed(0)
    pipe = pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True,
            base_shift=0.5,
            max_shift=0.9,
            max_image_seq_len=8192,
            shift_terminal=0.02,
        ),
        vae=AutoencoderKLQwenImage(base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        text_encoder=qwen_text_encoder(vision),
        tokenizer=qwen_tokenizer(),
        transformer=QwenImageTransformer2DModel(
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(4, 6, 6),
            **transformer,
        ),
        **options,
    )
    return save(pipe, folder, **facts)


def qwen_text_encoder(vision: Any) -> Qwen2_5_VLForConditionalGeneration:
    """A tiny Qwen2.5-VL with such a vision encoder."""
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    text = {**TEXT, **heads, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision, **SPECIAL)
    )


def save_krea2(folder: Path, *, distilled: bool = False) -> Path:
    """Write a tiny Krea 2 to ``folder``. Images of 32 px or more."""
    torch.manual_seed(0)
    text = {**TEXT, "head_dim": 8, "rope_scaling": {"rope_type": "default", "mrope_section": [2, 1, 1]}}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    pipe = Krea2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, max_image_seq_len=6400
        ),
        vae=AutoencoderKLQwenImage(base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        text_encoder=Qwen3VLModel(
            Qwen3VLConfig(
                text_config=text, vision_config={**vision, "deepstack_visual_indexes": [0]}, **SPECIAL
            )
        ),
        tokenizer=qwen_tokenizer(),
        transformer=Krea2Transformer2DModel(
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=48,
            timestep_embed_dim=16,
            text_hidden_dim=16,
            num_text_layers=2,
            text_num_attention_heads=2,
            text_num_key_value_heads=2,
            text_intermediate_size=24,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(4, 6, 6),
        ),
        text_encoder_select_layers=(1, 2),
        is_distilled=distilled,
    )
    for name, parameter in pipe.transformer.named_parameters():  # zeros hide a wrong order and a wrong sign
        if name.endswith(("scale_shift_table", "norm.weight", "norm1.weight", "norm_q.weight")):
            torch.nn.init.normal_(parameter, std=0.3)
    return save(pipe, folder)


def save_flux2_klein(folder: Path, *, distilled: bool = False) -> Path:
    """Write a tiny FLUX.2 klein to ``folder``. Images of 32 px or more; text of 80 tokens."""
    parts = flux2_parts()
    pipe = Flux2KleinPipeline(
        **parts,
        text_encoder=Qwen3ForCausalLM(Qwen3Config(**{**TEXT, "num_hidden_layers": 28}, head_dim=8)),
        tokenizer=qwen_tokenizer(),
        is_distilled=distilled,
    )
    return save(pipe, folder, text_length=80)


def flux2_parts(*, guided: bool = False) -> dict[str, Any]:
    """What the pipelines of FLUX.2 have in common."""
    torch.manual_seed(0)
    latents = vae(AutoencoderKLFlux2)
    torch.nn.init.normal_(latents.bn.running_mean, std=0.1)
    torch.nn.init.uniform_(latents.bn.running_var, 0.5, 2.0)
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guided,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return {"scheduler": scheduler, "vae": latents, "transformer": transformer}


def save_z_image(folder: Path) -> Path:
    """Write a tiny Z-Image to ``folder``. Images of 32 px or more."""
    torch.manual_seed(0)
    pipe = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(scaling_factor=0.5, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=Qwen3Model(Qwen3Config(**TEXT, head_dim=8)),
        tokenizer=qwen_tokenizer(),
        transformer=ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[4, 6, 6],
            axes_lens=[256, 64, 64],
        ),
    )
    for name in ("x_pad_token", "cap_pad_token"):
        torch.nn.init.normal_(pipe.transformer.get_parameter(name))
    return save(pipe, folder, text_length=80)


SPECIAL = {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 256, "image_token_id": 259}
TEXT = {
    "vocab_size": 320,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 2048,
}
CHAT = (
    "{% for each in messages %}<|im_start|>{{ each.role }}\n{{ each.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def qwen_tokenizer() -> Qwen2Tokenizer:
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>"]
    marks += ["<|vision_start|>", "<|vision_end|>"]
    vocab = {piece: n for n, piece in enumerate([*sorted(ByteLevel.alphabet()), *marks])}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], additional_special_tokens=marks[1:])
    tokenizer.chat_template = CHAT
    return tokenizer


def save(pipe: Any, folder: Path, **facts: Any) -> Path:
    pipe.save_pretrained(folder)
    (folder / "limner.json").write_text(json.dumps({"resolution": 32, "guidance": 2.0, **facts}))
    return folder


def vae(kind: Any = AutoencoderKL, **config: Any) -> Any:
    return kind(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=False,
        **config,
    )


def _unet(**config: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **config,
    )


def t5(width: int) -> T5EncoderModel:
    sizes = {"vocab_size": 64, "d_model": width, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_heads": 2}
    return T5EncoderModel(T5Config(**sizes, feed_forward_proj="gated-gelu"))


def _clip() -> CLIPTextModel:
    return CLIPTextModel(clip_config())


def clip_config(**config: Any) -> CLIPTextConfig:
    """A CLIP text model of three layers."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    ids = {"vocab_size": 100, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    return CLIPTextConfig(**{**sizes, **ids, **config})


def clip_tokenizer(**config: Any) -> CLIPTokenizer:
    pieces = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS), "!"]
    vocab = {piece: n for n, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77, **config)


def t5_tokenizer() -> T5TokenizerFast:
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *LETTERS]
    return T5TokenizerFast(vocab=[(piece, -float(n)) for n, piece in enumerate(pieces)], extra_ids=0)
