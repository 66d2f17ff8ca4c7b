import base64
import io
import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from limner.report.demo_page import LessonPage, write_demo_page
from limner.report.markup import LONGEST
from limner.run_folder import RunDir

EVIL = "<script>alert(1)</script>\"'{{ lessons }}"


class Seen(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def lesson(folder, name):
    run = RunDir(folder / name)
    run.path.mkdir(parents=True)
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(picture, "PNG")
    thumb = base64.b64encode(picture.getvalue()).decode()
    images = [{"name": f"{n}.png", "captions": [f"{name} {n}"], "thumb": thumb} for n in range(3)]
    run.data_path.write_text(json.dumps({"images": images}))
    for step in range(1, 9):
        run.log({"step": step, "loss": 1 / step, "held_out": 1 / step})
    paths = []
    for n in range(4):
        paths.append(folder / f"{name}-{n}.png")
        paths[-1].write_bytes(picture.getvalue())
    return LessonPage(
        run=run,
        title=f"About {name}",
        text=f"What {name} teaches.",
        prompts=[f"{name} boat", f"{name} fish"],
        before=paths[:2],
        after=paths[2:],
        figures={"Images in the style": "0% before, 81% after"},
    )


@pytest.fixture
def page(tmp_path):
    lessons = [lesson(tmp_path, "ink"), lesson(tmp_path, EVIL.replace("/", ""))]
    steps = [("Train your own:", 'limner train photos/ --trigger "sks cat"')]
    path = write_demo_page(tmp_path / "report.html", lessons, lead="Two LoRAs.", next_steps=steps)
    return Seen(path.read_text(encoding="utf-8"))


def test_it_shows_what_was_trained_on_and_what_changed(page):
    assert page.tags.count("img") == 2 * (3 + 2 * 2) and page.tags.count("svg") == 2 * 2
    for words in (
        *("Two LoRAs.", "About ink", "What ink teaches.", "The 3 images that", "ink 2", "ink fish"),
        *("Images in the style", "0% before, 81% after", "What to do next", "Train your own:"),
        'limner train photos/ --trigger "sks cat"',
    ):
        assert words in page.text
    sources = [value for name, value in page.attributes if name == "src"]
    assert all(value.startswith("data:image/") for value in sources)


def test_images_that_are_hard_to_compress_are_whole(tmp_path):
    noise = io.BytesIO()
    Image.effect_noise((160, 160), 90).convert("RGB").save(noise, "PNG")
    some = lesson(tmp_path, "ink")
    thumb = base64.b64encode(noise.getvalue()).decode()
    some.run.data_path.write_text(json.dumps({"images": [{"captions": ["a"], "thumb": thumb}]}))
    some.before[0].write_bytes(noise.getvalue())
    page = Seen(write_demo_page(tmp_path / "r.html", [some], lead="", next_steps=[]).read_text())
    urls = [value.partition("base64,")[2] for name, value in page.attributes if name == "src"]
    assert max(map(len, urls)) > LONGEST
    assert all(Image.open(io.BytesIO(base64.b64decode(url, validate=True))).load() for url in urls)


def test_it_links_to_the_runs_and_their_loras(page):
    links = [value for name, value in page.attributes if name == "href"]
    assert links[:2] == ["ink/report.html", "ink/lora.safetensors"]


def test_it_speaks_plainly(page):
    """No sentence of an unfinished run, no key of a figure, nothing that runs."""
    for words in ("not there yet", "not started", "concept_of_base", "without_trigger", "step 280, 300"):
        assert words not in page.text
    assert "script" not in page.tags and EVIL.replace("/", "") in page.text
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(set(ids)) == len(ids) == 2 * 2


def test_a_lesson_without_a_run_shows_its_photos_and_no_loss(tmp_path):
    trained = lesson(tmp_path, "ink")
    run = RunDir(tmp_path / "one-pass")
    predicted = replace(trained, run=run, photos=trained.before[:1])
    steps = [("Train your own:", "limner train photos/")]
    path = write_demo_page(tmp_path / "one.html", [predicted], lead="One LoRA.", next_steps=steps)
    seen = Seen(path.read_text())
    links = [value for name, value in seen.attributes if name == "href"]
    assert "one-pass/lora.safetensors" in links and "one-pass/report.html" not in links
    assert ("alt", "ink-0") in seen.attributes
    assert "Loss" not in seen.text and "svg" not in seen.tags
