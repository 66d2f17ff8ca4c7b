"""The training of a predictor, as a family: its units stand before the base's, and what it writes is bound.

``look_..`` units are frozen and cached by content: what each encoder sees of a picture. ``predict`` is live:
from the looks at a style's references to a LoRA for each of its rows. The base's own units follow, the
denoiser with those LoRAs in it. Split, cache, loop, processes, average, validation and checkpoints are those
of any training.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from limner.data.order import LOOK
from limner.errors import BadRecipe
from limner.files import sha256_file
from limner.graph.unit import Unit
from limner.hyper.latents import look_unit, width_of
from limner.hyper.predictor import FILE, PIXELS, VAE, Look, Predictor, PredictorConfig, pixels_of
from limner.hyper.targets import linear_layers, targets_of
from limner.hyper.vision import ENCODERS, embed, encoder_folder, fingerprint, load_encoder, skeleton
from limner.models import loading
from limner.models.family import Family, OwnPart
from limner.models.source import Source
from limner.nn.layers import per_sample
from limner.nn.layers.per_sample import Pairs

MODEL = "predictor"
"""Name of the model that is trained, in recipes, checkpoints and units."""
PAIRS = "pairs"
"""Name of the value that it writes."""


@dataclass(frozen=True, kw_only=True)
class Learning:
    """What a person decides about a predictor that is trained."""

    endings: Callable[[Family], Sequence[str]]
    """The layers that it writes LoRAs for."""
    rank: int
    encoders: tuple[str, ...]
    encoder_folder: str
    side: int
    vae_side: int
    width: int
    bottleneck: int
    detail: int
    guidance: float
    experts: tuple[Path, ...]
    """Frozen predictors whose LoRAs are added."""
    seed: int

    def side_of(self, look: str) -> int:
        """Pixels of the squares that a look sees, where we say so."""
        return self.vae_side if look == VAE else self.side

    def folder_of(self, encoder: str) -> str:
        """Where a frozen encoder lies; "" for the hub's cache."""
        return encoder_folder(self.encoder_folder, encoder)


class Experts(nn.Module):
    """A predictor that is trained, and frozen ones whose LoRAs are added to what it writes."""

    def __init__(self, learner: Predictor, frozen: Sequence[Predictor]) -> None:
        super().__init__()
        self.learner, self.frozen = learner, nn.ModuleList(frozen)
        self.learns = True
        """Whether what is trained writes too, beside the frozen ones."""

    def forward(self, names: Sequence[str], looks: Sequence[Tensor]) -> Pairs:
        """The sum of what all write of the same pictures, exactly: their ranks stand side by side.

        Args:
            names: Of the looks.
            looks: (S, k, ..) each.
        """
        values = dict(zip(names, looks, strict=True))
        return joined(
            [
                scaled(expert(_read(expert, values)), expert.config.strength)
                for expert in self.predictors[not self.learns :]
            ]
        )

    @property
    def predictors(self) -> list[Predictor]:
        """All of them, the one that learns first."""
        return [self.learner, *self.frozen]  # pyright: ignore[reportReturnType]  it holds predictors alone


