"""What ``check`` shows: a contact sheet, and a page that needs nothing around it and runs nothing."""

import base64
import io
import math
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template

from PIL import Image, ImageDraw, ImageOps

from limner.checking.findings import ADVICE, NOTE, PROBLEM, Finding
from limner.checking.image_stats import Look
from limner.files import atomic_write, write_text
from limner.report.markup import Html, escape, image, records
from limner.report.sheet import sheet
from limner.reporter import counted

COLUMNS = 6
"""At least; more where there are many images, so that the sheet is about as high as it is wide."""
MOST = 240
"""Images on the sheet."""
MARKS = {PROBLEM: (190, 45, 30), ADVICE: (205, 145, 20)}
"""Colour of the frame of an image with such a finding."""
WORDS = {
    "centre": "the middle",
    "faces": "its faces",
    "saliency": "what stands out",
    "given": "the part given",
}


def write_sheet(
    path: Path, looks: Sequence[Look], names: Sequence[str], findings: Sequence[Finding], *, flip: bool
) -> None:
    """Write the crops and flips that the model will see, each with its bucket and caption.

    Those with a finding are framed. Of several captions the first is shown, and the number of the others.
    """
    worst = {each.image: each.level for each in reversed(findings)}
    shown: list[tuple[Image.Image, str]] = []
    for each, name in zip(looks[:MOST], names, strict=False):
        thumb, said = _framed(each.thumb, worst.get(name, NOTE)), _said(each.example.captions)
        size = f"{each.size[0]} x {each.size[1]}"
        shown.append((thumb, f"{name}, {size}: {said}"))
        if flip:
            shown.append((ImageOps.mirror(thumb), f"{name}, {size}, mirrored: {said}"))
    wide = max(COLUMNS, math.isqrt(len(shown) * 7 // 5))
    rows = [shown[at : at + wide] for at in range(0, len(shown), wide)]
    pictures = [[picture for picture, _ in row] for row in rows]
    notes = [[note for _, note in row] for row in rows]
    page = sheet(pictures, [""] * len(rows), [""] * wide, cell=200, notes=notes)
    atomic_write(path, lambda temporary: page.save(temporary, "PNG"))


def _said(captions: Sequence[str]) -> str:
    more = f" (+{len(captions) - 1} more)" if len(captions) > 1 else ""
    return f"{captions[0] or '(no caption)'}{more}"


def _framed(thumb: Image.Image, level: str) -> Image.Image:
    if level not in MARKS:
        return thumb
    marked = thumb.copy()
    width = max(3, max(marked.size) // 40)
    ImageDraw.Draw(marked).rectangle(
        (0, 0, marked.width - 1, marked.height - 1), outline=MARKS[level], width=width
    )
    return marked


def write_page(
    path: Path,
    title: str,
    looks: Sequence[Look],
    names: Sequence[str],
    findings: Sequence[Finding],
    *,
    flip: bool,
) -> None:
    """Write the page: findings of the set, buckets, and every image with its crop, captions and findings."""
    template = Template(resources.files("limner.report").joinpath("report.template.html").read_text("utf-8"))
    whole = [each for each in findings if not each.image]
    lost = [each for each in findings if each.image and each.image not in set(names)]
    sections = [
        _section("The set", _findings(whole) or "<p>Nothing to say of the set as a whole.</p>"),
        _section("Left out", _findings(lost)) if lost else "",
        _section("Buckets", records(_buckets(looks))),
        _section("What the model will see", _cards(looks, names, findings, flip=flip)),
    ]
    counts = Counter(each.level for each in findings)
    write_text(
        path,
        template.substitute(
            title=escape(title),
            kind="Limner check",
            lead=f"{counted(len(looks), 'image')}, problems: {counts[PROBLEM]}, advice: {counts[ADVICE]}.",
            key="",
            body="\n".join(sections),
            footer="One file: it loads nothing and runs nothing.",
        ),
    )


def _section(headline: str, body: Html) -> Html:
    return f"<section><h2>{escape(headline)}</h2>{body}</section>"


def _findings(findings: Sequence[Finding]) -> Html:
    lines = [
        f'<p class="{"warn" if each.level == PROBLEM else "note"}"><b>{escape(each.kind)}</b> '
        f"{escape(f'{each.image}: ' if each.image else '')}{escape(each.reason)}. {escape(each.remedy)}</p>"
        for each in findings
    ]
    return "".join(lines)


def _buckets(looks: Sequence[Look]) -> list[dict[str, object]]:
    counts = Counter(each.size for each in looks)
    return [{"size": f"{w} x {h}", "images": count} for (w, h), count in sorted(counts.items())]


def _cards(looks: Sequence[Look], names: Sequence[str], findings: Sequence[Finding], *, flip: bool) -> Html:
    by_image: dict[str, list[Finding]] = {}
    for each in findings:
        by_image.setdefault(each.image, []).append(each)
    cards = [
        _card(each, name, by_image.get(name, []), flip=flip) for each, name in zip(looks, names, strict=True)
    ]
    return f'<div class="images">{"".join(cards)}</div>'


def _card(each: Look, name: str, findings: Sequence[Finding], *, flip: bool) -> Html:
    captions = "".join(
        f"<span>{escape(caption or '(no caption)')}</span>" for caption in each.example.captions
    )
    kept = WORDS[each.cut.why]
    facts = f"{each.example.width}×{each.example.height} → {each.size[0]}×{each.size[1]}, keeps {kept}"
    if flip:
        facts += ", also mirrored"
    return (
        f"<figure>{image(_url(each.thumb), name)}<figcaption><b>{escape(name)}</b>"
        f"<small>{escape(facts)}</small>{captions}{_findings(_short(findings))}</figcaption></figure>"
    )


def _short(findings: Sequence[Finding]) -> list[Finding]:
    """Without the name, which stands above."""
    return [Finding("", each.level, each.kind, each.reason, each.remedy) for each in findings]


def _url(thumb: Image.Image) -> str:
    out = io.BytesIO()
    thumb.save(out, "JPEG", quality=84)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
