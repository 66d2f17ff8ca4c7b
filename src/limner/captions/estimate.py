"""How many tokens a set will take, before anything is sent."""

from collections.abc import Sequence

from limner.captions import consistency, prompts
from limner.captions.price import tokens_of
from limner.captions.prompt_image import fitted
from limner.captions.spec import CaptionSpec

SMALL = 384
"""Pixels of the copies that the set pass shows: 20 of them fit in one request."""
TOKENS_PER_WORD = 1.5
FRAME = 20
"""Tokens of the JSON around a caption."""


def tokens(
    image_sizes: Sequence[tuple[int, int]], set_sizes: Sequence[tuple[int, int]], spec: CaptionSpec, side: int
) -> tuple[int, int]:
    """Tokens (read, written): each image and prompt read once, each caption written, and once more as a set.

    Args:
        image_sizes: (width, height), in pixels, of each image that a caption is asked of.
        set_sizes: The same of those that the set pass reads; none where there is no such pass.
        spec: What is wanted.
        side: Longer side of the copies, in pixels.
    """
    prompt = len(prompts.for_image(spec).text)
    caption = round(TOKENS_PER_WORD * spec.style.max_words * spec.variants) + FRAME
    read = sum(tokens_of(prompt, _pixels(size, side)) for size in image_sizes)
    read += sum(tokens_of(0, _pixels(size, SMALL)) for size in set_sizes) + caption * len(set_sizes)
    read += -(-len(set_sizes) // consistency.CAPTIONS_PER_REQUEST) * tokens_of(
        len(prompts.for_set(spec).text)
    )
    return read, caption * (len(image_sizes) + len(set_sizes))


def _pixels(size: tuple[int, int], side: int) -> int:
    width, height = fitted(*size, side)
    return width * height
