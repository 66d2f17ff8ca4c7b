import json

import pytest

from limner.captions.client import Declined, Patience, Reply
from limner.captions.consistency import Member, make_consistent, set_findings, shared_opening, shared_words
from limner.captions.prompt_image import PromptImage
from limner.captions.spec import STYLES, CaptionSpec

WISH = CaptionSpec(trigger="sks cat", style=STYLES["phrases"])
BAD = {
    "1.jpg": "sks cat, a fluffy orange tabby, lying on a couch, living room, warm light",
    "2.jpg": "sks cat, a fluffy orange tabby, sitting on a sofa by a window, daylight",
    "3.jpg": "a fluffy orange tabby curled up on a settee, grey cushions, evening",
    "4.jpg": "sks cat, a fluffy orange tabby, standing on grass, garden fence behind",
    "5.jpg": "sks cat, sks cat, a fluffy orange tabby cat looking at sks cat in a mirror",
}
"""Recorded: what single looks at five photographs gave, with every fault that the set pass is there for."""
MENDED = {
    "1.jpg": "sks cat lying on a sofa, living room, warm light",
    "2.jpg": "by a window in daylight, sks cat sits on a sofa",
    "3.jpg": "sks cat curled up on a sofa, grey cushions, evening",
    "4.jpg": "sks cat, standing on grass, garden fence behind",
    "5.jpg": "sks cat looking into a mirror, close view",
}
WORDS = [{"use": "sofa", "instead_of": ["couch", "settee"]}]
LOOK = {file: PromptImage(file.encode(), 8, 8) for file in BAD}


def members(texts=BAD, fixed=()):
    return [Member(file, (text,), is_fixed=file in fixed) for file, text in texts.items()]


class Editor:
    """Answers by the file that each picture is of."""

    name = model = destination = "editor"
    parallel, several, takes = 1, True, "json"

    def __init__(self, *books, words=WORDS):
        self.books = list(books)
        self.words = words
        self.requests = []

    def ask(self, request):
        self.requests.append(request)
        book = self.books.pop(0) if len(self.books) > 1 else self.books[0]
        if isinstance(book, Exception):
            raise book
        if isinstance(book, Reply):
            return book
        entries = [
            {"id": int(label.strip("Image :")), "captions": [book[seen.jpeg.decode()]]}
            for label, seen in zip(request.labels, request.images, strict=True)
            if seen.jpeg.decode() in book
        ]
        text = json.dumps({"words": self.words, "captions": entries})
        return Reply(text=text, model="editor-1", tokens_in=50, tokens_out=5)

    def close(self):
        pass


def run(editor, these, wish=WISH, known=None):
    look = lambda file: LOOK.get(file) or PromptImage(file.encode(), 8, 8)  # noqa: E731
    return list(make_consistent(editor, wish, these, Patience(first=0.0), known or {}, look))


def test_the_bad_set_is_told_by_counting():
    told = "\n".join(set_findings(members(), WISH))
    assert "nearly all captions say fluffy, orange, tabby" in told
    assert "more than half of the captions open with 'sks cat, a fluffy'" in told
    assert "'sks cat' is missing in 3.jpg" in told
    assert "more than once in 5.jpg" in told
    assert set_findings(members(MENDED), WISH) == []
    assert set_findings(members()[:3], CaptionSpec()) == []


def test_the_bad_set_is_mended():
    editor = Editor(MENDED)
    (done,) = run(editor, members())
    assert done.captions == {file: (text,) for file, text in MENDED.items()}
    assert (done.words, done.flags, done.requests, done.model) == (
        {"sofa": ["couch", "settee"]},
        {},
        1,
        "editor-1",
    )
    question = editor.requests[0]
    assert "fluffy, orange, tabby" in question.text
    assert [seen.jpeg.decode() for seen in question.images] == list(BAD)
    assert question.labels[0] == "Image 1:"
    assert all(json.dumps({"id": n, "captions": [t]}) in question.text for n, t in enumerate(BAD.values(), 1))


def test_what_breaks_the_rules_is_asked_again_alone_and_then_left():
    worse = MENDED | {
        "1.jpg": "sks cat lying on a couch, living room, warm light",
        "4.jpg": "a cat standing on grass, garden fence behind",
    }
    editor = Editor(worse, worse | {"1.jpg": MENDED["1.jpg"]})
    (done,) = run(editor, members())
    assert [seen.jpeg.decode() for seen in editor.requests[1].images] == ["1.jpg", "4.jpg"]
    assert "caption 1: it says 'couch' where 'sofa' was agreed on" in editor.requests[1].text
    assert done.captions["1.jpg"] == (MENDED["1.jpg"],)
    assert "4.jpg" not in done.captions
    assert "lacks the name 'sks cat'" in done.flags["4.jpg"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Reply(text="no json", model="m"), "not the JSON object"),
        (Reply(text="{", model="m", cut=True), "cut off"),
        (Reply(text="", model="m", refusal="the model refused"), "the model refused"),
        (Reply(text='{"words": [], "captions": []}', model="m"), "0 different texts; 1 are wanted"),
        (Declined("too large"), "too large"),
    ],
)
def test_an_answer_that_is_none_changes_nothing(answer, reason):
    (done,) = run(Editor(answer), members())
    assert done.captions == {}
    assert set(done.flags) == set(BAD)
    assert reason in done.flags["1.jpg"]


def test_hand_written_captions_are_shown_and_not_changed():
    editor = Editor(MENDED)
    (done,) = run(editor, members(fixed={"2.jpg"}))
    assert "2.jpg" not in done.captions
    assert BAD["2.jpg"] in editor.requests[0].text.split("To edit:")[0]
    assert BAD["2.jpg"] not in editor.requests[0].text.split("To edit:")[1]
    assert run(Editor(MENDED), members(fixed=set(BAD))) == []


def test_large_sets_go_in_portions_that_bind_the_later_ones():
    many = {
        f"{n:02d}.jpg": f"sks cat number{n} on thing{n}, place{n}, hour{n}, side{n}, view{n}"
        for n in range(45)
    }
    editor = Editor(many)
    done = run(editor, members(many), known={"rug": ["carpet"]})
    assert [len(one.captions) for one in done] == [20, 20, 5]
    assert '{"rug": ["carpet"]}' in editor.requests[0].text
    assert '"sofa": ["couch", "settee"]' in editor.requests[1].text
    assert "number3 on" in editor.requests[1].text
    assert [len(one.images) for one in editor.requests] == [20, 20, 5]


def test_a_styles_trigger_is_taken_off_before_and_put_on_after():
    wish = CaptionSpec(concept_type="style", trigger="inkwash", style=STYLES["phrases"])
    texts = {"1.jpg": "fox in a forest beside a stream at night, inkwash"}
    editor = Editor({"1.jpg": "a fox in a wood beside a stream at night"}, words=[])
    (done,) = run(editor, members(texts), wish)
    assert '["fox in a forest beside a stream at night"]' in editor.requests[0].text
    assert done.captions == {"1.jpg": ("a fox in a wood beside a stream at night, inkwash",)}


def test_counting_needs_a_set():
    assert shared_words(["a red cat"] * 3, WISH) == []
    assert shared_words(["a red sks cat"] * 4, WISH) == ["red"]
    assert shared_opening(["sks cat on a mat"] * 3 + ["no"], WISH) == "sks cat on a"
    assert shared_opening(["sks cat on", "a sks cat", "two", "three"], WISH) == ""
