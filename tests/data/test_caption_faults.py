import hypothesis
import hypothesis.strategies as st
import pytest

from limner.data.caption_faults import caption_fault, refuses

JUNK = [
    "I'm sorry, but I can't help with that request.",
    "As an AI language model I cannot identify people.",
    "I\u2019m unable to describe this image.",
    "```json",
    "```",
    '{"caption": "a red cat"}',
    "{'caption': 'a red cat'}",
    "['a tabby cat', 'photo 0']",
    '["a tabby cat"]',
    "**Caption:** a red cat",
    "Here is the caption: a red cat",
    "Caption: a red cat",
    "Sure! A red cat on a mat.",
    "<think>The picture shows a cat.</think> a red cat",
    "a cat <|im_end|>",
    "1. a cat",
    "# A cat",
    *("None", "nan", "null", "NaN", "N/A", "undefined", "<NA>", "none.", "No caption"),
]
PROSE = [
    "a tabby cat looking at the camera",
    "A woman in an orange suit, smiling; behind her, a flag (blue and red).",
    "1girl, long_hair, looking_at_viewer, :d, ^_^",
    "sks cat, 3 dogs and 1 man",
    'the word "NONE" on a wall',
    "a sign that says 50% off",
    "nonexistent, nan bread on a plate",
    "a cat's 'toy'",
    "sorry-looking dog in the rain",
    "a break in the clouds",
    "这是小猫在沙发上",
    "a family \N{MAN}\u200d\N{WOMAN}\u200d\N{GIRL}",
    "ratio 16:9, f/1.8",
    "AT&T tower & co",
    "C:\\new folder",
]


@pytest.mark.parametrize("text", JUNK)
@pytest.mark.parametrize("trigger", ["", "zxq"])
def test_what_describes_no_picture_is_found(text, trigger):
    for caption in (text, f"{trigger}, {text}" if trigger and text[0] not in "#1" else text):
        fault = caption_fault(caption, trigger)
        assert fault is not None and fault.kind == "no-description", caption


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(masterpiece:1.3), [blurry], a cat", "weights such as (word:1.3)"),
        ("a cat <lora:foo:0.8>", "a LoRA call"),
        ("a {red|blue} cat", "wildcards"),
        ("a __colour__ cat", "wildcards"),
        ("a cat BREAK a dog", "BREAK"),
        ("a cat &amp; a dog &#39;x&#39;", "entities"),
        ("a cat\\na dog", "backslashes"),
        ("saber \\(fate\\)", "backslashes"),
        ('"a cat, sitting"', "quotes around it"),
        ("[name] at home", "the placeholder [name]"),
        ("photo of [filewords]", "the placeholder [filewords]"),
        ("<trigger> runs", "the placeholder <trigger>"),
        ("TOK eats", "the placeholder TOK"),
        ("%trigger% swims", "the placeholder %trigger%"),
        ("a cat\x1a", "characters that show nothing in it (U+001A)"),
        ("a \x1b[31mred\x1b[0m cat", "(U+001B)"),
        ("a\u200b\ufeffcat", "(U+200B, U+FEFF)"),
    ],
)
def test_what_is_read_as_words_is_found(text, words):
    fault = caption_fault(text)
    assert fault is not None and fault.kind == "syntax" and words in fault.reason


@pytest.mark.parametrize("text", PROSE)
def test_prose_and_tags_are_no_fault(text):
    assert caption_fault(text) is None


def test_what_the_trigger_itself_holds_is_no_fault():
    assert caption_fault("TOK cat, sitting", "TOK cat") is None
    assert caption_fault("<s1> cat", "<s1>") is None


@hypothesis.given(st.text(st.characters(categories=["L", "N", "Zs"], max_codepoint=0x24F), max_size=40))
def test_letters_and_digits_alone_are_no_syntax(text):
    fault = caption_fault(f"a cat {text}")
    assert fault is None or fault.kind == "no-description"


@hypothesis.given(
    st.sampled_from(JUNK[:3]), st.sampled_from([" ", "  ", "\n", "\t"]), st.sampled_from([", ", ": "])
)
def test_refusals_are_found_behind_a_trigger_and_white_space(text, space, separator):
    assert refuses(f"zxq{separator}{space}{text}", "zxq")
