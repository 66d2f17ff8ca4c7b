import pytest

from limner.captions.spec import STYLES, CaptionSpec
from limner.captions.validators import find_fault, without_opening

PLAIN = CaptionSpec()
STYLE = CaptionSpec(concept_type="style", trigger="inkwash")
BRIEF = CaptionSpec(style=STYLES["brief"])
FINE = "A grey dog runs over wet sand towards the sea, seen from the side, under low clouds."


@pytest.mark.parametrize(
    "text",
    [
        FINE,
        "I ♥ NY stands on a mug beside a keyboard on a white desk in bright light.",
        "A photo of a lighthouse hangs over a brown sofa in a small room with one lamp.",
        "The picture frame on the wall is empty, and below it stands a table with two chairs.",
        'A woman holds up a sign that says "sorry" on a crowded square in the rain.',
        "Здесь кот сидит на стуле у окна, утренний свет падает на пол и на стену.",
    ],
)
def test_captions_are_taken(text):
    assert find_fault(text, PLAIN) == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("  ...  ", "empty"),
        ("I’m sorry, I can’t help with that.", "refusal"),
        ("I'm unable to identify the person in this photo.", "refusal"),
        ("Sorry, but that is not something I can describe.", "refusal"),
        ("Unfortunately, I cannot see the image that you uploaded.", "refusal"),
        ("As an AI language model, I have no eyes.", "refusal"),
        ("A person. I cannot identify who this is from the picture.", "refusal"),
        ("I apologize, but no caption can be given for it.", "refusal"),
        ("This image shows a grey dog on a beach.", "opens with 'This image shows'"),
        ("The picture of a grey dog on a beach.", "opens with"),
        ("The photograph depicts a grey dog on a beach.", "opens with"),
        ("In this picture, a grey dog runs on a beach.", "opens with"),
        ("An image of a grey dog on a beach at noon.", "opens with"),
        ("Here is a caption: a grey dog on a beach.", "opens with"),
        ("Sure! A grey dog on a beach in the morning.", "opens with"),
        ("Caption: a grey dog on a beach in the morning.", "opens with"),
        ("**Dog**: a grey one on a beach in the morning.", "markup"),
        ("- a grey dog on a beach in the morning light", "markup"),
        ('["a grey dog on a beach in the morning"]', "markup"),
        ("A grey dog on a beach with a red ball and", "breaks off"),
        ("A grey dog on a beach with a red ball, the", "breaks off"),
        ("A grey dog on a beach with a red ball...", "breaks off"),
        ("a cat on a mat " * 5, "repeats itself"),
        ("word " * 141, "repeats itself"),
        (" ".join(f"w{n}" for n in range(141)), "141 words; at most 70"),
        ("Dog.", "1 words; at least 15"),
        ("x" * 9000, "9000 characters"),
    ],
)
def test_what_is_no_caption_is_told(text, reason):
    assert reason in find_fault(text, PLAIN)


def test_the_trigger_stands_once_or_twice():
    wish = CaptionSpec(trigger="sks cat")
    assert find_fault(f"SKS cat. {FINE}", wish) == ""
    assert "lacks the name" in find_fault(f"sks cats. {FINE}", wish)
    assert "more than twice" in find_fault(f"sks cat, sks cat, sks cat. {FINE}", wish)


@pytest.mark.parametrize(
    "text",
    [
        "a cat in the style of inkwash",
        "a cat, inkwash",
        "a stylized cat on a chair",
        "A cat in a flat art style there.",
    ],
)
def test_a_style_is_not_named(text):
    assert "names the style" in find_fault(f"{text} under a tree beside a house with two doors", STYLE)


def test_styles_have_their_own_lengths():
    assert find_fault("cat", BRIEF) == ""
    assert "29 words; at most 14" in find_fault(" ".join(f"w{n}" for n in range(29)), BRIEF)
    assert find_fault("1girl, solo, smile, looking at", CaptionSpec(style=STYLES["tags"])) == ""


def test_openings_can_be_taken_away():
    assert without_opening("The image shows a cat  on a mat.") == "A cat on a mat."
    assert without_opening("In this picture we can see two cats.") == "Two cats."
    assert without_opening("a cat on a mat") == "a cat on a mat"


@pytest.mark.parametrize(
    "text",
    [
        "sks cat, I'm sorry, but I can't describe this image.",
        "sks cat: I cannot help with that request, please choose another picture.",
        "Sks Cat. Unfortunately, I am not able to see any image here at all today.",
    ],
)
def test_a_refusal_behind_the_trigger_is_a_refusal(text):
    assert "refusal" in find_fault(text, CaptionSpec(trigger="sks cat"))
