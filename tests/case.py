"""What a case of the contract test says of a family."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from limner.models.family import Objective
from references import Values, scaled


@dataclass(frozen=True, kw_only=True)
class Case:
    """One family, or one kind of base of a family."""

    name: str
    pipeline: str
    save: Callable[[Path], Path]
    text: tuple[str, ...]
    """Boundary values of a caption when the denoiser alone is trained."""
    more: tuple[str, ...] = ()
    """Other boundary values besides the latent's."""
    encode: Callable[..., Values]
    """Stock pipeline and captions -> the values in ``text``, by the pipeline itself."""
    pred: Callable[[Any, Any, Values], Tensor]
    """Stock pipeline, trained denoiser, values -> what the example script's loss compares, (B, C, h, w)."""
    loss: Callable[[Any, Tensor, Values], Tensor]
    """Stock pipeline, pred, values -> the loss of the example script."""
    objective: Objective = Objective()
    full: str
    """Registered name of the true base; of one that has none a folder with its configs."""
    parameters: int
    """Of the true denoiser, as published or counted from its checkpoint."""
    linears: Mapping[str, int] = field(default_factory=dict)
    """Target group -> layers of the true denoiser that it names."""
    targets: str = "auto"
    """Group that is trained in the tests of the contract."""
    latent: Callable[[Any, Tensor], Tensor] = lambda pipe, mean: scaled(pipe, mean)
    """Stock pipeline, mean of the VAE's posterior -> the latent that the pipeline would decode from."""
    video: bool = False
    """Whether the VAE wants (B, C, frames, H, W)."""
    opaque: bool = False
    """Whether the VAE wants a fourth channel, of 1."""
    controls: int = 0
    """Control images of each image."""
    complete: Callable[[Any], Any] = lambda pipe: pipe
    """Stock pipeline as it is loaded -> with what else it needs."""
    given: Callable[[Path], Mapping[str, Any]] = lambda folder: {}
    """Folder -> parts of the stock pipeline that it does not load, such as one that ``complete`` makes."""
    text_sees: bool = False
    """Whether ``encode`` is given control images too."""
    alive: float = 0.9
    """Share of the factors that get a gradient."""
