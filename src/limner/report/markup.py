"""Pieces of HTML from values that may hold anything: every text is escaped, every picture is redrawn."""

import base64
import binascii
import html
import io
import json
import math
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

Html = str
"""Text in which everything that came from outside is escaped."""

FORMATS = ("JPEG", "PNG", "WEBP")
LARGEST = 64_000_000
"""Pixels of a picture that is still opened."""
SMALL = 160
"""Side up to which a picture is kept without loss; JPEG would show on pictures of few pixels."""
CONTROLS = {code: "?" for code in range(32) if chr(code) not in "\n\t"}
LONGEST = 20_000
"""Letters of one text."""


def escape(value: object) -> Html:
    """``value`` as text between tags or in an attribute; what HTML cannot hold becomes a question mark."""
    return html.escape(clean(str(value)))


def clean(text: str) -> str:
    """What HTML can hold of a text, of bounded length, not escaped yet."""
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    return text.translate(CONTROLS).encode("utf-8", "replace").decode()


def number(value: object) -> str:
    """A value for people: 4 digits of a fraction, yes and no, JSON for what is nested."""
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}" if math.isfinite(value) else str(value)
        case Mapping() | list() | tuple():
            return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def table(values: Mapping[str, Any]) -> Html:
    """Two columns, label and value; lists of mappings follow as tables of their own."""
    nested = {name: value for name, value in values.items() if _is_records(value)}
    plain = [(name, value) for name, value in values.items() if name not in nested]
    lines = (f"<tr><th>{escape(name)}</th><td>{escape(number(value))}</td></tr>" for name, value in plain)
    body = f'<table class="pairs">{"".join(lines)}</table>' if plain else ""
    return body + "".join(f"<h3>{escape(name)}</h3>{records(value)}" for name, value in nested.items())


def records(rows: Sequence[Mapping[str, Any]]) -> Html:
    """A column for each key, in order of appearance, and a line for each row."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    sides = {name: _is_numeric([row.get(name) for row in rows]) for name in names}
    css = {name: ' class="number"' if sides[name] else "" for name in names}
    head = "".join(f"<th{css[name]}>{escape(name)}</th>" for name in names)
    lines = (
        "".join(f"<td{css[name]}>{escape(number(row.get(name)))}</td>" for name in names) for row in rows
    )
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _is_records(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _is_numeric(values: Sequence[object]) -> bool:
    return all(value is None or type(value) in (int, float) for value in values)


def image(url: str | None, alt: str, attributes: Html = "") -> Html:
    """A picture, or an empty place where there is none; with further attributes, which begin with a space."""
    if url is None:
        return f'<div class="none"{attributes}>no picture</div>'
    return f'<img src="{url}" alt="{escape(alt[:300])}"{attributes}>'


def thumbnail(text: object, side: int) -> Markup | None:
    """A data URL of a picture given as base64, redrawn; None if it is none."""
    if not isinstance(text, str):
        return None
    try:
        return data_url(io.BytesIO(base64.b64decode(text, validate=True)), side)
    except (binascii.Error, ValueError):
        return None


def data_url(source: Path | io.BytesIO, side: int) -> Markup | None:
    """A data URL of a picture, redrawn within ``side`` x ``side`` pixels; None if it cannot be read.

    Redrawn, so that nothing but pixels gets into the page: no metadata, no disguised file.
    """
    try:
        with warnings.catch_warnings(), Image.open(source, formats=FORMATS) as image_file:
            warnings.simplefilter("ignore")  # Pillow's notes on odd files; unreadable ones raise
            if image_file.width * image_file.height > LARGEST:
                return None
            image_file.draft("RGB", (side, side))
            flat = image_file.convert("RGBA" if image_file.has_transparency_data else "RGB")
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ):
        return None
    flat.info = {}  # Pillow would write comments, positions and profiles of the original again
    flat.thumbnail((side, side), Image.Resampling.LANCZOS)
    kind = "png" if max(flat.size) <= SMALL or flat.mode == "RGBA" else "jpeg"
    out = io.BytesIO()
    flat.save(out, kind, **({"optimize": True} if kind == "png" else {"quality": 86}))
    # as HTML, which templates neither cut nor escape
    return Markup(f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}")
