"""What tests of captions share: a scripted server is asked about pictures of noise."""

import json
from pathlib import Path

from limner.captions.caption import caption
from limner.captions.client import Patience
from limner.captions.providers import Options
from limner.captions.spec import CaptionSpec
from limner.captions.summary import CaptionSettings
from small import Told

GOOD = "sks cat sits on a wooden chair beside a window with a blue curtain in the morning light."
LONG = "sks cat " + " ".join(f"sees the number {number}," for number in range(50)) + " and rests."
WISH = CaptionSpec(trigger="sks cat")
PROTOCOLS = [("claude", False), ("claude", True), ("openai", False), ("openai", True)]


def options(scribe, name="openai", **more):
    url = scribe.url if name == "claude" else f"{scribe.url}/v1"
    return Options(**{"name": name, "url": url, "key_env": "LIMNER_TEST_KEY", "timeout": 60.0, **more})


def write(folder, scribe, *, name="openai", wish=WISH, settings=None, reporter=None, tries=4, **more):
    patience = Patience(tries=tries, first=0.01)
    settings = settings or CaptionSettings(consistency=False)
    return caption(folder, wish, options(scribe, name, **more), settings, reporter or Told(), patience)


def rows(folder):
    lines = (folder / "captions.jsonl").read_text().splitlines()
    return {row["file"]: row for row in map(json.loads, lines) if "file" in row}


def everything_written(folder: Path) -> str:
    found = b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
    return found.decode("latin-1")
