"""Trained token vectors beside a frozen table of them: textual inversion (Gal 2022, arXiv:2208.01618)."""

from typing import Any

import torch
from torch import Tensor, nn

from limner.errors import BrokenGraph
from limner.nn.rng import Places

VECTORS = "token_vectors"
"""Name of the parameter, in checkpoints too."""
PULL = 0.1
"""How much of the way, in logarithms, the spread of the vectors is led back to that of the table after a
step: diffusers' ``TokenEmbeddingsHandler.retract_embeddings``, after replicate's cog-sdxl."""


class TokenTable(nn.Module):
    """A frozen table of token vectors with trained ones for ids that follow each other.

    Args:
        base: The table of the encoder, (V, D).
        vectors: First values of the trained ones, (k, D), fp32.
        first: Id of the first of them. Where the table has a row of that id, it is not read.
        places: Of the samples of the current micro-batch, kept up to date by whoever trains.
        until: Steps after which the vectors learn no more; None: they always do.
    """

    def __init__(
        self, base: nn.Embedding, vectors: Tensor, first: int, places: Places, until: int | None = None
    ) -> None:
        """See the class."""
        super().__init__()
        self.base, self.first, self.until = base, first, until
        self.token_vectors = nn.Parameter(vectors)
        self._places = places
        with torch.no_grad():
            self.spread = torch.empty(()) if base.weight.is_meta else base.weight.float().std()

    @property
    def weight(self) -> Tensor:
        """The frozen table, which others ask for its type and device."""
        return self.base.weight

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) ids -> (B, L, D), in the table's precision."""
        count = len(self.token_vectors)
        is_new = (ids >= self.first) & (ids < self.first + count)
        known = self.base(torch.where(is_new, 0, ids))
        vectors = self.token_vectors.to(known.dtype)
        if self.until is not None and self._places and int(self._places[0][1]) >= self.until:
            vectors = vectors.detach()
        rows = vectors[torch.where(is_new, ids - self.first, 0)]
        return torch.where(is_new[..., None], rows, known)

    @torch.no_grad()
    def settle(self) -> None:
        """After a step that moved the vectors: lead their spread a little towards that of the table.

        An optimizer makes vectors longer that the encoder has never met, and what follows it then is lost.
        """
        vectors = self.token_vectors
        if vectors.grad is not None and vectors.numel() > 1:
            vectors.mul_((self.spread / vectors.std()) ** PULL)


def table(model: Any) -> TokenTable | None:
    """The trained vectors of a text encoder, if it has some."""
    embeddings = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    return embeddings if isinstance(embeddings, TokenTable) else None


def put(model: Any, new: TokenTable) -> None:
    """Have a text encoder read its tokens through a table with trained vectors.

    Raises:
        BrokenGraph: It does not let its table be replaced.
    """
    model.set_input_embeddings(new)
    if model.get_input_embeddings() is not new:
        raise BrokenGraph(f"{type(model).__name__} keeps its own table of token vectors.")