def _read(predictor: Predictor, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The looks of a predictor, by its own names; one that looks at nothing is told how many styles."""
    config = predictor.config
    if not config.looks:
        return dict([next(iter(values.items()))])
    return {look.name: values[_value(look.name, look.side or config.side)] for look in config.looks}


def scaled(pairs: Pairs, strength: float) -> Pairs:
    """LoRAs at a strength."""
    if strength == 1.0:
        return pairs
    return {name: (down, up * strength) for name, (down, up) in pairs.items()}


def joined(parts: Sequence[Pairs]) -> Pairs:
    """The sum of LoRAs of the same styles, exactly: their ranks stand side by side."""
    if len(parts) == 1:
        return parts[0]
    names = dict.fromkeys(name for part in parts for name in part)
    return {
        name: (
            torch.cat([part[name][0] for part in parts if name in part], 1),
            torch.cat([part[name][1] for part in parts if name in part], 2),
        )
        for name in names
    }


def _value(name: str, side: int) -> str:
    """What the value of a look is called: pictures of another size are another value."""
    return f"{LOOK}{name}_{side}" if name in (PIXELS, VAE) else f"{LOOK}{name}"


def show(
    units: Sequence[Unit], models: Mapping[str, Any], values: Mapping[str, Any], denoiser: nn.Module
) -> None:
    """Bind what the predictor writes of the looks among some values: one LoRA for all rows of samples."""
    predict = next(unit for unit in units if PAIRS in unit.writes)
    per_sample.bind(denoiser, predict.run(models, values)[PAIRS])


def predicting(family: Family, learning: Learning) -> Family:
    """A family whose trained model is a predictor that stands before it.

    Args:
        family: Of the base.
        learning: What is trained.

    Raises:
        BadBase: A predictor beside it, or an encoder, cannot be had.
        BadRecipe: Nothing looks at a picture.
    """
    frozen = [Predictor.load(path) for path in learning.experts]
    looks = _looks(family, learning, frozen)
    predict = Unit(
        name="predict",
        function=partial(_predict, tuple(looks)),
        uses=(MODEL,),
        reads=tuple(looks),
        writes=(PAIRS,),
        draws=False,
        version=1,
    )
    names = {name for unit in looks.values() for name in unit.uses if name in ENCODERS}
    parts = {name: _encoder(name, learning.folder_of(name)) for name in names}
    parts[MODEL] = OwnPart(
        load=lambda source, device: experts(family, source, learning, frozen).to(device),
        skeleton=lambda source: _on_meta(family, source, learning, frozen),
        fingerprint=lambda: MODEL,
    )
    units = [_with_pairs(unit, family.denoiser) for unit in family.units]
    return replace(family, units=(*looks.values(), predict, *units), own_parts=parts)


def _looks(family: Family, learning: Learning, frozen: Sequence[Predictor]) -> dict[str, Unit]:
    """Value -> the unit that writes it, of all that the predictors read."""
    pairs = [(name, learning.side_of(name)) for name in learning.encoders]
    pairs += [
        (look.name, look.side or expert.config.side) for expert in frozen for look in expert.config.looks
    ]
    pairs = pairs or [(PIXELS, learning.side)]  # a static LoRA, which is told how many rows there are
    return {_value(name, side): _look_unit(family, name, side) for name, side in pairs}


def _look_unit(family: Family, name: str, side: int) -> Unit:
    if name == VAE:
        return look_unit(family, _value(name, side), side)
    is_pixels = name == PIXELS
    return Unit(
        name=_value(name, side),
        function=_pixels if is_pixels else partial(_vector, name),
        uses=() if is_pixels else (name,),
        reads=("image",),
        writes=(_value(name, side),),
        draws=False,
        version=1,
        constants={"side": side} if is_pixels else {},
    )


def _pixels(image: Tensor, *, side: int) -> Tensor:
    """(1, 3, H, W) uint8 -> (1, 1, 3, side, side): a set of one picture, its middle square."""
    if image.is_meta:
        return image.new_empty((1, 1, 3, side, side))
    return pixels_of([_pil(image)], side)[None].to(image.device)


def _vector(name: str, model: nn.Module, image: Tensor) -> Tensor:
    """(1, 3, H, W) uint8 -> (1, 1, width) in fp32: a set of one picture."""
    return embed(name, model, image if image.is_meta else _pil(image))[None, None]


def _pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image[0].permute(1, 2, 0).cpu().numpy())


def _predict(names: Sequence[str], predictor: Experts, *looks: Tensor) -> Pairs:
    return predictor(names, looks)


def _with_pairs(unit: Unit, denoiser: str) -> Unit:
    """The unit that calls the denoiser, after the LoRAs of its rows were bound to it; others as they are.

    They stay bound: blocks that the backward pass computes again need them. A denoiser that takes none is
    the base's, as where a plan measures what a sample needs.
    """
    if denoiser not in unit.uses:
        return unit
    model, index = unit.uses.index(denoiser), len(unit.uses) + len(unit.reads)

    def function(*args: Any, **constants: Any) -> Any:
        if per_sample.attached(args[model]):
            per_sample.bind(args[model], args[index])
        return unit.function(*args[:index], *args[index + 1 :], **constants)

    return replace(unit, function=function, reads=(*unit.reads, PAIRS))


def _encoder(name: str, folder: str) -> OwnPart:
    return OwnPart(
        load=lambda _, device: load_encoder(name, folder).to(device),
        skeleton=lambda _: skeleton(name, folder),
        fingerprint=lambda: fingerprint(name, folder),
    )


def config_of(family: Family, source: Source, learning: Learning) -> PredictorConfig:
    """The sizes of a predictor for a base.

    Raises:
        BadRecipe: A target matches nothing, or a convolution; or an expert is for another base.
        BadBase: An encoder cannot be had.
    """
    denoiser = loading.skeleton(family, source, family.denoiser, dtype=torch.float32)
    looks = tuple(_described(family, source, learning, name) for name in learning.encoders)
    return PredictorConfig(
        base=source.name,
        targets=targets_of(denoiser, learning.endings(family)),
        rank=learning.rank,
        width=learning.width,
        bottleneck=learning.bottleneck,
        side=learning.side,
        guidance=learning.guidance,
        looks=looks,
        detail=learning.detail,
    )


def _described(family: Family, source: Source, learning: Learning, name: str) -> Look:
    if name == PIXELS:
        return Look(name)
    if name == VAE:
        return Look(name, width_of(family, source, learning.vae_side), learning.vae_side)
    return Look(name, skeleton(name, learning.folder_of(name)).config.hidden_size)


def experts(family: Family, source: Source, learning: Learning, frozen: Sequence[Predictor]) -> Experts:
    """What is trained at its first values, which a seed decides, and what stands beside it."""
    _require_layers(source, family, learning, frozen)
    config = config_of(family, source, learning)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(learning.seed)
        return Experts(Predictor(config), frozen)


def _require_layers(source: Source, family: Family, learning: Learning, frozen: Sequence[Predictor]) -> None:
    """Raise ``BadRecipe`` unless the base has the layers that the experts write LoRAs for."""
    layers = linear_layers(source, family) if frozen else {}
    for path, expert in zip(learning.experts, frozen, strict=True):
        if any(layers.get(target.name) != target for target in expert.config.targets):
            raise BadRecipe(
                f"instant.experts: {path.name} writes LoRAs for {expert.base.name}, and {source.name} has "
                f"other layers. Name a predictor for {source.name}."
            )


def _on_meta(family: Family, source: Source, learning: Learning, frozen: Sequence[Predictor]) -> nn.Module:
    _require_layers(source, family, learning, frozen)
    config = config_of(family, source, learning)
    with torch.device("meta"):
        return Experts(Predictor(config), [Predictor(expert.config) for expert in frozen])


def bound_layers(experts: Experts) -> list[str]:
    """Every layer of the denoiser that gets a LoRA."""
    return list(
        dict.fromkeys(target.name for expert in experts.predictors for target in expert.config.targets)
    )


def predictor_hash(path: Path) -> str:
    """SHA-256 of a predictor's file, or of that in its folder."""
    return sha256_file(path / FILE if path.is_dir() else path)
