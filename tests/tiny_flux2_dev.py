"""A tiny FLUX.2 dev with random weights, saved in the true layout; its processor, without torchvision."""

import importlib.util
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import transformers
from diffusers import Flux2Pipeline
from transformers import (
    AutoTokenizer,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessorPil,
)

from tiny import SPECIAL, TEXT, flux2_parts, qwen_tokenizer, save

CHAT = (
    "{% for each in messages %}{% if each.role == 'system' %}[SYSTEM_PROMPT]{{ each.content[0].text }}"
    "[/SYSTEM_PROMPT]{% else %}[INST]{{ each.content[0].text }}[/INST]{% endif %}{% endfor %}"
)
IMAGE = {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}


def save_flux2_dev(folder: Path) -> Path:
    """Write a tiny FLUX.2 dev to ``folder``. Images of 32 px or more; text of 400 tokens."""
    text = {**TEXT, "num_hidden_layers": 31, "head_dim": 8, "model_type": "mistral", "sliding_window": None}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    pipe = Flux2Pipeline(
        **flux2_parts(guided=True),
        text_encoder=Mistral3ForConditionalGeneration(
            Mistral3Config(
                text_config=text,
                vision_config={**vision, "model_type": "pixtral", "head_dim": 8, "patch_size": 4},
                image_token_index=SPECIAL["image_token_id"],
            )
        ),
        tokenizer=tokenizer_of_mistral(),
    )
    save(pipe, folder, text_length=400)
    index = json.loads((folder / "model_index.json").read_text())
    index["tokenizer"] = ["transformers", "PixtralProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def tokenizer_of_mistral() -> Any:
    """A tokenizer that pads on the left, and knows the places of images."""
    tokenizer = qwen_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(IMAGE.values())})
    tokenizer.chat_template, tokenizer.padding_side = CHAT, "left"
    return tokenizer


@cache
def processor_class() -> Any:
    """transformers' PixtralProcessor, which it loads beside torchvision alone, though text needs none."""
    from transformers.models.pixtral import image_processing_pil_pixtral

    sys.modules.setdefault(
        "transformers.models.pixtral.image_processing_pixtral", image_processing_pil_pixtral
    )
    path = Path(transformers.__file__).parent / "models" / "pixtral" / "processing_pixtral.py"
    name = "transformers.models.pixtral.processing_pixtral_alone"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PixtralProcessor


def with_processor(pipe: Any) -> Any:
    """The stock pipeline with the processor that its base names."""
    tokenizer = AutoTokenizer.from_pretrained(Path(pipe.config["_name_or_path"]) / "tokenizer")
    pipe.tokenizer = processor_class()(
        image_processor=PixtralImageProcessorPil(),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
        **IMAGE,
    )
    return pipe
