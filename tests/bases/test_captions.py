import pytest

from limner.bases.captions import (
    COLOURS,
    GROUNDS,
    LOOKS,
    OPAQUE_STYLES,
    WORDS,
    Appearance,
    caption,
    choose,
    one,
)

SEEDS = range(2000)


def test_choices_and_captions_are_functions_of_the_seed() -> None:
    assert [choose(seed) for seed in range(50)] == [choose(seed) for seed in range(50)]
    once = [caption("owl", "noto", choose(seed), seed) for seed in range(50)]
    assert once == [caption("owl", "noto", choose(seed), seed) for seed in range(50)]
    assert len(set(once)) > 30


def test_every_choice_comes_up() -> None:
    choices = [choose(seed) for seed in SEEDS]
    assert {each.look for each in choices} == set(LOOKS)
    assert {each.ground for each in choices} == set(GROUNDS)
    assert {each.colour for each in choices} == {None, *COLOURS}
    assert "navy" not in GROUNDS
    assert "blueprint" not in LOOKS


def test_what_is_varied_is_said() -> None:
    for seed in SEEDS:
        choice = choose(seed)
        text = caption("owl", "noto", choice, seed)
        if not text:
            continue
        assert "owl" in text
        if choice.colour:
            assert f"{choice.colour} owl" in text
        if choice.look != "none":
            assert any(said.format(tone=choice.tone) in text for said in WORDS[choice.look])
        if choice.look not in OPAQUE_STYLES and choice.ground != "white":
            assert f"{choice.ground} " in text
            assert "background" in text


def test_shares_of_empty_and_styleless_captions() -> None:
    texts = [caption("owl", "noto", choose(seed), seed) for seed in SEEDS]
    empty = sum(not text for text in texts) / len(texts)
    styled = sum("noto" in text for text in texts) / len(texts)
    assert 0.07 < empty < 0.13
    assert 0.80 < styled < 0.90


def test_strange_captions_differ_by_one_unknown_word_in_one_of_four() -> None:
    changed, nouns = 0, 0
    for seed in SEEDS:
        plain = caption("owl", "noto", choose(seed), seed)
        strange = caption("owl", "noto", choose(seed), seed, strange=True)
        assert bool(plain) == bool(strange)
        changed += plain != strange
        nouns += "owl" in plain and "owl" not in strange
    assert 0.19 < changed / len(SEEDS) < 0.27
    assert 0.02 < nouns / len(SEEDS) < 0.06


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        ("owl", "an owl"),
        ("blue owl", "a blue owl"),
        ("orange", "an orange"),
        ("unicorn", "a unicorn"),
        ("scissors", "scissors"),
        ("bus", "a bus"),
        ("cactus", "a cactus"),
    ],
)
def test_articles(thing: str, said: str) -> None:
    assert one(thing) == said


def test_a_white_ground_is_said_only_sometimes() -> None:
    texts = [caption("owl", "noto", Appearance(), seed) for seed in SEEDS]
    assert 0.15 < sum("white background" in text for text in texts) / len(texts) < 0.4
