"""What is known of HiDream-I1 (Cai et al. 2025) and its bases."""

from limner.models.facts import FLOW_SAMPLERS, FamilyFacts, Precision, PresetValue, RegisteredBase

LLAMA = "meta-llama/Meta-Llama-3.1-8B-Instruct"
"""diffusers, docs/.../pipelines/hidream.md and its pipeline's example; its authors name the same."""
WEIGHT_BYTES = 63_238_890_950
"""Of Llama 16 060 522 496."""
CLIPS: dict[str, Precision] = {"text_encoder": "fp32", "text_encoder_2": "fp32"}

FACTS = FamilyFacts(
    name="hidream",
    pipeline="HiDreamImagePipeline",
    denoiser="transformer",
    parts={
        "tokenizer": "transformers:CLIPTokenizer",
        "tokenizer_2": "transformers:CLIPTokenizer",
        "tokenizer_3": "transformers:T5TokenizerFast",
        "tokenizer_4": "transformers:PreTrainedTokenizerFast",
        "text_encoder": "transformers:CLIPTextModelWithProjection",
        "text_encoder_2": "transformers:CLIPTextModelWithProjection",
        "text_encoder_3": "transformers:T5EncoderModel",
        "text_encoder_4": "transformers:LlamaForCausalLM",
        "vae": "diffusers:AutoencoderKL",
        "transformer": "diffusers:HiDreamImageTransformer2DModel",
    },
    borrowed={"tokenizer_4": LLAMA, "text_encoder_4": LLAMA},
    samplers=FLOW_SAMPLERS,
    bases=(
        RegisteredBase(
            name="hidream-i1-full",
            civitai="HiDream",
            hub_id="HiDream-ai/HiDream-I1-Full",
            licence="MIT; Llama 3.1 Community License of a text encoder",  # HiDream-ai/HiDream-I1, LICENSE
            gated_part=LLAMA,
            weight_bytes=WEIGHT_BYTES,
            part_precisions=CLIPS,
        ),
        RegisteredBase(
            name="hidream-i1-dev",
            civitai="HiDream",
            hub_id="HiDream-ai/HiDream-I1-Dev",
            train_on="hidream-i1-full",
            steps=28,
            licence="MIT; Llama 3.1 Community License of a text encoder",
            gated_part=LLAMA,
            weight_bytes=WEIGHT_BYTES,
            part_precisions=CLIPS,
        ),
        RegisteredBase(
            name="hidream-i1-fast",
            civitai="HiDream",
            hub_id="HiDream-ai/HiDream-I1-Fast",
            train_on="hidream-i1-full",
            steps=16,
            licence="MIT; Llama 3.1 Community License of a text encoder",
            gated_part=LLAMA,
            weight_bytes=WEIGHT_BYTES,
            part_precisions=CLIPS,
        ),
    ),
    caption_style="sentences",
    also_named=("hidream-i1", "hidream_i1", "hi-dream"),
    preset={
        "train.learning_rate": PresetValue(
            2e-4, "ai-toolkit, its preset for HiDream; diffusers, README_hidream.md"
        ),
        "train.guidance": None,  # none is embedded
        "lora.rank": PresetValue(16, "diffusers, README_hidream.md, the default"),
    },
    folder_only=(
        r"(model\.diffusion_model\.)?double_stream_blocks\.0\.block\..*",
        "HiDream-I1, which is read from a folder in diffusers layout",
    ),
)
