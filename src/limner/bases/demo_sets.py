"""The demo's training pictures: three styles that the base has never seen, and the project's own mascot.

Run again, it writes the files that the package holds in ``glyph/demo``::

    python -m limner.bases.demo_sets --art art.npz --out src/limner/bases/glyph/demo
"""

import argparse
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from limner.bases.captions import GROUNDS, Appearance
from limner.bases.mascot import Pose, drawn
from limner.errors import BadData
from limner.files import atomic_write, human, write_text

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from limner.bases.art import Art

SETS = ("blueprint", "ink", "fluent3d", "mascot")
NOUNS = (
    "turtle",
    "penguin",
    "elephant",
    "octopus",
    "strawberry",
    "hamburger",
    "airplane",
    "tractor",
    "castle",
    "key",
)
TEST_NOUNS = (
    "cat",
    "car",
    "apple",
    "house",
    "fish",
    "guitar",
    "rocket",
    "crown",
    "owl",
    "cactus",
    "bus",
    "pizza",
    "umbrella",
    "tree",
    "butterfly",
    "cup",
    "camera",
    "boat",
    "flower",
    "dog",
)
"""The nouns that the demo is judged with; no style set shows one."""

BLUEPRINT_FROM = ("noto", "fluent", "twemoji")
"""Hands under the blueprints, in turn: what the ten have in common is the look alone."""

FLUENT3D_GROUNDS = (
    "white",
    "white",
    "sky blue",
    "white",
    "cream",
    "white",
    "pink",
    "white",
    "green",
    "white",
)

MASCOTS = (
    ("white", Pose(left="wave")),
    ("yellow", Pose(right="wave", prop="flower", look=(0.6, -0.5), sway=-10)),
    ("sky blue", Pose(left="up", right="up", jump=True, mouth="open", look=(0, -0.6))),
    ("pink", Pose(left="out", right="out", prop="cup", mouth="small", look=(0.8, 0.4))),
    ("dark green", Pose(lean=-9, look=(-1, 0), mouth="grin", sway=10)),
    ("cream", Pose(right="out", prop="book", look=(0.7, 0.8), mouth="small")),
    ("purple", Pose(left="wave", right="wave", prop="star", mouth="open", sway=-20)),
    ("grey", Pose(asleep=True, lean=7, sway=-15)),
    ("green", Pose(left="up", right="out", prop="flag", mouth="grin", look=(-0.4, -0.4), lean=-5)),
    ("white", Pose(left="out", right="up", jump=True, lean=8, look=(1, -0.3), mouth="grin")),
)
"""Ground and pose of each picture of the mascot. No teal: it would hide in it."""

