"""The samples of a run as a part of its report: a row for each prompt, a column for each step."""

from collections.abc import Callable
from dataclasses import dataclass

from limner.report.markup import Html, data_url, escape, image, thumbnail
from limner.report.pairs import Pairs
from limner.report.sheet import Column, columns
from limner.run_folder import RunDir

COLUMNS, PROMPTS = 8, 24
"""The most of each that one page shows; what is left out is counted on it."""
SIDE = 256
"""The largest side of an image in the page, in pixels."""


@dataclass(frozen=True)
class SampleGrid:
    """What the samples are shown with."""

    run: RunDir
    prompts: list[str]
    pairs: Pairs
    best: int | None
    """Step with the least validation loss of those that can be used."""
    link: Callable[[str], Html]
    """A link to what the best step left, by its text."""

    def parts(self) -> tuple[Html, str, list[str]]:
        """The grid, what is to be said of it, and what could not be read; nothing without samples."""
        samples = self.run.samples()
        if not samples:
            return "", "", []
        visible = chosen(columns(samples), COLUMNS, self.best)
        indices = sorted({index for column in visible for index in column.images})
        cells = [f'<div class="steps">{name}</div>' for name in self.pairs.names]
        cells += [
            f'<div class="steps" data-column="{number}">{self._head(column)}</div>'
            for number, column in enumerate(visible)
        ]
        problems: list[str] = []
        for index in indices[:PROMPTS]:
            prompt = self.prompts[index] if index < len(self.prompts) else f"prompt {index}"
            cells.append(f'<div class="prompt">{escape(prompt)}</div>')
            cells += [image(thumbnail(thumb, SIDE), name) for name, thumb in self.pairs.row(index)]
            for number, column in enumerate(visible):
                path = column.images.get(index)
                url = data_url(path, SIDE) if path else None
                if path and not url:
                    problems.append(f"The sample {path.parent.name}/{path.name} cannot be read.")
                cells.append(image(url, f"{prompt}, {column.name}", f' data-column="{number}"'))
        count = len(self.pairs.names) + len(visible)
        grid = f'<div class="samples" style="--columns:{count}">{"".join(cells)}</div>'
        hidden = len(samples) - sum(len(column.steps) for column in visible), len(indices) - PROMPTS
        return f'<div class="wide">{grid}</div>', _note(visible[0], *hidden), problems

    def _head(self, column: Column) -> Html:
        name = column.name
        return f"{name} <b>{self.link('best kept')}</b>" if self.best in column.steps else name


def _note(first: Column, steps: int, prompts: int) -> str:
    start = "the base model as it was" if first.steps == (0,) else first.name
    return (
        "Each row is one prompt with one seed; training goes on from left to right. The first column is "
        f"{start}.{left_out(steps, 'sampled step')}{left_out(prompts, 'prompt')}"
    )


def chosen(candidates: list[Column], limit: int, best: int | None) -> list[Column]:
    """At most ``limit`` of the columns: the first, the last, the best, the others evenly spread."""
    if len(candidates) <= limit:
        return candidates
    even = [round(index * (len(candidates) - 1) / (limit - 1)) for index in range(limit)]
    best_index = next((index for index, column in enumerate(candidates) if best in column.steps), None)
    if best_index is not None and best_index not in even:
        nearest = min(even[1:-1], key=lambda index: abs(index - best_index))
        even[even.index(nearest)] = best_index
    return [candidates[index] for index in sorted(even)]


def left_out(count: int, noun: str) -> str:
    """How many things are not on the page, as a sentence after others; nothing where all are."""
    return f" {count} more {noun}{'s' if count > 1 else ''} not shown." if count > 0 else ""
