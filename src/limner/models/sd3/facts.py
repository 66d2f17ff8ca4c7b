"""What is known of Stable Diffusion 3.5 (Esser et al. 2024) and its bases."""

from limner.models.facts import FLOW_SAMPLERS, FamilyFacts, PresetValue, RegisteredBase

FACTS = FamilyFacts(
    name="sd3",
    pipeline="StableDiffusion3Pipeline",
    denoiser="transformer",
    parts={
        "tokenizer": "transformers:CLIPTokenizer",
        "tokenizer_2": "transformers:CLIPTokenizer",
        "tokenizer_3": "transformers:T5TokenizerFast",
        "text_encoder": "transformers:CLIPTextModelWithProjection",
        "text_encoder_2": "transformers:CLIPTextModelWithProjection",
        "text_encoder_3": "transformers:T5EncoderModel",
        "vae": "diffusers:AutoencoderKL",
        "transformer": "diffusers:SD3Transformer2DModel",
    },
    samplers=FLOW_SAMPLERS,
    bases=(
        RegisteredBase(
            name="sd35-medium",
            civitai="SD 3.5 Medium",
            hub_id="stabilityai/stable-diffusion-3.5-medium",
            licence="Stability AI Community License",
            gated=True,
            weight_bytes=15_815_224_006,
        ),
        RegisteredBase(
            name="sd35-large",
            civitai="SD 3.5 Large",
            hub_id="stabilityai/stable-diffusion-3.5-large",
            licence="Stability AI Community License",
            gated=True,
            weight_bytes=27_442_136_006,
        ),
    ),
    caption_style="sentences",
    fp16=True,
    also_named=("sd35", "stable-diffusion-3", "stablediffusion3"),
    preset={
        "train.learning_rate": PresetValue(1e-4, "simpletuner, quickstart/SD3.md: stable values for 3.5"),
        "train.clip": PresetValue(0.1, "simpletuner, quickstart/SD3.md: large leaps ruin 3.5"),
        "train.guidance": None,  # none is embedded
        "lora.rank": PresetValue(32, "diffusers, README_sd3.md"),
    },
    folder_only=(
        r".*joint_blocks\.0\..*",
        "Stable Diffusion 3, which is read from a folder in diffusers layout",
    ),
)
