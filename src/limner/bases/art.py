"""The art behind the embedded base: openly licensed emoji, drawn at 128 x 128 and named by plain nouns.

Nothing here is downloaded by Limner itself. The pinned packages of ``PACKAGES`` come from the npm registry::

    npm install --ignore-scripts --prefix WORK $(python -m limner.bases.art --packages)
    python -m limner.bases.art --packages-in WORK/node_modules --out art.npz

Licences (see ``glyph/LICENSES``): Noto and the older Noto, Apache-2.0; Fluent, MIT; Twemoji, CC-BY-4.0.
"""

import argparse
import io
import json
import logging
import re
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from PIL import Image

from limner.errors import BadData
from limner.files import atomic_write, human

SIDE = 128
PACKAGES = {
    "@iconify-json/noto": "1.2.9",
    "@iconify-json/noto-v1": "1.2.5",
    "@iconify-json/fluent-emoji-flat": "1.2.6",
    "@iconify-json/twemoji": "1.2.5",
    "@iconify-json/fluent-emoji-high-contrast": "1.2.6",
    "@lobehub/fluent-emoji-3d": "1.1.0",
    "emojibase-data": "17.0.0",
}
DRAWING_STYLES = {
    "noto": "@iconify-json/noto",
    "blob": "@iconify-json/noto-v1",
    "fluent": "@iconify-json/fluent-emoji-flat",
    "twemoji": "@iconify-json/twemoji",
    "ink": "@iconify-json/fluent-emoji-high-contrast",
}
TRAINED_STYLES = ("noto", "blob", "fluent", "twemoji")
UNSEEN_STYLES = ("fluent3d", "ink")
STYLES = TRAINED_STYLES + UNSEEN_STYLES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Art:
    """Pictures with their names; row ``i`` of each array belongs together."""

    rgba: np.ndarray
    """(N, 128, 128, 4) uint8, straight alpha."""
    style: np.ndarray
    """(N,) str, one of ``STYLES``."""
    concept: np.ndarray
    """(N,) str, a noun of ``concepts()``; its first appearance follows the order there."""

    def only(self, styles: tuple[str, ...], concepts: int | None = None) -> "Art":
        """The rows of these styles and of the first ``concepts`` nouns (None = all)."""
        concepts_kept = list(nouns())[:concepts]
        rows = np.isin(self.style, styles) & np.isin(self.concept, concepts_kept)
        return Art(self.rgba[rows], self.style[rows], self.concept[rows])


