import json
from datetime import date, timedelta
from pathlib import Path

import pytest

import limner.captions.price as module
from limner.captions.price import Price, age_note, dollars, price_of, source, tokens_of
from limner.captions.providers import anthropic, openai


def test_prices_are_data_with_source_and_date():
    table = json.loads((Path(module.__file__).parent / "prices.json").read_text())
    assert table["source"] in source()
    assert table["date"] in source()
    assert len(table["models"]) > 30
    assert all(0 < read <= written for read, written in table["models"].values())


def test_the_usual_models_have_prices():
    assert price_of(anthropic.MODEL) == Price(2.0, 10.0)
    assert price_of(openai.MODEL) == Price(1.0, 5.0)


def test_dated_names_are_the_same_model_and_unknown_ones_none():
    assert price_of("claude-sonnet-4-5-20250929") == price_of("claude-sonnet-4-5")
    assert price_of("gpt-5.4-2026-03-05") == price_of("gpt-5.4")
    assert price_of("gpt-4o-2024-05-13") == Price(5.0, 15.0)
    assert price_of("llava") is None
    assert price_of("claude-sonnet-4-5-mine") is None


def test_money_is_told():
    assert Price(2.0, 10.0).of(1_000_000, 100_000) == pytest.approx(3.0)
    assert [dollars(one) for one in (0.034, 0.0004, 0.0, None)] == [
        "$0.03", "less than $0.01", "$0.00", "an unknown price"
    ]  # fmt: skip
    assert tokens_of(400, 750 * 1000) == 1100


def test_an_old_list_of_prices_is_said_to_be_old():
    first = date.fromisoformat(
        json.loads((Path(module.__file__).parent / "prices.json").read_text())["date"] + "-01"
    )
    assert age_note(first + timedelta(days=90)) == ""
    assert age_note(first + timedelta(days=91)) == ", 91 days old: look at the maker's price list"
