from collections import Counter
from pathlib import Path

import pytest
from transformers import CLIPTokenizer, T5TokenizerFast

from limner.bases import vocabulary
from limner.bases.art import nouns
from limner.bases.vocabulary import SIZE, byte_pairs, sentences


@pytest.fixture(scope="module")
def clip() -> CLIPTokenizer:
    return vocabulary.clip_tokenizer()


@pytest.fixture(scope="module")
def t5() -> T5TokenizerFast:
    return vocabulary.t5_tokenizer()


def test_byte_pairs_join_the_commonest_first() -> None:
    assert byte_pairs(Counter({"ab": 3, "abc": 1}), 9) == [("a", "b</w>"), ("a", "b"), ("ab", "c</w>")]


def test_sizes_and_special_tokens(clip: CLIPTokenizer, t5: T5TokenizerFast) -> None:
    assert max(clip.get_vocab().values()) < SIZE
    assert max(t5.get_vocab().values()) < SIZE
    assert clip("").input_ids == [0, 1]
    assert t5("").input_ids == [1]
    assert clip("owl", padding="max_length").input_ids[3:] == [1] * 74
    assert t5("owl", padding="max_length", max_length=5, truncation=True).input_ids[2:] == [0, 0, 0]


def test_every_noun_is_one_token_a_word(clip: CLIPTokenizer, t5: T5TokenizerFast) -> None:
    for noun in nouns():
        assert len(t5.tokenize(noun)) == len(noun.split())
        if "-" not in noun:
            assert len(clip.tokenize(noun)) == len(noun.split())


@pytest.mark.parametrize("trigger", ["zorbix", "sks", "mlnr", "qwmple"])
def test_triggers_fall_into_known_pieces(clip: CLIPTokenizer, t5: T5TokenizerFast, trigger: str) -> None:
    assert len(clip.tokenize(trigger)) > 1
    assert len(t5.tokenize(trigger)) > 1
    assert t5.unk_token_id not in t5(trigger).input_ids


def test_captions_fit_and_are_all_known(clip: CLIPTokenizer, t5: T5TokenizerFast) -> None:
    texts = list(sentences())
    assert max(len(ids) for ids in clip(texts).input_ids) <= 20
    ids = t5(texts).input_ids
    assert max(map(len, ids)) <= 20
    assert not any(t5.unk_token_id in each for each in ids)


def test_any_text_can_be_read_by_clip(clip: CLIPTokenizer) -> None:
    ids = clip("É 猫 € Owl").input_ids
    assert len(ids) > 6
    assert ids[-2:] == clip("owl").input_ids[-2:]


def test_saved_tokenizers_read_alike(clip: CLIPTokenizer, t5: T5TokenizerFast, tmp_path: Path) -> None:
    clip.save_pretrained(tmp_path / "tokenizer")
    t5.save_pretrained(tmp_path / "tokenizer_2")
    texts = list(sentences())[:300]
    assert CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")(texts).input_ids == clip(texts).input_ids
    assert T5TokenizerFast.from_pretrained(tmp_path / "tokenizer_2")(texts).input_ids == t5(texts).input_ids
