import base64
import io
import json
import re
import sys

import pytest
from PIL import Image

from limner.captions.caption import caption
from limner.captions.providers import Options
from limner.captions.spec import CaptionSpec
from limner.captions.summary import CaptionSettings
from limner.data.folder import read_folder
from limner.errors import BadData, BadProvider, BadUsage
from messages import raises
from scribe import Say, Status, answers, captions, serving
from small import Told
from writing import GOOD, PROTOCOLS, WISH, everything_written, rows, write

# what is written, what is sent -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "stream"), PROTOCOLS)
def test_captions_lie_beside_the_images_and_say_where_they_are_from(pets, name, stream):
    reporter = Told()
    with serving(answers(captions(GOOD))) as scribe:
        done = write(pets, scribe, name=name, stream=stream, reporter=reporter, model="scribe-1")
    assert (done.new_captions, done.failures, done.images) == (4, [], 4)
    assert (pets / "a.txt").read_text() == GOOD + "\n"
    assert {example.captions for example in read_folder(pets, trigger="sks cat").examples} == {(GOOD,)}
    row = rows(pets)["photo.jpg"]
    assert (row["by"], row["model"], row["pass"], row["trigger"]) == (name, "scribe-1", "image", "sks cat")
    assert row["prompt"]["version"] == "image.1 goal-subject.1 trigger-inside.1 style-sentences.1"
    assert row["written"]
    assert (row["tokens_in"], row["tokens_out"], done.tokens_in, done.tokens_out) == (100, 20, 400, 80)
    assert done.cost is None
    assert "Price: unknown for scribe-1." in reporter.lines
    assert "127.0.0.1" in done.destination
    assert "this machine" in done.destination
    assert all(asked.body.get("stream", False) is stream for asked in scribe.requests)


@pytest.mark.parametrize("name", ["claude", "openai"])
def test_what_goes_out_is_small_upright_and_without_metadata(pets, name):
    with serving(answers(captions(GOOD))) as scribe:
        write(
            pets,
            scribe,
            name=name,
            model="m",
            settings=CaptionSettings(max_image_size=512, consistency=False),
        )
    sent = [base64.b64decode(asked.images[0]) for asked in scribe.requests]
    sizes = sorted(Image.open(io.BytesIO(data)).size for data in sent)
    assert sizes == [(64, 48), (64, 48), (64, 48), (341, 512)]
    assert b"CAMERA-OF-MINE" in (pets / "photo.jpg").read_bytes()
    assert not any(b"CAMERA" in data or b"Exif" in data for data in sent)
    assert not any(name in json.dumps(asked.body) for asked in scribe.requests for name in ("pets", ".jpg"))


def test_the_schema_of_the_answer_goes_along(pets):
    with serving(answers(captions(GOOD))) as scribe:
        write(pets, scribe, name="claude", model="m")
        write(
            pets,
            scribe,
            name="openai",
            settings=CaptionSettings(overwrite=True, consistency=False),
            model="m",
        )
    ours, theirs = scribe.requests[0].body, scribe.requests[-1].body
    schema = ours["output_config"]["format"]["schema"]
    assert schema["required"] == ["captions"]
    assert schema["additionalProperties"] is False
    assert theirs["response_format"]["json_schema"]["schema"] == schema
    assert theirs["max_tokens"] == ours["max_tokens"] == 1024


def test_a_server_that_takes_no_schema_is_asked_without(pets):
    def script(asked, _):
        if "response_format" in asked.body:
            return Status(400, "Unsupported parameter: response_format")
        return captions(GOOD)

    with serving(script) as scribe:
        done = write(pets, scribe, settings=CaptionSettings(consistency=False, concurrency=1))
    assert done.new_captions == 4
    assert len(scribe.requests) == 5


def test_several_variants_become_lines(pets):
    other = "In the morning light beside a blue curtain, sks cat rests upon a chair made of wood."
    with serving(answers(captions(GOOD, other))) as scribe:
        write(pets, scribe, wish=CaptionSpec(trigger="sks cat", variants=2))
    assert (pets / "b.txt").read_text() == f"{GOOD}\n{other}\n"
    assert "exactly 2 captions" in scribe.requests[0].text


# whose caption it is ---------------------------------------------------------------------------------------


