import pytest

from limner.recipe import spellings


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
    tables = (spellings.ALWAYS, spellings.LIMITS_KEYS)
    answered += [name for table in tables for words in table.values() for name in words.split()]
    answered += [name for words in spellings.SYNONYMS.values() for name in words.split()]
    assert len(answered) == len(set(answered))


def test_answers_are_whole_sentences():
    for text in (*spellings.INSTEAD.values(), *spellings.ALWAYS):
        assert text.strip()[0].isupper()
        assert text.strip().endswith(".")
