"""What is known of Chroma (Lodestone Rock 2025) and its bases."""

from limner.models.chroma.keys import CHECKPOINT, LEAVES
from limner.models.facts import (
    FLOW_SAMPLERS,
    FamilyFacts,
    FilePart,
    PresetValue,
    RegisteredBase,
    SingleFile,
)

FACTS = FamilyFacts(
    name="chroma",
    pipeline="ChromaPipeline",
    denoiser="transformer",
    parts={
        "tokenizer": "transformers:T5Tokenizer",
        "text_encoder": "transformers:T5EncoderModel",
        "vae": "diffusers:AutoencoderKL",
        "transformer": "diffusers:ChromaTransformer2DModel",
    },
    samplers=FLOW_SAMPLERS,
    bases=(
        RegisteredBase(
            name="chroma1-hd",
            civitai="Chroma",
            hub_id="lodestones/Chroma1-HD",
            licence="Apache-2.0",
            weight_bytes=27_492_227_526,
        ),
        RegisteredBase(
            name="chroma1-base",
            civitai="Chroma",
            hub_id="lodestones/Chroma1-Base",
            licence="Apache-2.0",
            purpose="photographs and art of 512 pixels, for long trainings",
            weight_bytes=27_492_227_526,
        ),
    ),
    caption_style="sentences",
    preset={
        "train.time_density": PresetValue("sigmoid", "kohya, docs/flux_train_network.md, for Chroma"),
        "train.guidance": None,  # none is embedded
    },
    single_file=SingleFile(
        title="Chroma",
        mark=r"(model\.diffusion_model\.)?distilled_guidance_layer\.in_proj\.weight",
        parts={
            "transformer": FilePart(
                prefixes=("model.diffusion_model.", ""), names="key-map", key_map=CHECKPOINT, leaves=LEAVES
            ),
        },
        donors=(("", "chroma1-hd"),),
    ),
)