def test_captions_of_a_person_are_never_touched(pets):
    (pets / "a.txt").write_text("mine")
    with serving(answers(captions(GOOD))) as scribe:
        assert write(pets, scribe).by_hand == 1
        (pets / "b.txt").write_text("edited since")
        done = write(pets, scribe, settings=CaptionSettings(overwrite=True, consistency=False))
    assert (done.by_hand, done.new_captions) == (2, 2)
    assert (pets / "a.txt").read_text() == "mine"
    assert (pets / "b.txt").read_text() == "edited since"


def test_nothing_of_ours_is_overwritten_without_being_told_to(pets):
    with serving(answers(captions(GOOD))) as scribe:
        write(pets, scribe)
        reporter = Told()
        done = write(pets, scribe, wish=CaptionSpec(trigger="ohwx"), reporter=reporter)
    assert (done.existing_captions, done.new_captions, len(scribe.requests)) == (4, 0, 4)
    assert "4 of them made for another concept, style or trigger" in reporter.text


def test_a_deleted_caption_is_written_anew(pets):
    with serving(answers(captions(GOOD))) as scribe:
        write(pets, scribe)
        (pets / "a.txt").unlink()
        assert write(pets, scribe).new_captions == 1
    assert len(scribe.requests) == 5


def test_captions_in_a_metadata_file_rule(pets):
    line = json.dumps({"file_name": "a.png", "text": "mine"})
    more = "".join(json.dumps({"file_name": f"{n}", "text": None}) + "\n" for n in ("b.png", "c.png"))
    (pets / "metadata.jsonl").write_text(f"{line}\n{more}")
    with serving(answers(captions(GOOD))) as scribe:
        done = write(pets, scribe)
    assert done.by_hand == 1
    assert not (pets / "a.txt").exists()
    assert (pets / "b.txt").exists()


def test_images_of_one_name_do_not_share_a_caption(pets):
    Image.new("RGB", (30, 30)).save(pets / "a.jpg")
    with serving(answers(captions(GOOD))) as scribe:
        done = write(pets, scribe)
    assert done.new_captions == 4
    assert done.failures == [
        {"file": "a.png", "reason": "shares its text file with a.jpg. Give one of them another name"}
    ]


def test_what_a_person_writes_meanwhile_stays(pets):
    def script(asked, number):
        if number == 0:
            for one in ("a", "b", "c", "photo"):
                (pets / f"{one}.txt").write_text("mine, just now")
        return captions(GOOD)

    with serving(script) as scribe:
        done = write(pets, scribe, settings=CaptionSettings(concurrency=1, consistency=False))
    assert done.new_captions == 0
    assert (pets / "a.txt").read_text() == "mine, just now"
    assert "in the meantime" in done.failures[0]["reason"]


# price -----------------------------------------------------------------------------------------------------


def test_the_price_is_estimated_before_and_summed_after(pets):
    reporter = Told()
    steps = Say(captions(GOOD).text, read=1000, written=100, model="claude-sonnet-5-5-20260901")
    with serving(answers(steps)) as scribe:
        done = write(pets, scribe, name="claude", model="claude-sonnet-5-5", reporter=reporter)
    assert done.cost == pytest.approx(4 * (1000 * 2 + 100 * 10) / 1e6)
    assert rows(pets)["a.png"]["cost"] == pytest.approx(0.003)
    assert done.estimate is not None
    assert 0.001 < done.estimate < 0.1
    assert re.search(r"Price: about \$0\.0\d, .*genai-prices", reporter.text)


def test_a_budget_is_held(pets):
    steps = Say(captions(GOOD).text, read=10_000, written=100)
    with serving(answers(steps)) as scribe:
        with raises(BadUsage):
            write(pets, scribe, model="gpt-6.1-terra", settings=CaptionSettings(budget=0.0001))
        assert not scribe.requests
        reporter = Told()
        settings = CaptionSettings(budget=0.02, concurrency=1, consistency=False)
        done = write(pets, scribe, model="gpt-6.1-terra", settings=settings, reporter=reporter)
        assert (done.new_captions, done.remaining) == (2, 2)
        assert "The budget is reached: 2 images are left" in reporter.text
        with raises(BadUsage):
            write(pets, scribe, model="strange", settings=CaptionSettings(budget=1.0))


def test_a_dry_run_sends_and_writes_nothing(pets):
    reporter = Told()
    before = sorted(pets.iterdir())
    with serving(answers(captions(GOOD))) as scribe:
        done = write(
            pets, scribe, model="gpt-6.1-terra", settings=CaptionSettings(dry_run=True), reporter=reporter
        )
    assert (done.remaining, scribe.requests, sorted(pets.iterdir())) == (4, [], before)
    assert "4 images, as copies of at most 1024 pixels" in reporter.text


