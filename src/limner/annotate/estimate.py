"""How many tokens a set will take, before anything is sent."""

from collections.abc import Sequence

from limner.annotate import agree, prompts
from limner.annotate.picture import fitted
from limner.annotate.price import tokens_of
from limner.annotate.wish import Wish

SMALL = 384
"""Pixels of the copies that the set pass shows: 20 of them fit in one request."""
TOKENS_PER_WORD = 1.5
FRAME = 20
"""Tokens of the JSON around a caption."""


def tokens(sizes: Sequence[tuple[int, int]], wish: Wish, side: int, *, together: bool) -> tuple[int, int]:
    """Tokens (read, written): each image and prompt read once, each caption written, all once more as a set.

    Args:
        sizes: (width, height) of each image, in pixels.
        wish: What is wanted.
        side: Longer side of the copies, in pixels.
        together: Whether the set pass follows.
    """
    prompt = len(prompts.for_image(wish).text)
    areas = [fitted(*size, side) for size in sizes]
    read = sum(tokens_of(prompt, width * height) for width, height in areas)
    written = len(sizes) * (round(TOKENS_PER_WORD * wish.manner.most * wish.variants) + FRAME)
    if together:
        requests = -(-len(sizes) // agree.TOGETHER)
        thumbs = (fitted(*size, SMALL) for size in sizes)
        read += sum(tokens_of(0, width * height) for width, height in thumbs) + written
        read += requests * tokens_of(len(prompts.for_set(wish).text))
        written *= 2
    return read, written
