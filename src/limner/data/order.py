"""Which views a step sees, a pure function of (views, batch, seed, step): nothing to save, nothing to resume.

All draws are made from raw Philox words (Salmon et al. 2011, Random123), whose values NumPy guarantees for
ever; its shuffles and integers it does not. How many images are held out, measured and sampled follows rules
that a plan and the run itself both read here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import NamedTuple, TypeVar

import numpy as np

from limner.data.folder import Example
from limner.data.views import View
from limner.errors import BadData, BadRecipe

MIN_IMAGES, SHARE = 20, 10
"""From so many images on, one in so many is held out unless the recipe says how many."""
MOST = 64
"""No more than so many then: each is measured at five noise levels, which must not outlast the training."""
SUBSET = 8
"""Training images whose loss is measured where none is held out."""
QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Of the recipe's time density: noise levels at which the loss of an image is measured."""
CAPTION_PROMPTS = 4
"""Captions of the folder that are sampled where the recipe has no prompts."""


def held_out(images: int, count: int | None) -> int:
    """Images kept from the training, of so many different ones; ``count`` is ``data.validation_count``."""
    if count is not None:
        return count
    return min(images // SHARE, MOST) if images >= MIN_IMAGES else 0


_EPOCH, _DRAW = 0, 1
T = TypeVar("T")


LOOK = "look_"
"""Start of the names of values that a step reads of a picture's references, in place of its own."""


class SampledView(NamedTuple):
    """One image of a step."""

    position: int
    """In the endless stream of images; what noise and time are drawn from, so that they differ per image."""
    view_index: int
    """Into the views."""
    references: tuple[int, ...] = ()
    """Rows of the pictures of its style that a predictor looks at."""


@dataclass(frozen=True)
class Pace:
    """How one of the processes works that compute a step together."""

    micro_batch: int
    """Most images that it takes at once."""
    seconds: float = 1.0
    """That it takes for a micro-batch; only the ratio between processes counts."""


class Order:
    """The endless stream of images, cut into steps of ``batch``.

    The stream is one arrangement of all images after another, an epoch each: each of them in each bucket that
    it is seen in, as often as its repeats and the draws of that bucket say. Step ``s``
    takes positions [s * batch, (s + 1) * batch): always a whole batch, also across epochs. Within
    an epoch, images of one size are shuffled and stay together in runs of ``batch`` that begin where a step
    begins; the runs are shuffled; what fills no run stands at the epoch's ends. So most steps hold one size.

    At each position the flip and the caption variant are drawn evenly, and the caption is dropped with
    probability ``caption_dropout``.
    """

    def __init__(self, views: Sequence[View], *, batch: int, seed: int, caption_dropout: float = 0.0) -> None:
        """Group the views by example and bucket.

        Raises:
            BadData: No views.
            BadRecipe: A number is out of range, or captions are to be dropped and no view has the empty one.
        """
        if not views:
            raise BadData("No images to train on. Put some into the folder.")
        if batch < 1:
            raise BadRecipe(f"train.batch is {batch}; it must be at least 1.")
        if not 0 <= caption_dropout <= 1:
            raise BadRecipe(f"data.caption_dropout is {caption_dropout}; it is a probability, 0 to 1.")
        self.batch = batch
        self.seed = seed
        self.caption_dropout = caption_dropout
        by_image: dict[tuple[Example, tuple[int, int]], list[int]] = {}
        for index, view in enumerate(views):
            by_image.setdefault((view.example, view.size), []).append(index)
        choices = (choices_of(views, indices, caption_dropout) for indices in by_image.values())
        self._plain, self._empty = map(_Lists, zip(*choices, strict=True))
        first_views = [views[indices[0]] for indices in by_image.values()]
        sizes = sorted({view.shape for view in views})
        size_of = [sizes.index(view.shape) for view in first_views]
        draws = [view.example.repeats * view.draws for view in first_views]
        members = np.repeat(np.arange(len(by_image)), draws)
        self._groups = [members[np.asarray(size_of)[members] == size] for size in range(len(sizes))]
        self._groups = [group for group in self._groups if len(group)]
        self._epoch = lru_cache(maxsize=2)(self._arranged)
        self.images_per_epoch = len(members)

    def step(self, step: int) -> list[SampledView]:
        """The draws of a step, counted from 0: ``batch`` of them, in the order of their positions."""
        return [self.draw(position) for position in range(step * self.batch, (step + 1) * self.batch)]

    def draw(self, position: int) -> SampledView:
        """What stands at a position of the stream."""
        epoch, offset = divmod(position, self.images_per_epoch)
        image = self._epoch(epoch)[offset]
        dropout_word, choice_word = words(self.seed, _DRAW, position, 2)
        choices = (self._empty if int(dropout_word) < self.caption_dropout * 2**64 else self._plain)[image]
        return SampledView(position, choices[int(choice_word) % len(choices)])

    def _arranged(self, epoch: int) -> list[int]:
        """Examples in their buckets, by number, in the order of an epoch, as the class says."""
        draws = iter(words(self.seed, _EPOCH, epoch, 2 * self.images_per_epoch + len(self._groups)).tolist())
        runs: list[list[int]] = []
        rests: list[list[int]] = []
        for group in self._groups:
            indices = shuffled(group.tolist(), draws)
            whole = len(indices) // self.batch * self.batch
            runs += [indices[start : start + self.batch] for start in range(0, whole, self.batch)]
            rests += [indices[whole:]] if whole < len(indices) else []
        runs, rests = shuffled(runs, draws), shuffled(rests, draws)
        loose = [index for rest in rests for index in rest]
        head = (
            -epoch * self.images_per_epoch % self.batch
        )  # how many complete the step that the last epoch began
        while len(loose) < head and runs:
            loose += runs.pop()
        return [*loose[:head], *(index for run in runs for index in run), *loose[head:]]


class _Lists:
    """Lists of numbers, in 8 bytes for each list and 4 for each number: a list of one takes 100."""

    def __init__(self, lists: Sequence[Sequence[int]]) -> None:
        self._ends = np.cumsum([0, *map(len, lists)])
        self._numbers = np.fromiter(chain.from_iterable(lists), np.int32, self._ends[-1])

    def __getitem__(self, index: int) -> list[int]:
        return self._numbers[self._ends[index] : self._ends[index + 1]].tolist()


def whole_ratio(weights: Sequence[float]) -> tuple[int, ...]:
    """The smallest whole numbers that stand to each other as some weights do, each share right to 2 %.

    ``whole_ratio([0.5, 0.25, 0.25]) == (2, 1, 1)``. Where numbers of which the smallest is at most 100 do not
    suffice, the best of them.

    Args:
        weights: At least one, above 0.
    """

    def error(numbers: Sequence[int]) -> float:
        scale = sum(weights) / sum(numbers)
        return max(abs(number * scale / weight - 1) for number, weight in zip(numbers, weights, strict=True))

    least = min(weights)
    candidates = [tuple(round(factor * weight / least) for weight in weights) for factor in range(1, 101)]
    return next((numbers for numbers in candidates if error(numbers) <= 0.02), min(candidates, key=error))


def micro_batches(
    parts: Sequence[Sequence[SampledView]], views: Sequence[View], paces: Sequence[Pace]
) -> list[list[list[SampledView]]]:
    """A step in micro-batches, for each process those that it computes, in their order.

    In a micro-batch all images are of one part and of one size, and their control images too. The next one
    goes to the process that would have finished it first, in its own size (list scheduling, Graham 1966). So
    equal processes take turns, and a fast one with much memory takes more images than a slow one. Every
    process finds the same without a word.

    Args:
        parts: Images of the step that share no micro-batch.
        views: What their indices mean.
        paces: Those of all processes.

    Raises:
        BadRecipe: A micro-batch has less than one image.
    """
    smallest = min(pace.micro_batch for pace in paces)
    if smallest < 1:
        raise BadRecipe(f"limits.micro_batch is {smallest}; it must be at least 1.")
    shares: list[list[list[SampledView]]] = [[] for _ in paces]
    busy = [0.0] * len(paces)
    for part in parts:
        by_size: dict[tuple[object, object], list[SampledView]] = {}
        for draw in part:
            view = views[draw.view_index]
            by_size.setdefault((view.size, view.control_sizes), []).append(draw)
        for group in by_size.values():
            start = 0
            while start < len(group):
                number = min(range(len(paces)), key=lambda index: busy[index] + paces[index].seconds)
                end = start + paces[number].micro_batch
                shares[number].append(group[start:end])
                busy[number] += paces[number].seconds
                start = end
    return shares


def choices_of(views: Sequence[View], indices: list[int], dropout: float) -> tuple[list[int], list[int]]:
    """Indices of an example's views (with its captions, with the empty one)."""
    empty = [index for index in indices if views[index].caption == ""]
    plain = [index for index in indices if views[index].caption != "" or "" in views[index].example.captions]
    if dropout > 0 and not empty:
        raise BadRecipe(
            f"data.caption_dropout is {dropout}, but the views hold no empty caption. Make them with it."
        )
    return plain or empty, empty


def shuffled(items: list[T], draws: Iterator[int]) -> list[T]:
    """The items in the order of as many draws."""
    keys = [next(draws) for _ in items]
    return [items[index] for index in sorted(range(len(items)), key=keys.__getitem__)]


def words(seed: int, domain: int, position: int, count: int) -> np.ndarray:
    """``count`` 64-bit words that belong to (seed, domain, place) alone."""
    key = np.array([seed % 2**64, domain], dtype=np.uint64)
    # Philox counts up in its first word; the place stands in the last, where no count reaches it.
    counter = np.array([0, 0, 0, position], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(count)


def passes(
    shares: Sequence[list[list[SampledView]]], process: int, *, alike: bool
) -> Iterator[tuple[list[SampledView], float]]:
    """The micro-batches of a process, and what each counts.

    Args:
        shares: Micro-batches of each process.
        process: Which.
        alike: All compute as many: one that has fewer computes some that count nothing. Where weights are
            split over processes, all gather as often.
    """
    yield from ((micro, 1.0) for micro in shares[process])
    if alike:
        spare = next(share for share in shares if share)[0]
        yield from ((spare, 0.0) for _ in range(max(map(len, shares)) - len(shares[process])))
