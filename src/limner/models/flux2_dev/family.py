"""FLUX.2 dev (Black Forest Labs 2025): klein's architecture at 32 billion weights, guidance-distilled.

Weights: black-forest-labs/FLUX.2-dev (FLUX Non-Commercial License, gated). The denoiser, its latents and its
reference images are klein's, but for an input that tells it of guidance. Text is three inner states of
Mistral Small (24 billion weights, a model of pictures and text of which the text alone runs), in a chat after
a system message. Oddities: its tokenizer comes inside a processor of images, for which transformers wants
torchvision; the tokenizer alone is read, and gives the same. Padding stands before the text, and the denoiser
reads it. Objective: diffusers, ``train_dreambooth_lora_flux2.py``, with times as for klein.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from limner.graph.unit import unit
from limner.models.family import Guidance
from limner.models.flux2.family import FAMILY as KLEIN
from limner.models.flux2_dev.facts import FACTS
from limner.nn import text

STATES = (10, 20, 30)
"""Inner states of the text encoder that are read; its pipeline's ``text_encoder_out_layers``."""
SYSTEM_MESSAGE = (
    "You are an AI that reasons about image descriptions. You give structured responses focusing on object "
    "relationships, object\nattribution and actions without speculation."
)
"""What the model was trained to read captions after; diffusers' ``system_messages.py``."""
IMAGE_TOKEN = "[IMG]"
"""The place of an image in a chat; a caption that holds it would ask for one."""


@unit("tokens", "token_mask", uses=("tokenizer",))
def tokenize(tokenizer: Any, caption: Sequence[str], *, text_length: int) -> tuple[Tensor, Tensor]:
    """B captions -> (B, text_length) token ids of the chats around them, and what of them is no padding."""
    chats = [
        [
            {"role": role, "content": [{"type": "text", "text": content}]}
            for role, content in (("system", SYSTEM_MESSAGE), ("user", line.replace(IMAGE_TOKEN, "")))
        ]
        for line in caption
    ]
    ask = {"add_generation_prompt": False, "tokenize": False}
    lines = [tokenizer.apply_chat_template(chat, **ask) for chat in chats]
    return text.padded_and_mask(tokenizer, lines, text_length, add_special_tokens=False)


@unit("context", uses=("text_encoder",))
def encode_text(text_encoder: Any, tokens: Tensor, token_mask: Tensor) -> Tensor:
    """(B, L) twice -> (B, L, 3 D)."""
    if token_mask.is_meta:  # there no mask can be looked into, to be made one for each query
        token_mask = token_mask[:, None, None].expand(-1, -1, tokens.shape[1], -1).bool()
    states = text_encoder.model.language_model(
        input_ids=tokens,
        attention_mask=token_mask,
        output_hidden_states=True,
        use_cache=False,
    ).hidden_states
    return torch.cat([states[number] for number in STATES], dim=-1)


FAMILY = replace(
    KLEIN,
    name=FACTS.name,
    pipeline=FACTS.pipeline,
    parts=FACTS.parts,
    units=(tokenize, encode_text, *KLEIN.units[2:]),
    model_spec=lambda _: ("Flux.2-dev", "flux2_dev"),
    guidance=Guidance(distilled=lambda _: True),
)
