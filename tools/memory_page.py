"""Write the table of docs/guide/memory.md: what `limner plan` says for cards of common sizes."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from limner.models.presets import preset
from limner.nn.memory.plan import BITS
from limner.planning.describe import duration
from limner.planning.planner import PlanResult, plan
from limner.recipe.fields import label
from limner.recipe.toml import change
from limner.reporter import Reporter

PAGE = Path(__file__).resolve().parents[1] / "docs" / "guide" / "memory.md"
BEGIN, END = "<!-- table: tools/memory_page.py -->", "<!-- end of the table -->"
CARDS = {8: "RTX 4060", 12: "RTX 3060", 16: "RTX 4080", 24: "RTX 4090"}
"""Memory -> the card whose speed is shown."""
BASES = {
    "flux-dev": ("flux", (512, 1024)),
    "flux2-klein-4b": ("flux2", (1024,)),
    "qwen-image": ("qwen-image", (1024,)),
    "sdxl": ("sdxl", (1024,)),
    "z-image": ("z-image", (1024,)),
}
HEAD = (
    "| base | size | card | weights | checkpointed blocks | swapped blocks | VRAM | host memory | per step |",
    "|---|---|---|---|---|---|---|---|---|",
)


def planned(base: str, resolution: int, memory: int) -> PlanResult:
    """The plan of a preset's recipe, one image per step."""
    family, _ = BASES[base]
    wish = {"base": base, "data.resolution": resolution, "data.images": "-", "train.batch": 1}
    recipe = change(preset("subject", family, 10), wish | {"limits.vram": f"{memory}GB"})
    return plan(recipe, Reporter(), card=CARDS[memory])


def row(base: str, resolution: int, memory: int) -> str:
    """One line of the table."""
    plan_row = planned(base, resolution, memory)
    start = f"| {base} | {resolution} | {memory} GB, {CARDS[memory]} |"
    if plan_row.choice is None:
        assert plan_row.misfit
        return f"{start} does not fit: {'; or '.join(plan_row.misfit.remedies)} | | | | | |"
    choice, blocks = plan_row.choice, len(plan_row.profile.blocks)
    run_plan, pace = choice.plan, choice.step_time.seconds
    checkpoint_text = f"{run_plan.checkpointed_blocks} of {blocks}" if run_plan.checkpointed_blocks else "no"
    swap_text = f"{run_plan.swapped_blocks} of {blocks}" if run_plan.swapped_blocks else "no"
    return (
        f"{start} {BITS[run_plan.weights]} bits | {checkpoint_text} | {swap_text} | "
        f"{label(choice.reserved)} | {label(choice.host.total)} | "
        f"{duration(pace) if pace >= 10 else f'{pace:.2g} s'} |"
    )


def rows() -> Iterator[str]:
    """All lines."""
    yield from HEAD
    for base, (_, sizes) in BASES.items():
        for resolution in sizes:
            for memory in CARDS:
                yield row(base, resolution, memory)


def main() -> None:
    """Put the table into the page."""
    text = PAGE.read_text(encoding="utf-8")
    table = "\n".join([BEGIN, *rows(), END])
    text = re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: table, text, flags=re.DOTALL)
    PAGE.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{PAGE.name}: {len(table.splitlines()) - 4} rows\n")


if __name__ == "__main__":
    main()
