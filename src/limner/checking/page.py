"""What ``check`` shows: a contact sheet, and a page that needs nothing around it and runs nothing."""

import base64
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from markupsafe import Markup
from PIL import Image, ImageDraw, ImageOps

from limner.checking.findings import ADVICE, NOTE, PROBLEM, Finding
from limner.checking.image_stats import ImageStats
from limner.files import atomic_write, write_text
from limner.report.markup import Html, escape, image, records
from limner.report.pages import render
from limner.report.sheet import sheet
from limner.reporter import counted

COLUMNS = 6
"""At least; more where there are many images, so that the sheet is about as high as it is wide."""
MAX_IMAGES = 240
"""Images on the sheet."""
MAX_CARDS = 1000
"""Images on the page, those with problems or advice first: a browser opens some 20 MB well."""
MARKS = {PROBLEM: (190, 45, 30), ADVICE: (205, 145, 20)}
"""Colour of the frame of an image with such a finding."""
WORDS = {
    "centre": "the middle",
    "faces": "its faces",
    "saliency": "what stands out",
    "given": "the part given",
}


def write_sheet(
    path: Path, looks: Sequence[ImageStats], names: Sequence[str], findings: Sequence[Finding], *, flip: bool
) -> None:
    """Write the crops and flips that the model will see, each with its bucket and caption.

    Those with a finding are framed. Of several captions the first is shown, and the number of the others.
    """
    worst = {item.image: item.level for item in reversed(findings)}
    cells: list[tuple[Image.Image, str]] = []
    for item, name in zip(looks[:MAX_IMAGES], names, strict=False):
        thumb, text = _framed(item.thumb, worst.get(name, NOTE)), _said(item.example.captions)
        size = f"{item.size[0]} x {item.size[1]}"
        cells.append((thumb, f"{name}, {size}: {text}"))
        if flip:
            cells.append((ImageOps.mirror(thumb), f"{name}, {size}, mirrored: {text}"))
    per_row = max(COLUMNS, math.isqrt(len(cells) * 7 // 5))
    rows = [cells[start : start + per_row] for start in range(0, len(cells), per_row)]
    thumbs = [[thumb for thumb, _ in row] for row in rows]
    notes = [[note for _, note in row] for row in rows]
    page = sheet(thumbs, [""] * len(rows), [""] * per_row, cell=200, notes=notes)
    atomic_write(path, lambda temporary: page.save(temporary, "PNG"))


def _said(captions: Sequence[str]) -> str:
    count = f" (+{len(captions) - 1} more)" if len(captions) > 1 else ""
    return f"{captions[0] or '(no caption)'}{count}"


def _framed(thumb: Image.Image, level: str) -> Image.Image:
    if level not in MARKS:
        return thumb
    copy = thumb.copy()
    width = max(3, max(copy.size) // 40)
    ImageDraw.Draw(copy).rectangle((0, 0, copy.width - 1, copy.height - 1), outline=MARKS[level], width=width)
    return copy


def write_page(
    path: Path,
    title: str,
    looks: Sequence[ImageStats],
    names: Sequence[str],
    findings: Sequence[Finding],
    *,
    flip: bool,
    controls: Mapping[str, Sequence[bytes]] = MappingProxyType({}),
) -> None:
    """Write the page: findings of the set, buckets, and every image with its crop, captions and findings.

    ``controls`` are the control images of each, JPEG files, which stand before it.
    """
    of_set = [item for item in findings if not item.image]
    known = set(names)
    omissions = [item for item in findings if item.image and item.image not in known]
    sections = [
        _section("The set", _findings(of_set) or "<p>Nothing to say of the set as a whole.</p>"),
        _section("Left out", _findings(omissions)) if omissions else "",
        _section("Buckets", records(_buckets(looks))),
        _section("What the model will see", _cards(looks, names, findings, flip=flip, controls=controls)),
    ]
    counts = Counter(item.level for item in findings)
    write_text(
        path,
        render(
            "page.html",
            title=title,
            kind="Limner check",
            lead=f"{counted(len(looks), 'image')}, problems: {counts[PROBLEM]}, advice: {counts[ADVICE]}.",
            key="",
            body=Markup("\n".join(sections)),
            footer="One file: it loads nothing and runs nothing.",
        ),
    )


def _section(headline: str, body: Html) -> Html:
    return f"<section><h2>{escape(headline)}</h2>{body}</section>"


def _findings(findings: Sequence[Finding]) -> Html:
    lines = [
        f'<p class="{"warn" if finding.level == PROBLEM else "note"}"><b>{escape(finding.kind)}</b> '
        f"{escape(f'{finding.image}: ' if finding.image else '')}{escape(finding.reason)}. "
        f"{escape(finding.remedy)}</p>"
        for finding in findings
    ]
    return "".join(lines)


def _buckets(looks: Sequence[ImageStats]) -> list[dict[str, object]]:
    counts = Counter(size for item in looks for size in (item.size, *item.smaller))
    return [{"size": f"{w} x {h}", "images": count} for (w, h), count in sorted(counts.items())]


def _cards(
    looks: Sequence[ImageStats],
    names: Sequence[str],
    findings: Sequence[Finding],
    *,
    flip: bool,
    controls: Mapping[str, Sequence[bytes]],
) -> Html:
    by_image: dict[str, list[Finding]] = {}
    for item in findings:
        by_image.setdefault(item.image, []).append(item)
    faulty = {item.image for item in findings if item.level in MARKS}
    order = sorted(range(len(looks)), key=lambda index: (names[index] not in faulty, index))
    shown = sorted(order[:MAX_CARDS])
    cards = [
        _card(
            looks[index],
            names[index],
            by_image.get(names[index], []),
            flip=flip,
            controls=controls.get(names[index], ()),
        )
        for index in shown
    ]
    rest = len(looks) - len(shown)
    note = f"<p>{counted(rest, 'more image')}: see check.json, which has all.</p>" if rest else ""
    return f'<div class="images">{"".join(cards)}</div>{note}'


def _card(
    item: ImageStats, name: str, findings: Sequence[Finding], *, flip: bool, controls: Sequence[bytes]
) -> Html:
    captions = "".join(
        f"<span>{escape(caption or '(no caption)')}</span>" for caption in item.example.captions
    )
    region = WORDS[item.cut.reason]
    sizes = ", ".join(f"{width}×{height}" for width, height in (item.size, *item.smaller))
    facts = f"{item.example.width}×{item.example.height} → {sizes}, keeps {region}"
    if flip:
        facts += ", also mirrored"
    figure = "".join(
        image(_url(jpeg), f"control image {number} of {name}") for number, jpeg in enumerate(controls, 1)
    )
    figure += image(_url(item.jpeg), name)
    if item.mask:
        figure += image(_url(item.mask.jpeg), f"{name}, tinted where its mask is black")
        facts += f", {item.mask.share:.0%} of it learned"
    return (
        f"<figure>{figure}<figcaption><b>{escape(name)}</b>"
        f"<small>{escape(facts)}</small>{captions}{_findings(_short(findings))}</figcaption></figure>"
    )


def _short(findings: Sequence[Finding]) -> list[Finding]:
    """Without the name, which stands above."""
    return [Finding("", finding.level, finding.kind, finding.reason, finding.remedy) for finding in findings]


def _url(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
