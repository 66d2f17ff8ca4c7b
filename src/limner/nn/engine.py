"""Puts a plan's choices on a live model and takes them off. They change what is kept, never a gradient."""

from collections.abc import Callable, Sequence

from torch import nn

from limner.nn.anatomy import Anatomy, frozen, matching, stand_in
from limner.nn.checkpointing import Checkpoint, Tail, placed


class Engine:
    """What was done to a model. Close it before the model is equipped anew."""

    def __init__(self, undo: Sequence[Callable[[], None]]) -> None:
        self._undo = list(undo)

    def close(self) -> None:
        """Make the model what it was. Closing twice does nothing more."""
        while self._undo:
            self._undo.pop()()


def equip(
    model: nn.Module,
    anatomy: Anatomy,
    *,
    checkpointed: int = 0,
    tail_skip: bool = True,
    keep_attention: bool = False,
) -> Engine:
    """Have a model computed as a plan says. Its adapters are attached, its frozen layers stored as they stay.

    Args:
        model: A denoiser.
        anatomy: Where its blocks are.
        checkpointed: How many blocks, from the first, are computed again for their gradient.
        tail_skip: Whether they then leave out products that no gradient reads.
        keep_attention: Whether they keep what attention gives.
    """
    blocks = list(anatomy.blocks_of(model).values())
    undo: list[Callable[[], None]] = []
    if tail_skip and checkpointed:
        tails = [frozen(each) for each in matching(model, anatomy.tails).values()]
        undo += [stand_in(each, Tail(each)) for each in tails]
    memory = placed(model)
    for block in blocks[:checkpointed]:
        run = Checkpoint(block.forward, memory=memory, keep_attention=keep_attention)
        undo.append(stand_in(block, run))
    return Engine(undo)
