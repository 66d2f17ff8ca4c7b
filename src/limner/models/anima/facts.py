"""What is known of Anima (CircleStone Labs and Comfy Org 2026) and its base."""

from limner.models.facts import FLOW_SAMPLERS, FamilyFacts, PresetValue, RegisteredBase

FACTS = FamilyFacts(
    name="anima",
    pipeline="AnimaModularPipeline",
    denoiser="transformer",
    modular=True,
    parts={
        "tokenizer": "transformers:Qwen2Tokenizer",
        "t5_tokenizer": "transformers:T5TokenizerFast",
        "text_encoder": "transformers:Qwen3Model",
        "text_conditioner": "diffusers:AnimaTextConditioner",
        "vae": "diffusers:AutoencoderKLQwenImage",
        "transformer": "diffusers:CosmosTransformer3DModel",
    },
    samplers=FLOW_SAMPLERS,
    bases=(
        RegisteredBase(
            name="anima",
            hub_id="circlestone-labs/Anima-Base-v1.0-Diffusers",  # diffusers, docs/.../pipelines/anima.md
            licence="CircleStone Labs Non-Commercial License",  # circlestone-labs/Anima, LICENSE.md
            purpose="anime and illustrations, no photographs",
            weight_bytes=5_628_022_758,
        ),
    ),
    caption_style="tags",
    also_named=("anima-base", "animamodular"),
    preset={
        "train.learning_rate": PresetValue(1e-4, "kohya, docs/anima_train_network.md"),
        "train.time_density": PresetValue("sigmoid", "kohya, docs/anima_train_network.md: without a shift"),
        "train.guidance": None,  # none is embedded
    },
    folder_only=(
        r"(net\.|model\.diffusion_model\.)?llm_adapter\..*",
        "Anima, which is read from a folder in diffusers layout",
    ),
)