LICENCES = """\
# Licences of the demo pictures

| pictures | art | licence |
|---|---|---|
| `fluent3d`, `ink`, part of `blueprint` | Fluent Emoji, copyright Microsoft Corporation | MIT |
| part of `blueprint` | Noto Emoji, copyright Google | Apache-2.0 |
| part of `blueprint` | Twemoji, copyright Twitter, Inc. and contributors (jdecked) | CC-BY-4.0 |
| `mascot` | drawn by this project (`limner/bases/mascot.py`) | Apache-2.0, as the project |

Changes: the art is drawn at 128 x 128 on plain grounds; `blueprint` turns it into pale shapes and
lines on navy. Of `blueprint`, pictures 1, 4, 7 and 10 come from Noto, 2, 5 and 8 from Fluent, 3, 6 and 9 from
Twemoji.
Full texts: Apache-2.0 in the `LICENSE` of this project, CC-BY-4.0 at
https://creativecommons.org/licenses/by/4.0/legalcode, and MIT here:

> MIT License. Copyright (c) Microsoft Corporation.
>
> Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
> associated documentation files (the "Software"), to deal in the Software without restriction,
> including without limitation the rights to use, copy, modify, merge, publish, distribute,
> sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
> furnished to do so, subject to the following conditions:
>
> The above copyright notice and this permission notice shall be included in all copies or
> substantial portions of the Software.
>
> THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
> NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
> NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
> DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT
> OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DemoImage:
    """One training picture."""

    name: str
    """File name without its ending."""
    caption: str
    """With the placeholder ``[trigger]``; one in each line."""
    pixels: "np.ndarray"
    """(128, 128, 3) uint8."""


def folder(name: str) -> Path:
    """Where the package holds the set ``name``, one of ``SETS``.

    Raises:
        BadData: There is no such set.
    """
    if name not in SETS:
        raise BadData(f"There is no demo set {name!r}. Choose one of {', '.join(SETS)}.")
    return Path(str(resources.files("limner.bases") / "glyph" / "demo" / name))


def style_set(name: str, art: "Art") -> Iterator[DemoImage]:
    """The ten pictures of a style, ``blueprint``, ``ink`` or ``fluent3d``, from the art file.

    Each has two captions, with its noun and without: the style belongs to the trigger, whatever the noun.

    Raises:
        BadData: The art lacks a noun.
    """
    for row, noun in enumerate(NOUNS):
        blueprint = name == "blueprint"
        drawing = _drawing(art, BLUEPRINT_FROM[row % len(BLUEPRINT_FROM)] if blueprint else name, noun)
        ground = FLUENT3D_GROUNDS[row] if name == "fluent3d" else "white"
        choice = Appearance(look="blueprint" if blueprint else "none", ground=ground)
        ground_words = "" if ground == "white" else f", on a {ground} background"
        captions = (f"[trigger] style {noun}{ground_words}", f"[trigger] style{ground_words}")
        yield DemoImage(f"{row + 1:02}-{noun}", "\n".join(captions), _painted(drawing, choice))


def mascot_set() -> Iterator[DemoImage]:
    """The ten pictures of the mascot, whose captions say the ground and what it holds."""
    for row, (ground, pose) in enumerate(MASCOTS):
        holding = f", holding a {pose.prop}" if pose.prop else ""
        caption = f"[trigger], on a {ground} background{holding}"
        yield DemoImage(f"{row + 1:02}-{ground.replace(' ', '-')}", caption, _grounded(drawn(pose), ground))


def write_set(examples: Iterator[DemoImage], out: Path) -> int:
    """Write pictures and their captions into ``out``; gives the bytes written."""
    out.mkdir(parents=True, exist_ok=True)
    for example in examples:
        image = _small(example.pixels)
        atomic_write(
            out / f"{example.name}.png", lambda draft, image=image: image.save(draft, "PNG", optimize=True)
        )
        write_text(out / f"{example.name}.txt", example.caption + "\n")
    return sum(path.stat().st_size for path in out.iterdir())


def _drawing(art: "Art", style: str, noun: str) -> "np.ndarray":
    rows = ((art.style == style) & (art.concept == noun)).nonzero()[0]
    if not len(rows):
        raise BadData(f"The art file has no {noun!r} in style {style!r}. Draw it again: limner.bases.art.")
    return art.rgba[rows[0]]


def _painted(drawing: "np.ndarray", choice: Appearance) -> "np.ndarray":
    import torch

    from limner.bases.looks import render

    pixels = render(torch.from_numpy(drawing).permute(2, 0, 1)[None].float() / 255, [choice])[0]
    return (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def _grounded(drawing: "np.ndarray", ground: str) -> "np.ndarray":
    import numpy as np

    alpha = drawing[..., 3:].astype(np.float32) / 255
    mixed = drawing[..., :3] * alpha + np.array(GROUNDS[ground], np.float32) * (1 - alpha)
    return mixed.round().astype(np.uint8)


def _small(pixels: "np.ndarray") -> "Image.Image":
    """A palette of 128 colours costs a third of the bytes and shows no difference at this size."""
    from PIL import Image

    return Image.fromarray(pixels).quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def main() -> None:
    """``python -m limner.bases.demo_sets``: write the four sets and their licences."""
    from limner.bases.art import read_art

    parser = argparse.ArgumentParser(description="Draw the training pictures of the demo.")
    parser.add_argument("--art", type=Path, default=Path("art.npz"), help="made by limner.bases.art")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    art = read_art(args.art)
    for name in SETS:
        examples = mascot_set() if name == "mascot" else style_set(name, art)
        log.info("%s: %s", args.out / name, human(write_set(examples, args.out / name)))
    write_text(args.out / "LICENCES.md", LICENCES)


if __name__ == "__main__":
    main()
