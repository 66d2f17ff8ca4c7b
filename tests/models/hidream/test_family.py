"""What is HiDream-I1's alone; the rest is in the contract."""

from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from limner.models.bundled import known
from limner.models.family import Objective, SamplingParams
from limner.models.hidream.family import CLIP_TOKENS, FAMILY, tokenize, tokenize_4
from limner.models.registry import twin_of
from tiny import clip_tokenizer
from tiny_hidream import llama_tokenizer

BASES = {"hidream-i1-full": (3.0, 5.0), "hidream-i1-dev": (6.0, 0.0), "hidream-i1-fast": (3.0, 0.0)}
PARAMS = SamplingParams(width=32, height=32, steps=2)


@pytest.mark.parametrize("name", BASES)
def test_times_are_shifted_as_each_samples_and_few_steps_want_no_guidance(name: str):
    shift, guidance = BASES[name]
    assert FAMILY.constants(known(name), Objective())["time_shift"] == shift
    assert FAMILY.pipeline_kwargs(known(name), PARAMS)["guidance_scale"] == guidance
    assert FAMILY.has_negative_pass(known(name), None) == (guidance > 0)
    assert FAMILY.pipeline_kwargs(known(name), replace(PARAMS, guidance=2.5))["guidance_scale"] == 2.5


def test_the_distilled_ones_are_twins_of_the_full_one():
    assert (twin_of("hidream-i1-full") or twin_of("")).name == "hidream-i1-dev"  # pyright: ignore
    for name in ("hidream-i1-dev", "HiDream-ai/HiDream-I1-Fast"):
        twin = twin_of(name)
        assert twin is not None and twin.name == "hidream-i1-full"


def test_clip_gets_at_most_as_many_tokens_as_the_pipeline_gives_it():
    seen = tokenize.bind(text_length=400).run({"tokenizer": clip_tokenizer()}, {"caption": ("a cat",)})
    assert seen["clip_tokens"].shape == (1, CLIP_TOKENS)


def test_llama_is_padded_with_its_end():
    tokenizer = llama_tokenizer()
    assert isinstance(tokenizer, PreTrainedTokenizerFast) and tokenizer.pad_token is None
    seen = tokenize_4.bind(text_length=5).run({"tokenizer_4": tokenizer}, {"caption": ("a",)})
    assert seen["llama_tokens"].tolist()[0][2:] == [tokenizer.eos_token_id] * 3
    assert torch.equal(seen["llama_mask"], torch.tensor([[1, 1, 0, 0, 0]]))


def test_by_itself_a_lora_trains_no_expert_that_tokens_choose():
    endings = FAMILY.endings("transformer", "auto")
    assert not any("ff_i.experts" in ending for ending in endings)
    assert set(FAMILY.endings("transformer", "experts")) - set(endings) == {
        f"ff_i.experts.*.w{n}" for n in (1, 2, 3)
    }
