"""What a model family must say of itself. Data and functions; nothing to inherit from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image
from torch import Tensor

from limner.errors import BadBase, BadRecipe
from limner.families.source import Source
from limner.graph.unit import Unit, check

INPUTS = ("image", "caption")
"""What the data gives: ``image`` (1, 3, H, W) uint8, ``caption`` a tuple of one str."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The wishes of a recipe that change what is learned. ``None`` leaves a choice to the family."""

    time_density: str | None = None
    time_shift: float | None = None
    guidance: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """How samples are painted. Sizes in pixels; ``guidance`` None means the base's own."""

    width: int
    height: int
    steps: int
    guidance: float | None = None
    seed: int = 0


class Paint(Protocol):
    """Paints one image for each prompt embedding."""

    def __call__(
        self,
        source: Source,
        models: Mapping[str, Any],
        prompts: Sequence[Mapping[str, Tensor]],
        blank: Mapping[str, Tensor],
        canvas: Canvas,
    ) -> list[Image.Image]:
        """``prompts`` and ``blank`` hold the text values that the denoiser reads, batch size 1."""
        ...


@dataclass(frozen=True, kw_only=True)
class Family:
    """Everything Limner knows of one model. A new family is one file that ends in one of these."""

    name: str
    pipeline: str
    """Class in ``model_index.json``: how a folder says which family it is."""
    denoiser: str
    parts: Mapping[str, str]
    """Model name -> 'library:Class'. The folder of a part bears its name."""
    full_precision: tuple[str, ...]
    """Models that always run in fp32, because they are small or fragile."""
    units: tuple[Unit, ...]
    """From :data:`INPUTS` to ``loss`` (B,), in order."""
    text: tuple[str, ...]
    """Values that the denoiser reads of a caption."""
    constants: Callable[[Source, Objective], Mapping[str, Any]]
    """Constants of the units, from the base's own configs and the recipe's wishes."""
    targets: Mapping[str, tuple[str, ...]]
    """Named groups of linear layers of the denoiser: endings of module names."""
    text_targets: Mapping[str, tuple[str, ...]]
    """Text encoder -> endings of the linear layers that a LoRA on it trains."""
    layers: Mapping[str, str]
    """Text encoder -> path of its list of layers."""
    identity: Callable[[Source], tuple[str, str]]
    """ModelSpec's architecture and sd-scripts' version word of a base, for the metadata of its LoRA files."""
    multiple: int
    """Image sides must be multiples of this, in pixels."""
    options: Callable[[Source, Canvas], dict[str, Any]]
    """Arguments of the stock pipeline that make it paint on a canvas from a prompt."""
    paint: Paint

    def __post_init__(self) -> None:
        check(self.units, given=INPUTS)

    def bound(self, source: Source, objective: Objective) -> tuple[Unit, ...]:
        """The units with every constant bound.

        Raises:
            BadBase: The base's configs are missing, or hold values that mean nothing.
        """
        try:
            constants = self.constants(source, objective)
        except (TypeError, ValueError, LookupError) as error:
            raise BadBase(
                f"{source.name}: scheduler/ or {self.denoiser}/ has a config that means nothing ({error}). "
                f"{source.again}"
            ) from error
        return tuple(each.bind(**constants) for each in self.units)

    def endings(self, model: str, wanted: str | Sequence[str]) -> tuple[str, ...]:
        """Module-name endings for a named target group, or the endings themselves.

        Raises:
            BadRecipe: The group or the model is unknown.
        """
        if model != self.denoiser:
            if model not in self.text_targets:
                known = ", ".join(sorted(self.text_targets))
                raise BadRecipe(
                    f"lora.text_encoders: {self.name} has no text encoder {model!r}. Known: {known}."
                )
            return self.text_targets[model]
        if not isinstance(wanted, str):
            return tuple(wanted)
        name = "all-linear" if wanted == "auto" else wanted
        if name not in self.targets:
            known = ", ".join(sorted(self.targets))
            raise BadRecipe(f"lora.targets is {wanted!r}; {self.name} has {known}. Or list module endings.")
        return self.targets[name]

    def check_side(self, name: str, pixels: int | None) -> None:
        """Raise ``BadRecipe`` unless an image side can be painted; the stock pipeline would round it down."""
        if pixels is not None and pixels % self.multiple:
            near = max(1, round(pixels / self.multiple)) * self.multiple
            raise BadRecipe(
                f"{name} is {pixels}; {self.name} paints multiples of {self.multiple}. Set {near}."
            )

    def library(self, part: str) -> tuple[str, str]:
        """The library and class that load a part."""
        if part not in self.parts:
            raise BadBase(f"{self.name} has no model {part!r}; it has {', '.join(self.parts)}.")
        library, _, kind = self.parts[part].partition(":")
        return library, kind
