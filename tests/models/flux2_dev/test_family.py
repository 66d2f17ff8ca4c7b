"""What is FLUX.2 dev's alone; the rest is in the contract."""

import diffusers.pipelines.flux2.system_messages as theirs
import pytest
import torch
from transformers import PixtralImageProcessorPil

from limner.models.bundled import known
from limner.models.family import Objective
from limner.models.flux2_dev.family import FAMILY, SYSTEM_MESSAGE, tokenize
from limner.models.presets import preset_name
from tiny_flux2_dev import CHAT, IMAGE, processor_class, tokenizer_of_mistral


def test_the_system_message_is_diffusers_own():
    assert SYSTEM_MESSAGE == theirs.SYSTEM_MESSAGE


@pytest.mark.parametrize("caption", ["a cat", "", "an [IMG] of a cat", "many words, " * 60])
def test_the_tokenizer_alone_reads_text_as_the_processor_does(caption: str):
    tokenizer = tokenizer_of_mistral()
    processor = processor_class()(
        image_processor=PixtralImageProcessorPil(), tokenizer=tokenizer, chat_template=CHAT, **IMAGE
    )
    chat = diffusers_chat(caption)
    full = {"padding": "max_length", "truncation": True, "max_length": 400, "return_tensors": "pt"}
    seen = processor.apply_chat_template([chat], tokenize=True, return_dict=True, **full)
    ids, mask = tokenize.function(tokenizer, (caption,), text_length=400)
    assert torch.equal(ids, seen["input_ids"]) and torch.equal(mask, seen["attention_mask"])


def diffusers_chat(caption: str):
    from diffusers.pipelines.flux2.pipeline_flux2 import format_input

    return format_input([caption])[0]


def test_guidance_is_told_to_the_denoiser_and_never_a_second_pass():
    source = known("flux2-dev")
    assert FAMILY.constants(source, Objective())["guidance"] == 1.0
    assert not FAMILY.has_negative_pass(source, 9.0)
    assert FAMILY.model_spec(source) == ("Flux.2-dev", "flux2_dev")


def test_its_hub_id_is_not_taken_for_klein():
    assert preset_name("black-forest-labs/FLUX.2-dev") == preset_name("someone/FLUX.2-dev-x") == "flux2-dev"
    assert preset_name("someone/flux.2-klein-x") == "flux2"
