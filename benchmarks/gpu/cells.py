"""What is measured: bases, sizes, cards, and what is hoped for. No torch."""

from dataclasses import dataclass, replace
from typing import Literal

GIB = 2**30

Quality = Literal["16bit", "8bit", "4bit"]

RANK = 16
CAPTION = "a long caption, " * 80
"""More letters than any text encoder reads tokens."""
WARM_UP = 3
"""Steps before the first that counts: kernels are chosen and compiled in them."""

FLUX_TARGETS = (
    *(f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")),
    *(f"attn.{name}" for name in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")),
    *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp", "proj_out"),
)
"""All linear layers of attention and of the feed-forward networks: 65.4 million numbers at rank 16."""
ATTENTION_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
TARGETS: dict[str, tuple[str, ...]] = {
    "flux-dev": FLUX_TARGETS,
    "sdxl": ATTENTION_TARGETS,
    "qwen-image": (*ATTENTION_TARGETS, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    "z-image": ATTENTION_TARGETS,
    "krea2": (*ATTENTION_TARGETS, "attn.to_gate"),
}
"""Base -> endings of the layers that every side trains, where it can be told."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row of the table."""

    name: str
    base: str
    sizes: tuple[tuple[int, int], ...]
    """(width, height) in pixels, in turn: one, or one for each aspect bucket."""
    batch: int = 1
    card: int
    """GiB of the card that is played."""
    quality: Quality
    """The coarsest weights that count."""
    steps: int
    """Steps that count."""
    floor: float | None = None
    """Seconds of the arithmetic alone at 800 TFLOP/s."""
    wanted: float | None = None
    """Seconds per step that are hoped for. None: it has to fit."""
    eager: bool = False
    """Whether its plan may not compile blocks."""
    planned_for: str = ""
    """Card whose rates decide the plan, which then runs on the one that is there. Empty: the one there."""
    peers: tuple[str, ...]

    @property
    def largest(self) -> tuple[int, int]:
        """The bucket with the most pixels."""
        return max(self.sizes, key=lambda size: size[0] * size[1])

    @property
    def label(self) -> str:
        """For people."""
        width, height = self.largest
        suffix = f" x {len(self.sizes)} buckets" if len(self.sizes) > 1 else ""
        return f"{self.name}: {self.base} {width}x{height}{suffix} b{self.batch}, {self.card} GB"


def square(side: int) -> tuple[tuple[int, int], ...]:
    """One bucket."""
    return ((side, side),)


BUCKETS = ((1024, 1024), (896, 1152), (1152, 896), (832, 1216), (1216, 832))

CELLS = (
    Cell(
        name="1",
        base="flux-dev",
        sizes=square(1024),
        card=80,
        quality="16bit",
        steps=20,
        floor=0.214,
        wanted=0.32,
        eager=True,
        peers=("diffusers", "diffusers-kept", "sd-scripts"),
    ),
    Cell(
        name="1c",
        base="flux-dev",
        sizes=square(1024),
        card=80,
        quality="16bit",
        steps=20,
        floor=0.214,
        peers=(),
    ),
    Cell(
        name="2",
        base="flux-dev",
        sizes=square(1024),
        card=24,
        quality="8bit",
        steps=20,
        wanted=0.35,
        peers=("diffusers-nf4", "sd-scripts"),
    ),
    Cell(
        name="3",
        base="flux-dev",
        sizes=square(512),
        card=24,
        quality="8bit",
        steps=40,
        floor=0.057,
        wanted=0.10,
        peers=("diffusers-nf4", "sd-scripts"),
    ),
    Cell(
        name="4",
        base="flux-dev",
        sizes=square(1024),
        card=12,
        quality="8bit",
        steps=20,
        wanted=0.45,
        peers=("sd-scripts", "diffusers-nf4"),
    ),
    Cell(
        name="5",
        base="flux-dev",
        sizes=square(512),
        card=8,
        quality="8bit",
        steps=40,
        peers=("sd-scripts", "diffusers-nf4"),
    ),
    Cell(
        name="6",
        base="sdxl",
        sizes=square(1024),
        batch=4,
        card=24,
        quality="16bit",
        steps=20,
        floor=0.074,
        peers=("diffusers",),
    ),
    Cell(
        name="6b",
        base="sdxl",
        sizes=square(1024),
        card=24,
        quality="16bit",
        steps=40,
        floor=0.018,
        peers=("diffusers", "diffusers-kept"),
    ),
    Cell(
        name="7",
        base="qwen-image",
        sizes=square(1024),
        card=24,
        quality="8bit",
        steps=20,
        wanted=0.55,
        peers=("musubi",),
    ),
    Cell(
        name="8",
        base="z-image",
        sizes=square(1024),
        card=16,
        quality="8bit",
        steps=20,
        floor=0.158,
        peers=("musubi", "diffusers"),
    ),
    Cell(
        name="8b",
        base="z-image",
        sizes=BUCKETS,
        card=16,
        quality="8bit",
        steps=30,
        peers=("diffusers",),
    ),
    Cell(
        name="9",
        base="flux-dev",
        sizes=square(1024),
        card=24,
        quality="8bit",
        steps=20,
        planned_for="RTX 4090",
        peers=(),
    ),
    Cell(
        name="10",
        base="krea2",
        sizes=square(1024),
        card=10,
        quality="8bit",
        steps=10,
        peers=(),
    ),
)
"""The cells; 1c is 1 compiled, 6b shows the cost of launches, 8b what changing shapes cost, 9 is the very
plan of a 4090, whose compiled blocks take eager's memory on trust, 10 the base that most people train."""

TINY_SIDE = {1024: 64, 512: 32}


def tiny(cell: Cell) -> Cell:
    """The same cell as small as a processor likes it, and nothing hoped for."""
    sizes = tuple((TINY_SIDE.get(w, 64), TINY_SIDE.get(h, 64)) for w, h in cell.sizes)
    if len(sizes) > 1:
        sizes = ((64, 64), (32, 96), (96, 32), (32, 64), (64, 32))
    return replace(cell, sizes=sizes, steps=5, floor=None, wanted=None)


def chosen(names: list[str], *, small: bool) -> list[Cell]:
    """Cells by name, in the table's order.

    Raises:
        SystemExit: A name is unknown.
    """
    cells_by_name = {cell.name: cell for cell in CELLS}
    if unknown := [name for name in names if name not in cells_by_name]:
        raise SystemExit(f"No cell {', '.join(unknown)}. There are {', '.join(cells_by_name)}.")
    return [tiny(cell) if small else cell for cell in CELLS if cell.name in (names or cells_by_name)]