def nouns() -> dict[str, str]:
    """Noun -> emojibase label, in the order of recognisability that ``concepts.txt`` states."""
    text = (resources.files("limner.bases") / "concepts.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {line.split(" = ")[0]: line.split(" = ")[-1] for line in lines}


def read_art(path: Path) -> Art:
    """Read what ``write_art`` wrote.

    Raises:
        BadData: The file is missing or is not an art file.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return Art(file["rgba"], file["style"], file["concept"])
    except (OSError, EOFError, BadZipFile, KeyError, ValueError) as error:
        raise BadData(
            f"{path} is not an art file ({error}). Make one: python -m limner.bases.art --help."
        ) from error


def write_art(path: Path, art: Art) -> None:
    """Write ``art`` as one compressed npz, atomically."""

    def write(draft: Path) -> None:
        with draft.open("wb") as file:
            np.savez_compressed(file, rgba=art.rgba, style=art.style, concept=art.concept)

    atomic_write(path, write)


def draw_all(modules: Path) -> Art:
    """Draw every noun in every style that has it.

    Args:
        modules: The ``node_modules`` folder that holds ``PACKAGES``.

    Raises:
        BadData: A package is missing.
    """
    labels = _labels(modules)
    codes = {label: code for code, label in labels.items()}
    sources = {style: _svgs(modules / package, labels) for style, package in DRAWING_STYLES.items()}
    rows = []
    for noun, label in nouns().items():
        code = codes.get(label)
        if code is None:
            raise BadData(
                f"emojibase-data knows no emoji called {label!r} (noun {noun!r}). Correct concepts.txt."
            )
        rows += [(_draw(svgs[code]), style, noun) for style, svgs in sources.items() if code in svgs]
        rows += [(image, "fluent3d", noun) for image in _photo(modules, code)]
    images, styles, concepts = zip(*rows, strict=True)
    return Art(np.stack(images), np.array(styles), np.array(concepts))


def _labels(modules: Path) -> dict[str, str]:
    """Hexcode (lower case, no variation selector) -> English label."""
    entries = json.loads(_text(modules / "emojibase-data" / "en" / "data.json"))
    return {entry["hexcode"].lower().replace("-fe0f", ""): entry["label"] for entry in entries}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        packages = " ".join(f"{name}@{version}" for name, version in PACKAGES.items())
        raise BadData(f"{path} is missing. Run: npm install --ignore-scripts {packages}") from error


def _svgs(package: Path, labels: dict[str, str]) -> dict[str, str]:
    """Hexcode -> SVG document."""
    icons = json.loads(_text(package / "icons.json"))
    bodies = icons["icons"]
    names = {
        code.replace("-fe0f", ""): name for code, name in json.loads(_text(package / "chars.json")).items()
    }
    documents = {}
    for code, label in labels.items():
        spellings = [names[code]] if code in names else [] if names else _spellings(code, label)
        name = next((name for name in spellings if name in bodies), None)
        if name is not None:
            documents[code] = _document(icons, bodies[name])
    return documents


def _spellings(code: str, label: str) -> Iterator[str]:
    """How packages without a character table may call an emoji: by its label, or by its Unicode name."""
    yield re.sub("[^a-z0-9]+", "-", re.sub("[’“”.:]", "", label.lower())).strip("-")
    if "-" not in code:
        name = unicodedata.name(chr(int(code, 16)), "").lower()
        yield re.sub("[^a-z0-9]+", "-", name)
        yield re.sub("[^a-z0-9]+", "", name)


def _document(icons: dict, icon: dict) -> str:
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" color="#000" '
        f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}" '
        f'width="{SIDE}" height="{SIDE}">{icon["body"]}</svg>'
    )


def _draw(svg: str) -> np.ndarray:
    import resvg_py  # only drawing needs it: it comes with the extra `base`

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE))
    return _square(Image.open(io.BytesIO(png)))


def _photo(modules: Path, code: str) -> Iterator[np.ndarray]:
    folder = modules / "@lobehub" / "fluent-emoji-3d" / "assets"
    for path in (folder / f"{code}.webp", folder / f"{code}-fe0f.webp"):
        if path.exists():
            with Image.open(path) as image:
                yield _square(image)
            return


def _square(image: Image.Image) -> np.ndarray:
    """(128, 128, 4) uint8; what cannot be seen is zero, so that it costs no bytes."""
    image = image.convert("RGBA")
    if image.size != (SIDE, SIDE):
        image = image.convert("RGBa").resize((SIDE, SIDE), Image.Resampling.LANCZOS).convert("RGBA")
    pixels = np.array(image)
    pixels[pixels[..., 3] == 0] = 0
    return pixels


def main() -> None:
    """``python -m limner.bases.art``: draw the art file, or name the packages that it needs."""
    parser = argparse.ArgumentParser(description="Draw the art that the embedded base is trained on.")
    parser.add_argument("--packages", action="store_true", help="name the npm packages and stop")
    parser.add_argument(
        "--packages-in", type=Path, default=Path("node_modules"), help="the node_modules folder"
    )
    parser.add_argument("--out", type=Path, default=Path("art.npz"))
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.packages:
        sys.stdout.write(" ".join(f"{name}@{version}" for name, version in PACKAGES.items()) + "\n")
        return
    art = draw_all(args.packages_in)
    write_art(args.out, art)
    counts = {style: int((art.style == style).sum()) for style in STYLES}
    log.info("%s: %s, %s", args.out, counts, human(args.out.stat().st_size))


if __name__ == "__main__":
    main()
