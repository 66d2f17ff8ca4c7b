import base64
import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

from limner.captions.caption import caption
from limner.captions.client import Patience
from limner.captions.summary import CaptionSettings
from limner.errors import BadProvider
from messages import raises
from scribe import KEY, Raw, Say, Status, answers, captions, serving
from small import Told
from waiting import LONGEST
from writing import GOOD, LONG, PROTOCOLS, WISH, options, rows, write

# what is not taken for a caption ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (captions("I'm sorry, but I can't help with identifying people in images."), "a refusal"),
        (captions(f"This image shows {GOOD}"), "opens with 'This image shows'"),
        (captions(""), "it is empty"),
        (captions("   "), "it is empty"),
        (
            captions("A cat sits on a wooden chair beside a window with a blue curtain."),
            "lacks the name 'sks cat'",
        ),
        (captions("sks cat sits on a wooden chair beside a window with a blue curtain and"), "breaks off"),
        (captions(GOOD, GOOD + " Again."), "2 different captions; 1 are wanted"),
        (Say('{"captions": ["sks cat sits'), "broken or breaks off"),
        (Say('{"caption": "sks cat"}'), "of another form"),
        (Say("Sorry, I cannot do that."), "a refusal"),
        (Say("sks cat sits on a chair"), "not the JSON object"),
        (Say(""), "it is empty"),
        (Say(captions(GOOD).text, end="length"), "cut off"),
        (Say(captions(LONG).text), "words; at most 70"),
        (Say("", end="content_filter"), "content filter"),
        (Say("", refusal="I will not."), "the model refused"),
        (Status(400, "filtered", kind="content_filter"), "content filter"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_answer_is_asked_again_with_the_reason(pets, bad, reason, stream):
    for name in "abc":
        (pets / f"{name}.png").unlink()
    with serving(answers(bad, captions(GOOD))) as scribe:
        done = write(pets, scribe, stream=stream)
    assert (done.new_captions, len(scribe.requests)) == (1, 2)
    assert reason in scribe.requests[1].text
    assert reason in rows(pets)["photo.jpg"]["set_aside"][0]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("bad", "reason"),
    [(Say("", end="refusal"), "the model refused"), (Say(captions(GOOD).text, end="max_tokens"), "cut off")],
)
def test_claude_says_refusals_and_truncation_in_its_own_way(pets, bad, reason, stream):
    with serving(answers(bad, captions(GOOD))) as scribe:
        write(
            pets,
            scribe,
            name="claude",
            model="m",
            stream=stream,
            settings=CaptionSettings(concurrency=1, consistency=False),
        )
    assert reason in scribe.requests[1].text
    assert scribe.requests[1].body["max_tokens"] == (2048 if "max_tokens" in bad.end else 1024)


def test_what_is_always_refused_is_flagged_and_the_others_are_written(pets):
    red = np.zeros((48, 64, 3), np.uint8)
    Image.fromarray(red + np.uint8([255, 0, 0])).save(pets / "red.png")

    def script(asked, _):
        seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(asked.images[0])))).mean((0, 1))
        return captions("I cannot describe this image.") if seen[0] > 200 and seen[1] < 50 else captions(GOOD)

    with serving(script) as scribe:
        done = write(pets, scribe)
        assert done.new_captions == 4
        assert [one["file"] for one in done.failures] == ["red.png"]
        assert "no usable caption in 3 answers" in done.failures[0]["reason"]
        assert not (pets / "red.txt").exists()
        assert "refusal" in rows(pets)["red.png"]["flag"]
        before = len(scribe.requests)
        again = write(pets, scribe)
    assert (again.existing_captions, len(scribe.requests) - before, len(again.failures)) == (4, 3, 1)


