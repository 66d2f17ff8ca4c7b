"""Writes the before and after of docs/guide/captions.md from two runs of ``limner caption``.

The runs are real: the command, the requests over HTTP on this machine, what is set aside and asked again, the
set pass, the files. The answers are a script, ``captions_script.json``: no model writes them.

``python tools/captions_page.py``; a test fails while the page differs.
"""

import base64
import contextlib
import io
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "guide" / "captions.md"
SCRIPT = Path(__file__).with_name("captions_script.json")
DEMO = ROOT / "src" / "limner" / "bases" / "glyph" / "demo"
BEGIN, END = "<!-- runs: tools/captions_page.py -->", "<!-- end of the runs -->"
TRIGGER = "zorbix"
RUNS = {
    "mascot": ("claude", ("--model", "scripted"), ("--base", "flux-dev")),
    "blueprint": ("openai", (), ("--concept-type", "style", "--base", "sdxl")),
}
"""Set of the demo -> who is asked, and how, and what is wanted."""


@dataclass
class Reader:
    """Plays the script: knows the images that it is shown by their looks, and notes what it answered."""

    script: Mapping[str, Any]
    seen: Mapping[str, np.ndarray]
    answers: dict[str, list[str]] = field(default_factory=dict)
    """Image -> what was said of it alone, in order."""
    edit_count: int = 0
    """Requests of the set pass."""
    count_lines: list[str] = field(default_factory=list)
    """What the first of them said of the set."""
    complaints: list[str] = field(default_factory=list)
    """What the others said of the answer before."""

    def __call__(self, request: Any, _: int) -> Any:
        """The next answer to a request."""
        import scribe

        names = [self._name(picture) for picture in request.images]
        if "To edit:" in request.text:
            return scribe.Say(json.dumps(self._edit(request.text, names)))
        replies = self.answers.setdefault(names[0], [])
        answer = self.script["alone"][names[0]][len(replies)]
        captions = {"raw": scribe.captions(answer).text} if isinstance(answer, str) else answer
        cut = "cut" in captions
        replies.append(captions["cut"] if cut else answer if isinstance(answer, str) else captions["raw"])
        end = ("max_tokens" if request.path.endswith("/messages") else "length") if cut else ""
        return scribe.Say(captions["cut" if cut else "raw"], end=end)

    def _edit(self, text: str, names: list[str]) -> dict[str, Any]:
        self.complaints += re.findall(
            r"Your last answer was set aside: (.*?)\. Answer again", text, re.DOTALL
        )
        if not self.edit_count:
            self.count_lines = re.findall(
                r"^- (.*)$", text.partition("Counted in this set:")[2], re.MULTILINE
            )
        answer = self.script["set"][self.edit_count]
        self.edit_count += 1
        numbers = [int(number) for number in re.findall(r"^Image (\d+):$", text, re.MULTILINE)]
        words = [{"use": use, "instead_of": alternatives} for use, alternatives in answer["words"].items()]
        entries = [
            {"id": number, "captions": [answer["captions"][name]]}
            for number, name in zip(numbers, names, strict=True)
        ]
        return {"words": words, "captions": entries}

    def _name(self, picture: str) -> str:
        pixels = _small(Image.open(io.BytesIO(base64.b64decode(picture))))
        return min(self.seen, key=lambda name: float(np.abs(self.seen[name] - pixels).mean()))


def _small(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize((16, 16)), np.float32)


@dataclass(frozen=True)
class Run:
    """What one run did."""

    command: str
    lines: list[str]
    """On the terminal."""
    rows: dict[str, dict[str, Any]]
    """Image -> its line in captions.jsonl."""
    texts: dict[str, str]
    """Image -> its text file."""
    reader: Reader
    requests: int


