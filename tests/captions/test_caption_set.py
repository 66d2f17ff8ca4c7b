import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from limner.captions.summary import CaptionSettings
from scribe import Say, answers, captions, serving
from small import Told
from writing import GOOD, rows, write

# the set ---------------------------------------------------------------------------------------------------

SINGLE = {
    "a.png": "sks cat lies on a couch in the living room with a blue rug in warm light.",
    "b.png": "sks cat sits on a sofa beside a window with white curtains in the morning.",
    "c.png": "sks cat is curled up on a settee between grey cushions in the evening light.",
    "photo.jpg": "sks cat stands on short grass in front of a garden fence on a cloudy day.",
}
"""What a server says of each picture alone: three words for one thing."""


def editing(pets, *, broken=""):
    """A server that knows the pictures by their size and first pixel, and can edit a set."""
    known = {}
    for file in SINGLE:
        with Image.open(pets / file) as image:
            known[file] = np.asarray(image.convert("RGB").resize((4, 4))).astype(int)
    turned = np.rot90(known["photo.jpg"], -1)
    known["photo.jpg"] = turned

    def which(data):
        seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).resize((4, 4))).astype(int)
        return min(known, key=lambda file: abs(known[file] - seen).mean())

    def script(asked, _):
        if "You edit the captions" not in asked.text:
            return captions(SINGLE[which(asked.images[0])])
        files = [which(picture) for picture in asked.images]
        ids = [int(n) for n in re.findall(r"^Image (\d+):$", asked.text, re.MULTILINE)]
        entries = []
        for number, file in zip(ids, files, strict=True):
            text = SINGLE[file].replace("couch", "sofa").replace("settee", "sofa")
            entries.append({"id": number, "captions": ["" if file == broken else text]})
        words = [{"use": "sofa", "instead_of": ["couch", "settee"]}]
        return Say(json.dumps({"words": words, "captions": [e for e in entries if e["captions"][0]]}))

    return script


@pytest.mark.parametrize("name", ["claude", "openai"])
def test_the_set_is_made_to_agree(pets, name):
    with serving(editing(pets)) as scribe:
        done = write(pets, scribe, name=name, model="m", settings=CaptionSettings())
        assert (done.new_captions, done.revisions, done.words) == (4, 4, {"sofa": ["couch", "settee"]})
        for file, text in SINGLE.items():
            now = (pets / file).with_suffix(".txt").read_text()
            assert now == text.replace("couch", "sofa").replace("settee", "sofa") + "\n"
        row = rows(pets)["c.png"]
        assert (row["pass"], row["first"]["pass"], row["before"]) == ("set", "image", [SINGLE["c.png"]])
        assert row["prompt"]["version"] == "set.1 style-sentences.1"
        assert len(scribe.requests) == 5
        again = write(pets, scribe, name=name, model="m", settings=CaptionSettings())
    assert (again.existing_captions, again.revisions, len(scribe.requests)) == (4, 0, 5)


def test_the_set_pass_leaves_a_persons_captions_and_shows_them(pets):
    (pets / "b.txt").write_text("my own words on a sofa")
    with serving(editing(pets)) as scribe:
        done = write(pets, scribe, settings=CaptionSettings())
    assert (done.new_captions, done.revisions) == (3, 3)
    assert (pets / "b.txt").read_text() == "my own words on a sofa"
    assert "my own words on a sofa" in scribe.requests[-1].text


def test_a_set_pass_that_was_left_out_or_failed_is_made_up_for(pets):
    reporter = Told()
    with serving(editing(pets, broken="c.png")) as scribe:
        write(pets, scribe)
        done = write(pets, scribe, settings=CaptionSettings(), reporter=reporter)
        assert (done.new_captions, done.existing_captions, done.revisions) == (0, 4, 3)
        assert "c.png: left as it was by the set pass" in reporter.text
        scribe.script = editing(pets)
        before = len(scribe.requests)
        assert write(pets, scribe, settings=CaptionSettings()).revisions == 1
        assert len(scribe.requests) == before + 1
    assert "sofa" in (pets / "c.txt").read_text()


def test_what_a_set_has_in_common_is_told(pets):
    with serving(answers(captions(GOOD))) as scribe:
        done = write(pets, scribe)
    assert any("nearly all captions say" in one and "wooden" in one for one in done.findings)
