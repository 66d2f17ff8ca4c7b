"""How many tokens a set will take, before anything is sent."""

from collections.abc import Sequence

from limner.captions import consistency, prompts
from limner.captions.picture import fitted
from limner.captions.price import tokens_of
from limner.captions.spec import Wish

SMALL = 384
"""Pixels of the copies that the set pass shows: 20 of them fit in one request."""
TOKENS_PER_WORD = 1.5
FRAME = 20
"""Tokens of the JSON around a caption."""


def tokens(
    alone: Sequence[tuple[int, int]], joined: Sequence[tuple[int, int]], wish: Wish, side: int
) -> tuple[int, int]:
    """Tokens (read, written): each image and prompt read once, each caption written, and once more as a set.

    Args:
        alone: (width, height), in pixels, of each image that a caption is asked of.
        joined: The same of those that the set pass reads; none where there is no such pass.
        wish: What is wanted.
        side: Longer side of the copies, in pixels.
    """
    prompt = len(prompts.for_image(wish).text)
    caption = round(TOKENS_PER_WORD * wish.manner.most * wish.variants) + FRAME
    read = sum(tokens_of(prompt, _pixels(size, side)) for size in alone)
    read += sum(tokens_of(0, _pixels(size, SMALL)) for size in joined) + caption * len(joined)
    read += -(-len(joined) // consistency.TOGETHER) * tokens_of(len(prompts.for_set(wish).text))
    return read, caption * (len(alone) + len(joined))


def _pixels(size: tuple[int, int], side: int) -> int:
    width, height = fitted(*size, side)
    return width * height