def run(name: str, folder: Path) -> Run:
    """Caption the images of one set in ``folder``, which is empty.

    Raises:
        RuntimeError: The command failed.
    """
    import scribe

    script = json.loads(SCRIPT.read_text(encoding="utf-8"))[name]
    images_seen = {}
    for path in sorted((DEMO / name).glob("*.png")):
        shutil.copy(path, folder)
        with Image.open(path) as image:
            images_seen[path.stem] = _small(image)
    for stem, text in script["yours"].items():
        (folder / f"{stem}.txt").write_text(f"{text}\n", encoding="utf-8")
    provider, options, keys = RUNS[name]
    reader = Reader(script, images_seen)
    with scribe.serving(reader, models=("scripted",)) as server:
        url = server.url if provider == "claude" else f"{server.url}/v1"
        plain = ("caption", name, "--with", provider, "--trigger", TRIGGER, *keys, "--url")
        output = _limner(folder.parent, *plain, url, *options)
        requests = len(server.requests)
    lines = (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = {Path(row["file"]).stem: row for row in map(json.loads, lines) if "file" in row}
    texts = {stem: (folder / f"{stem}.txt").read_text(encoding="utf-8").strip() for stem in images_seen}
    return Run(" ".join(("limner", *plain, _still(url), *options)), output, rows, texts, reader, requests)


def _limner(home: Path, *arguments: str) -> list[str]:
    """What the command says, without its progress, the port and the time, which differ each time."""
    from limner.cli import main

    output = io.StringIO()
    with contextlib.chdir(home), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            main(list(arguments))
        except SystemExit as ending:
            if ending.code:
                raise RuntimeError(f"limner ended with {ending.code}: {output.getvalue()}") from ending
    lines = re.split(r"[\r\n]+", output.getvalue())
    return [_still(line) for line in lines if line and not re.match(r"\w+ \d+/\d+", line)]


def _still(line: str) -> str:
    return re.sub(r", in [\d.]+ (?:m?s|min.*)$", "", re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:8000", line))


def section(name: str, record: Run) -> Iterator[str]:
    """The lines of one run."""
    yield from ("", "```text", record.command, *record.lines, "```", "")
    aside = sum(len(row.get("first", row).get("set_aside", ())) for row in record.rows.values())
    alone = sum(map(len, record.reader.answers.values()))
    yield (
        f"{record.requests} requests: {alone} with one image each, {aside} of whose answers were set aside, "
        f"and {record.reader.edit_count} of the set pass. "
        "Into the first of these went what Limner had counted:"
    )
    yield from ("", *(f"- {line}" for line in record.reader.count_lines), "")
    for reason in record.reader.complaints:
        yield from (f"And into the next, why it asked again: {reason}.", "")
    yield from ("| image | the answers, and what Limner said of them | after the set pass |", "|---|---|---|")
    for stem, text in record.texts.items():
        picture = f"![{stem}]({Path('../..') / (DEMO / name).relative_to(ROOT) / f'{stem}.png'})"
        replies = "<br>".join(_answers(record, stem)) or "yours: not asked about"
        yield f"| {picture} | {replies} | {_cell(text)} |"


def _answers(record: Run, stem: str) -> Iterator[str]:
    row = record.rows.get(stem, {})
    reasons = row.get("first", row).get("set_aside", [])
    for index, answer in enumerate(record.reader.answers.get(stem, [])):
        replies = f"**set aside: {_cell(reasons[index])}**" if index < len(reasons) else "taken"
        yield f"“{_cell(answer)}” {replies}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


def part() -> str:
    """What stands on the page between the two marks."""
    lines = [BEGIN]
    with tempfile.TemporaryDirectory() as home:
        for name in RUNS:
            folder = Path(home) / name
            folder.mkdir()
            lines += section(name, run(name, folder))
    return "\n".join([*lines, "", END])


def page() -> str:
    """The whole page, with the part anew."""
    text = PAGE.read_text(encoding="utf-8")
    return text[: text.index(BEGIN)] + part() + text[text.index(END) + len(END) :]


if __name__ == "__main__":
    sys.path.append(str(ROOT / "tests"))
    PAGE.write_text(page(), encoding="utf-8")
