import pytest

from limner.recipe import spellings
from limner.recipe.spellings import READERS, WORDS


@pytest.mark.parametrize("table", [spellings.ALIASES, spellings.SYNONYMS, spellings.ALWAYS])
def test_names_are_single_words_and_stand_once(table):
    names = [name for words in table.values() for name in words.split()]
    assert len(names) == len(set(names))
    assert all(name == name.strip("_.,-") for name in names)


@pytest.mark.parametrize("words", [spellings.PLANNER_KEYS, spellings.ABSENT, spellings.TABLES])
def test_lists_have_no_doubles(words):
    assert len(words.split()) == len(set(words.split()))


def test_no_name_is_answered_twice():
    answered = [*spellings.PLANNER_KEYS.split(), *spellings.ABSENT.split(), *spellings.INSTEAD]
    answered += [name for words in spellings.ALWAYS.values() for name in words.split()]
    answered += [name for words in spellings.SYNONYMS.values() for name in words.split()]
    assert len(answered) == len(set(answered))


def test_answers_are_whole_sentences():
    for text in (*spellings.INSTEAD.values(), *spellings.ALWAYS):
        assert text.strip()[0].isupper()
        assert text.strip().endswith(".")


@pytest.mark.parametrize("key", sorted(WORDS))
def test_words_of_ours_stay_as_they_are(key):
    ours = {
        "train.optimizer": ["adamw", "adamw8bit", "pagedadamw8bit", "adafactor", "prodigy", "schedulefree"],
        "train.schedule": [
            *("constant", "cosine", "linear"),
            *("cosine_with_restarts", "polynomial", "warmup_stable_decay"),
        ],
        "train.optimizer_args": [{"eps": 1e-6}],
        "train.loss": ["mse", "l1", "huber", "smooth_l1"],
        "lora.kind": ["lora", "loha", "lokr", "dora"],
        "train.time_density": ["auto", "logit-normal", "uniform", "sigmoid", "content", "style"],
        "train.prediction": ["auto", "epsilon", "v"],
        "train.method": ["lora", "full"],
        "data.crop": ["auto", "subject", "centre"],
        "slider.neutral": [("a house", "a cat")],
    }
    assert [WORDS[key](word) for word in ours[key]] == ours[key]
    assert WORDS[key](3) == 3


@pytest.mark.parametrize("spelling", sorted(READERS))
def test_a_value_of_another_kind_is_left_for_the_schema_to_refuse(spelling):
    assert READERS[spelling](3) == 3
