import pytest

from limner.captions.answer import Captions, Edited, Malformed, read, schema

JSON = '{"captions": ["a cat"]}'


@pytest.mark.parametrize("text", [JSON, f"```json\n{JSON}\n```", f"Here: {JSON} Enjoy!"])
def test_json_is_found_in_what_is_around_it(text):
    assert read(Captions, text).captions == ["a cat"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "it is empty"),
        ("a cat", "not the JSON object"),
        ('{"captions": ["a', "broken or breaks off"),
        ('{"captions": "a cat"}', "captions: input should be a valid list"),
        ('{"captions": [1]}', "captions.0: input should be a valid string"),
        ('{"captions": [], "more": 1}', "more: extra inputs"),
        ("{" * 90_000, "broken"),
        ("x" * 100_001, "100001 characters"),
    ],
)
def test_what_is_none_is_told(text, match):
    with pytest.raises(Malformed, match=match):
        read(Captions, text)


def test_an_empty_caption_is_a_flaw_and_no_fault_of_form():
    assert read(Captions, '{"captions": [""]}').captions == [""]
    with pytest.raises(Malformed, match=r"words.0.use: string should have at least 1"):
        read(Edited, '{"words": [{"use": "", "instead_of": []}], "captions": []}')


def test_the_schema_is_what_strict_servers_take():
    """Every object closed and complete, and no bounds."""

    def objects(node):
        if isinstance(node, dict):
            if node.get("type") == "object":
                yield node
            for item in node.values():
                yield from objects(item)
        elif isinstance(node, list):
            for item in node:
                yield from objects(item)

    for kind in (Captions, Edited):
        whole = schema(kind)
        assert "minLength" not in str(whole)
        for one in objects(whole):
            assert one["additionalProperties"] is False
            assert sorted(one["required"]) == sorted(one["properties"])


@pytest.mark.parametrize(
    "text",
    [
        f"<think>The set {{is}} of cats.</think>\n{JSON}",
        f'<thinking>{{"captions": ["a draft"]}}</thinking>{JSON}',
        f"The set {{is}} of cats.</think>{JSON}",
        f"<THINK>\na\n</THINK> Here: {JSON}",
    ],
)
def test_reasoning_before_an_answer_is_dropped(text):
    assert read(Captions, text).captions == ["a cat"]


def test_reasoning_that_never_ends_is_no_answer():
    with pytest.raises(Malformed, match="it is empty"):
        read(Captions, f"<think>perhaps {JSON}")