def test_a_damaged_image_stops_nobody(pets):
    (pets / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    with serving(answers(captions(GOOD))) as scribe:
        done = write(pets, scribe)
    assert done.new_captions == 4
    assert done.failures[0]["file"] == "broken.png"


def test_a_name_that_is_never_written_is_put_in_front_and_noted(pets):
    bare = "A cat sits on a wooden chair beside a window with a blue curtain in the morning."
    with serving(answers(captions(bare))) as scribe:
        done = write(pets, scribe)
    assert done.new_captions == 4
    assert (pets / "a.txt").read_text() == f"sks cat, {bare}\n"
    assert "put in front" in rows(pets)["a.png"]["note"]


# servers that fail -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "stream"), PROTOCOLS)
@pytest.mark.parametrize(
    "trouble",
    [
        Status(429, "slow down", {"retry-after": "0.2"}),
        Status(429, "slow down", {"retry-after-ms": "200"}),
        Status(429, "slow down"),
        Status(500, "broken"),
        Status(503, "busy"),
        Status(529, "overloaded", kind="overloaded_error"),
        Raw(b"{nonsense"),
        Raw(b"<html>a proxy</html>", "text/html"),
        Raw(b'{"captions": []}'),
        Raw(b'{"id": "x", "choices"', length=10_000),
        Say("never", pause=3600),
    ],
    ids=lambda step: f"{step.__class__.__name__}-{getattr(step, 'code', '')}{getattr(step, 'headers', '')}",
)
def test_trouble_is_waited_out(pets, name, stream, trouble):
    for one in "abc":
        (pets / f"{one}.png").unlink()
    mute = isinstance(trouble, Say)  # the answer after it must come within the same second
    with serving(answers(*[trouble] * (1 if mute else 2), captions(GOOD))) as scribe:
        started = time.monotonic()
        done = write(pets, scribe, name=name, stream=stream, model="m", timeout=1 if mute else 60)
        took = time.monotonic() - started
    assert (done.new_captions, len(scribe.requests)) == (1, 2 if mute else 3)
    if isinstance(trouble, Status) and trouble.headers:
        gaps = np.diff([asked.at for asked in scribe.requests])
        assert min(gaps) >= 0.19
        assert took < 60  # as seconds, the 200 milliseconds would be 400


def test_a_limit_holds_for_all_threads(pets):
    """Nobody asks while the server wants rest, not even threads that it has not told."""

    def script(asked, number):
        if number == 0:
            return Status(429, "slow down", {"retry-after": "0.5"})
        assert number != 1 or told.wait(LONGEST)
        return captions(GOOD)

    def rest(seconds):
        told.set()
        time.sleep(seconds)

    told = threading.Event()
    with serving(script) as scribe:
        settings = CaptionSettings(concurrency=2, consistency=False)
        caption(pets, WISH, options(scribe), settings, Told(), Patience(sleep=rest))
    at = [asked.at for asked in scribe.requests]
    early = sum(later - at[0] < 0.45 for later in at[1:])
    assert early <= 1  # what the other thread had begun already
    assert len(at) == 5


def test_a_server_that_wants_hours_is_given_up_and_says_so(pets):
    with (
        serving(answers(Status(429, "quota", {"retry-after": "7200"}))) as scribe,
        raises(BadProvider) as caught,
    ):
        caption_many(pets, scribe)
    assert "Run the same command again" in str(caught.value)


def caption_many(folder, scribe):
    for number in range(6):
        Image.new("RGB", (20, 20), (number * 20, 0, 0)).save(folder / f"more{number}.png")
    return write(folder, scribe, settings=CaptionSettings(concurrency=1, consistency=False))


def test_images_that_all_fail_alike_end_the_work(pets):
    with (
        serving(answers(Status(400, "images are not supported"))) as scribe,
        raises(BadProvider),
    ):
        caption_many(pets, scribe)
    assert len(scribe.requests) < 10


@pytest.mark.parametrize("name", ["claude", "openai"])
@pytest.mark.parametrize(
    ("status", "match"),
    [
        (Status(401, f"Incorrect API key provided: {KEY}"), r"refused \(401\).*\[key\].*Check"),
        (Status(403, "not for you"), "refused .403.: not for you"),
        (Status(404, "model: no-such-model"), "refused .404.: model: no-such-model.*--model"),
        (Status(429, "You exceeded your quota", kind="insufficient_quota"), "refused .429.: You exceeded"),
    ],
)
def test_a_bad_key_or_model_ends_the_work_at_once(pets, name, status, match):
    with serving(answers(status)) as scribe, pytest.raises(BadProvider, match=match) as caught:
        write(pets, scribe, name=name, model="m", settings=CaptionSettings(concurrency=1, consistency=False))
    assert len(scribe.requests) == 1
    assert KEY not in str(caught.value)


def test_nobody_there_is_told_with_the_address(pets):
    with serving(answers(captions(GOOD))) as scribe:
        pass
    with pytest.raises(BadProvider, match=r"127\.0\.0\.1:\d+ cannot be reached.*tries.*Check the address"):
        write(pets, scribe, tries=2, model="m")


def test_a_huge_answer_is_not_read(pets):
    for one in "abc":
        (pets / f"{one}.png").unlink()
    with serving(answers(Say("x" * 3_000_000))) as scribe:
        done = write(pets, scribe)
        assert "3000" in done.failures[0]["reason"]
        done = write(pets, scribe, stream=True)
    assert "cut off" in done.failures[0]["reason"]


def test_a_server_with_several_models_must_be_told_which(pets):
    with (
        serving(answers(captions(GOOD)), models=("one", "two")) as scribe,
        pytest.raises(BadProvider, match="It has one, two. Name one with --model"),
    ):
        write(pets, scribe)
    with serving(answers(captions(GOOD)), models=("alone",)) as scribe:
        write(pets, scribe)
    assert scribe.requests[0].body["model"] == "alone"
