"""The page of the demo: what was shown to the base, what it generates before and after, and how to go on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from limner.files import write_text
from limner.report.chart import curves
from limner.report.markup import data_url, thumbnail
from limner.report.pages import footer, render
from limner.run_folder import RunDir

SIDE = 160
"""The largest side of an image in the page, in pixels."""


@dataclass(frozen=True, kw_only=True)
class LessonPage:
    """A LoRA of the demo, as the page shows it."""

    run: RunDir
    title: str
    text: str
    prompts: Sequence[str]
    before: Sequence[Path]
    """An image for each prompt, by the base."""
    after: Sequence[Path]
    figures: Mapping[str, str]
    """What was measured: label -> value, for people."""
    photos: Sequence[Path] = ()
    """The images that it learned from, where no run has looked at them: a LoRA of one pass."""


def write_demo_page(
    path: Path, lessons: Sequence[LessonPage], *, lead: str, next_steps: Sequence[tuple[str, str]]
) -> Path:
    """Write the page, which needs nothing around it but for its links to the run folders.

    Args:
        path: The file; the run folders lie beside it.
        lessons: What was trained.
        lead: One sentence over all of it.
        next_steps: (what one may do now, its command).
    """
    values = {
        "title": "Ten images, one LoRA",
        "kind": "Limner demo",
        "lead": lead,
        "key": "",
        "body": "",
        "footer": footer(),
        "lessons": [_values(number, lesson) for number, lesson in enumerate(lessons)],
        "next_steps": [{"text": text, "command": command} for text, command in next_steps],
    }
    write_text(path, render("demo.html", **values))
    return path


def _values(number: int, lesson: LessonPage) -> dict[str, Any]:
    images = [
        {"url": thumbnail(entry.get("thumb"), SIDE) or "", "caption": " ".join(entry["captions"][:1])}
        for entry in lesson.run.data().get("images", [])
    ] or [{"url": data_url(path, SIDE), "caption": path.stem} for path in lesson.photos]
    metrics = lesson.run.metrics()
    pairs = zip(lesson.prompts, lesson.before, lesson.after, strict=True)
    return {
        "title": lesson.title,
        "text": lesson.text,
        "folder": lesson.run.path.name,
        "images": images,
        "pairs": [
            {"prompt": prompt, "before": data_url(before, SIDE), "after": data_url(after, SIDE)}
            for prompt, before, after in pairs
        ],
        "figures": [{"label": label, "value": value} for label, value in lesson.figures.items()],
        "curve": Markup(curves(metrics, f"frame{number}")) if metrics else "",
    }
