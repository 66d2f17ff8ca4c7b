import pytest
import torch
from diffusers.loaders import TextualInversionLoaderMixin

import messages
from limner.errors import BadRecipe
from limner.lora.location import locate_base
from limner.models.loading import load
from limner.models.placeholder import NO_WORD, Placeholder
from limner.models.registry import family_of

BOTH = ("text_encoder", "text_encoder_2")


@pytest.fixture(params=["tokenizer", "tokenizer_2"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def tokenizer(name: str):
    source = locate_base("glyph")
    return load(family_of("FluxPipeline"), source, name, dtype=torch.float32, device=torch.device("cpu"))


def test_a_word_of_several_vectors_is_written_out_as_in_diffusers(name: str):
    word = Placeholder("<mimo>", 3, BOTH)
    assert word.tokens == ("<mimo>", "<mimo>_1", "<mimo>_2")
    taught = word.taught(name, tokenizer(name))
    first = word.first(taught)
    for text in ("a <mimo> cat", "<mimo>, in the style of <mimo>", "a cat"):
        written = TextualInversionLoaderMixin._maybe_convert_prompt(None, text, taught._tokenizer)  # pyright: ignore
        assert taught(text).input_ids == taught._tokenizer(written).input_ids
        assert taught([text]).input_ids == [taught(text).input_ids]
    ids = taught("a <mimo> cat").input_ids
    assert [first + n for n in range(3)] == [n for n in ids if n >= first]
    assert taught("a cat").input_ids == tokenizer(name)("a cat").input_ids


def test_captions_with_the_word_in_any_case_may_hold_it():
    word = Placeholder("Mimo", 1, BOTH)
    assert word.stands_in("a mimo") and word.stands_in("MIMO") and not word.stands_in("a cat")
    assert not NO_WORD.stands_in("") and NO_WORD.taught("tokenizer", None) is None


def test_only_tokenizers_of_encoders_with_vectors_learn_it():
    word = Placeholder("<mimo>", 1, ("text_encoder_2",))
    assert word.knows("tokenizer_2") and not word.knows("tokenizer")
    assert not word.knows("text_encoder_2") and not word.knows("vae")


def test_a_word_that_a_tokenizer_has_already_is_refused():
    for word in ("cat", "<|endoftext|>"):
        with messages.raises(BadRecipe):
            Placeholder(word, 1, BOTH).taught("tokenizer", tokenizer("tokenizer"))
