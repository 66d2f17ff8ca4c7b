"""What is known of FLUX.1 (Black Forest Labs 2024) and its bases."""

from limner.models.facts import FLOW_SAMPLERS, FamilyFacts, FilePart, RegisteredBase, SingleFile
from limner.models.flux.glyph import preset
from limner.models.flux.keys import CHECKPOINT, NORM_LEAVES

UNET = "model.diffusion_model."

FACTS = FamilyFacts(
    name="flux",
    pipeline="FluxPipeline",
    denoiser="transformer",
    parts={
        "tokenizer": "transformers:CLIPTokenizer",
        "tokenizer_2": "transformers:T5TokenizerFast",
        "text_encoder": "transformers:CLIPTextModel",
        "text_encoder_2": "transformers:T5EncoderModel",
        "vae": "diffusers:AutoencoderKL",
        "transformer": "diffusers:FluxTransformer2DModel",
    },
    samplers=FLOW_SAMPLERS,
    bases=(
        RegisteredBase(
            name="flux-dev",
            civitai="Flux.1 D",
            hub_id="black-forest-labs/FLUX.1-dev",
            licence="FLUX.1 [dev] Non-Commercial License",
            gated=True,
            weight_bytes=33_741_198_278,
        ),
        RegisteredBase(
            name="flux-schnell",
            civitai="Flux.1 S",
            hub_id="black-forest-labs/FLUX.1-schnell",
            train_on="flux-dev",
            steps=4,
            licence="Apache-2.0",
            purpose="photographs and art in 4 sampling steps",
            weight_bytes=33_720_738_758,
        ),
        RegisteredBase(
            name="glyph",
            licence="Apache-2.0",
            purpose="a toy of 64 pixels to try Limner with, not for photographs",
            resolution=64,
            toy=True,
            caption_style="brief",
            preset=preset,
        ),
        RegisteredBase(
            name="glyph-turbo",
            train_on="glyph",
            steps=4,
            lora="glyph-turbo/distillation.safetensors",
            changes={"limner": {"name": "glyph-turbo", "guidance": 1.0}},
            licence="Apache-2.0",
            purpose="glyph in 4 sampling steps, without guidance",
            resolution=64,
            toy=True,
            caption_style="brief",
            preset=preset,
        ),
    ),
    caption_style="sentences",
    fp16=True,
    embeddings={"text_encoder": "clip_l", "text_encoder_2": "t5"},
    single_file=SingleFile(
        title="FLUX.1",
        mark=r"(model\.diffusion_model\.)?double_blocks\.0\.img_attn\.qkv\.weight",
        parts={
            "transformer": FilePart(
                prefixes=(UNET, ""), names="key-map", key_map=CHECKPOINT, leaves=NORM_LEAVES
            ),
            "vae": FilePart(prefixes=("vae.",), names="ldm-vae"),
            "text_encoder": FilePart(prefixes=("text_encoders.clip_l.transformer.",), names="transformers"),
            "text_encoder_2": FilePart(prefixes=("text_encoders.t5xxl.transformer.",), names="transformers"),
        },
        donors=(("guidance_in.in_layer.weight", "flux-dev"), ("", "flux-schnell")),
        flags={"transformer": ("guidance_embeds", "guidance_in.in_layer.weight")},
    ),
)