def test_only_what_can_be_read_is_said_to_leave(pets):
    (pets / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    reporter = Told()
    with serving(answers(captions(GOOD))) as scribe:
        write(pets, scribe, reporter=reporter)
    assert "4 images (1 more image cannot be read), as copies of at most" in reporter.text
    assert len(scribe.requests) == 4


def test_what_only_the_set_pass_will_show_is_said_to_leave_too(pets):
    reporter, model = Told(), "gpt-6.1-terra"
    with serving(answers(captions(GOOD))) as scribe:
        write(pets, scribe, model=model)
        (pets / "photo.txt").unlink()
        alone = write(
            pets, scribe, model=model, settings=CaptionSettings(dry_run=True, consistency=False)
        ).estimate
        done = write(pets, scribe, model=model, settings=CaptionSettings(dry_run=True), reporter=reporter)
    assert "4 images, as copies" in reporter.text
    assert done.remaining == 1 and 0 < (alone or 0) < (done.estimate or 0)


def test_one_image_is_told_as_one(pets):
    (pets / "a.txt").write_text("my own words of a sks cat")
    reporter = Told()
    with serving(answers(captions(GOOD))) as scribe:
        write(pets, scribe)
        (pets / "photo.txt").unlink()
        done = write(pets, scribe, reporter=reporter)
    assert (done.new_captions, done.by_hand, done.existing_captions) == (1, 1, 2)
    assert "Captions of your own: 1 image, never touched." in reporter.lines
    assert "Kept: 2 images." in reporter.text
    assert re.search(
        r"To a server at 127.0.0.1:\d+, this machine \(scribe-1\): 1 image, as copies", reporter.text
    )


# wrong use -------------------------------------------------------------------------------------------------


def test_wrong_use_is_told(pets, tmp_path):
    somebody = Options(name="openai")
    with raises(BadData):
        caption(tmp_path / "gone", WISH, somebody, CaptionSettings(), Told())
    (tmp_path / "empty").mkdir()
    with raises(BadData):
        caption(tmp_path / "empty", WISH, somebody, CaptionSettings(), Told())
    with raises(BadUsage):
        caption(pets, WISH, Options(name="openai", url="localhost:80"), CaptionSettings(), Told())


@pytest.mark.parametrize("overwrite", [False, True])
def test_nobody_of_that_name_is_told_even_where_all_images_have_captions(pets, overwrite):
    with serving(answers(captions(GOOD))) as scribe:
        write(pets, scribe)
    before = everything_written(pets)
    with raises(BadUsage):
        caption(pets, WISH, Options(name="nobody"), CaptionSettings(overwrite=overwrite), Told())
    assert everything_written(pets) == before


def test_a_missing_package_is_told_with_the_command(pets, monkeypatch):
    for name, package, extra in (("claude", "anthropic", "caption"), ("ollama", "openai", "caption")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(BadProvider, match=rf"pip install 'limner\[{extra}\]'"):
            caption(pets, WISH, Options(name=name), CaptionSettings(), Told())


@pytest.mark.parametrize(("name", "model"), [("claude", "claude-sonnet-5-5"), ("openai", "gpt-6.1-terra")])
def test_a_dry_run_tells_the_price_without_a_key(pets, monkeypatch, name, model):
    monkeypatch.delenv("LIMNER_TEST_KEY")
    told = Told()
    done = caption(pets, WISH, Options(name=name), CaptionSettings(dry_run=True), told)
    assert done.estimate is not None and done.estimate > 0 and done.model == model
    assert "Price" in told.text or "Estimated" in told.text
    with pytest.raises(BadProvider, match="There is no key"):
        caption(pets, WISH, Options(name=name), CaptionSettings(), told)


def test_equal_lines_are_one(pets):
    for number in range(9):
        (pets / f"torn{number}.png").write_bytes(b"no picture")
    told = Told()
    with serving(answers(captions(GOOD))) as scribe:
        done = write(pets, scribe, reporter=told)
    assert len(done.failures) == 9
    about = [line for line in told.lines if "torn" in line or "like these" in line]
    assert len(about) == 4 and about[-1].startswith("6 more images like these: is not a picture")
