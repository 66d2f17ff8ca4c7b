"""From pictures to a LoRA in one pass: a network that writes the factors of every target layer.

The linear form of Image-to-LoRA (DiffSynth-Studio's Qwen-Image-i2L and Z-Image-i2L of 2025): for every layer
and side two matrices one after the other. Here a trunk stands before them and a static LoRA beside them, as
in Doc-to-LoRA (arXiv:2602.15902), so that what all styles have in common need not be predicted.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from limner.errors import BadBase, BadData
from limner.files import atomic_write
from limner.hyper.encoders import DetailEncoder, StyleEncoder
from limner.hyper.targets import Target, fingerprint
from limner.nn.layers.per_sample import Pairs

PIXELS = "pixels"
"""What the predictor's own encoder sees; every other look is the vector of a frozen encoder."""
VAE = "vae"
"""The latents of the base's own autoencoder, place by place: of all looks the one that says what is where."""
Looks = Mapping[str, Tensor]
"""Look -> k pictures of each of S styles: of "pixels" (S, k, 3, side, side) uint8, else (S, k, width)."""
FORMAT = "limner-instant-1"
LORA_MARKS = (".lora_", ".lokr_", ".hada_")
"""In the names of a LoRA's tensors, whoever trained it."""
FILE = "predictor.safetensors"
"""Name of the file inside a predictor's folder."""


@dataclass(frozen=True)
class PredictorBase:
    """What a predictor writes LoRAs for."""

    name: str
    """Of the base, as recipes have it."""
    targets: str
    """:func:`limner.hyper.targets.fingerprint` of its layers."""


@dataclass(frozen=True)
class Look:
    """What of a picture a predictor reads."""

    name: str
    """``pixels``, ``vae``, or an encoder of :mod:`limner.hyper.vision`."""
    width: int = 0
    """Of that encoder's vector; of ``vae`` channels times places."""
    side: int = 0
    """Pixels of the square that ``vae`` encodes; 0 for those that know theirs."""


@dataclass(frozen=True, kw_only=True)
class PredictorConfig:
    """Sizes of a predictor; all of them stand in its file."""

    base: str
    targets: tuple[Target, ...]
    rank: int = 4
    """Of what it writes."""
    width: int = 192
    """Of the style's vector."""
    bottleneck: int = 16
    """Numbers between the two matrices of a head."""
    side: int = 64
    """Pixels of the pictures that it reads."""
    lora_on: str = "positive"
    """Branches of guidance that suit what it writes: "positive" alone, or "both", as of any LoRA."""
    guidance: float = 2.0
    """Suits what it writes, where it is on the positive branch only; on both the base's own is used."""
    strength: float = 1.0
    """Suits what it writes."""
    nested: bool = False
    """Whether it was trained to write ranks in the order of what they give (nested dropout: Rippel et al.,
    arXiv:1402.0915): its first ranks are then a LoRA that gives more than the nearest of that rank."""
    looks: tuple[Look, ...] = (Look(PIXELS),)
    """Added up. None: the static LoRA is all there is."""
    detail: int = 0
    """Numbers of a second vector, which ``vae`` alone makes and the heads read beside the style's: what the
    pictures show, which a style leaves out. 0: none, ``vae`` is a look as any other."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the looks."""
        return tuple(look.name for look in self.looks)

    @property
    def style_looks(self) -> tuple[Look, ...]:
        """Those that make the style's vector."""
        return tuple(look for look in self.looks if not (self.detail and look.name == VAE))

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of the style's vector and of the detail's, as far as there are looks for them."""
        return self.width * bool(self.style_looks), self.detail * (VAE in self.names)


class Predictor(nn.Module):
    """Reads 1 to some pictures of a style and writes A (rank, in) and B (out, rank) of every target.

    The scale is 1: dW = B A. Pictures are read one by one and averaged, so that their order means nothing and
    their number may vary. It begins at dW = 0: the second matrix of B's heads and the static B are zero.
    """

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__()
        self.config, self.record = config, dict[str, Any]()
        self.split: Callable[[Tensor | None, int], Pairs] | None = None
        """Takes the place of :meth:`write` where the heads are divided between processes."""
        width, rank = config.width, config.rank
        self.static_down = nn.ParameterList(
            torch.randn(rank, target.inputs) / math.sqrt(target.inputs) for target in config.targets
        )
        self.static_up = nn.ParameterList(torch.zeros(target.outputs, rank) for target in config.targets)
        if not config.looks:
            return
        if PIXELS in config.names:
            self.encoder = StyleEncoder(width)
        self.projections = nn.ModuleDict(
            {
                _module_name(look.name): nn.Sequential(nn.LayerNorm(look.width), nn.Linear(look.width, width))
                for look in config.style_looks
                if look.name != PIXELS
            }
        )
        if config.style_looks:
            self.trunk = nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
            )
            self.norm = nn.LayerNorm(width)
        if config.sizes[1]:
            latents = next(look.width for look in config.looks if look.name == VAE)
            self.detail = DetailEncoder(latents, config.detail)
        self._add_heads(config)

    def _add_heads(self, config: PredictorConfig) -> None:
        """Two matrices for each target and side, with the bottleneck between them."""
        narrow, rank, read = config.bottleneck, config.rank, sum(config.sizes)
        count = len(config.targets)
        self.inner = nn.Parameter(torch.randn(2 * count, read, narrow) / math.sqrt(read))
        self.down = nn.ParameterList(
            torch.randn(narrow, rank * target.inputs) / math.sqrt(narrow * target.inputs)
            for target in config.targets
        )
        self.up = nn.ParameterList(torch.zeros(narrow, rank * target.outputs) for target in config.targets)

    @property
    def base(self) -> PredictorBase:
        """The base and the hash of its target list."""
        return PredictorBase(self.config.base, fingerprint(self.config.targets))

    def styles(self, looks: Tensor | Looks) -> Tensor:
        """Looks at k pictures of each of S styles, or "pixels" alone -> (S, width)."""
        looks = {PIXELS: looks} if isinstance(looks, Tensor) else looks
        names = [look.name for look in self.config.style_looks]
        features = sum(self._features(name, looks[name]).mean(1) for name in names)
        assert isinstance(features, Tensor)
        return self.norm(features + self.trunk(features))

    def vectors(self, looks: Tensor | Looks) -> Tensor:
        """What the heads read, (S, numbers): the style's vector, and the detail's behind it."""
        style, detail = self.config.sizes
        parts = [self.styles(looks)] if style else []
        if detail:
            assert not isinstance(looks, Tensor)
            parts.append(self.detail(looks[VAE]))
        return torch.cat(parts, 1)

    def _features(self, name: str, look: Tensor) -> Tensor:
        """(S, k, ..) -> (S, k, width)."""
        if name != PIXELS:
            return self.projections[_module_name(name)](look)
        return self.encoder(look.flatten(0, 1)).view(*look.shape[:2], -1)

    def forward(self, looks: Tensor | Looks) -> Pairs:
        """Looks, or "pixels" alone -> target -> A (S, rank, in) and B (S, out, rank).

        Of no pictures, k = 0, it is the static LoRA.
        """
        example = looks if isinstance(looks, Tensor) else next(iter(looks.values()))
        is_static = not self.config.looks or not example.shape[1]
        write = self.split or self.write
        return write(None if is_static else self.vectors(looks), len(example))

    def write(self, vectors: Tensor | None, count: int, numbers: range | None = None) -> Pairs:
        """What the heads write of so many styles' vectors, (S, numbers); of None the static LoRA.

        Args:
            vectors: As :meth:`vectors` gives them.
            count: Of styles.
            numbers: Numbers of the targets, where the first matrices of those alone are here.
        """
        if vectors is None:
            return self.static(count, numbers)
        codes = torch.einsum("sw,lwn->lsn", vectors, self.inner)
        pairs, rank = {}, self.config.rank
        for position, number in enumerate(numbers or range(len(self.config.targets))):
            target = self.config.targets[number]
            down = (codes[2 * position] @ self.down[number]).view(-1, rank, target.inputs)
            up = (codes[2 * position + 1] @ self.up[number]).view(-1, target.outputs, rank)
            pairs[target.name] = (down + self.static_down[number], up + self.static_up[number])
        return pairs

    def static(self, count: int, numbers: range | None = None) -> Pairs:
        """The part that is the same for every style, for ``count`` styles."""
        return {
            self.config.targets[number].name: (
                self.static_down[number].expand(count, -1, -1),
                self.static_up[number].expand(count, -1, -1),
            )
            for number in numbers or range(len(self.config.targets))
        }

    @torch.no_grad()
    def predict(
        self, images: Sequence[Image.Image], vectors: Looks | None = None
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Pictures of one style -> target -> A (rank, in) and B (out, rank), float32, on the CPU.

        Args:
            images: The pictures.
            vectors: What frozen encoders see of them, (k, width) each.

        Raises:
            BadData: There is no picture.
        """
        if not images:
            raise BadData("There is no picture to predict a LoRA from. Name 1 to 8 pictures of one style.")
        looks = {name: look[None] for name, look in self._looks(images, vectors).items()}
        return {name: (down[0].cpu(), up[0].cpu()) for name, (down, up) in self(looks).items()}

    @torch.no_grad()
    def similarity(self, images: Sequence[Image.Image], vectors: Looks | None = None) -> float:
        """Mean cosine between the style vectors of single pictures; 1 for one picture."""
        if len(images) < 2 or not self.config.looks:
            return 1.0
        looks = {name: look[:, None] for name, look in self._looks(images, vectors).items()}
        return mean_cosine(self.styles(looks) if self.config.style_looks else self.vectors(looks))

    def _looks(self, images: Sequence[Image.Image], vectors: Looks | None) -> dict[str, Tensor]:
        """Look -> what it is of each picture, (k, ..), where the weights are; "pixels" always.

        Raises:
            BadBase: An encoder is of another size.
        """
        device = self.static_down[0].device
        looks = {name: vector.to(device) for name, vector in (vectors or {}).items()}
        for look in self.config.looks:
            if look.name in looks and looks[look.name].shape[-1] != look.width:
                raise BadBase(
                    f"What {look.name} sees of a picture is {looks[look.name].shape[-1]} numbers, and the "
                    f"predictor reads {look.width}. Use the encoder that it was trained with."
                )
        return {PIXELS: pixels_of(images, self.config.side).to(device), **looks}

    def save(
        self, path: Path, record: Mapping[str, Any], weights: Mapping[str, Tensor] | None = None
    ) -> None:
        """Write weights in bf16 and, in the header, the config and the ``record`` of the training.

        Args:
            path: The file.
            record: What is to be known of the training.
            weights: By name, where they are not whole here.
        """
        halves = {
            name: weight.detach().to("cpu", torch.bfloat16).contiguous()
            for name, weight in (weights or self.state_dict()).items()
        }
        facts = {
            "format": FORMAT,
            "config": json.dumps(asdict(self.config)),
            "targets": self.base.targets,
            "record": json.dumps(record),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, lambda draft: save_file(halves, draft, facts))

    @classmethod
    def load(cls, path: Path, device: str | torch.device = "cpu") -> "Predictor":
        """Read a predictor's file, or the folder that it lies in, in float32.

        Raises:
            BadBase: There is none, it is damaged, or it is of another kind.
        """
        file = path / FILE if path.is_dir() else path
        try:
            with safe_open(file, "pt") as content:
                facts = content.metadata() or {}
                if facts.get("format") != FORMAT:
                    raise BadBase(_foreign(file, facts.get("format"), content.keys()))
                predictor = cls(_config(facts["config"]))
                predictor.load_state_dict({name: content.get_tensor(name).float() for name in content.keys()})  # noqa: SIM118
            if predictor.base.targets != facts["targets"]:
                raise BadBase(f"{file} is damaged: its targets are not those of its hash. Fetch it again.")
            predictor.record = json.loads(facts["record"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise BadBase(
                f"{file} is no predictor that can be read ({str(error).splitlines()[0]}). "
                "Name its file or folder, or fetch it again."
            ) from error
        return predictor.to(device).eval().requires_grad_(requires_grad=False)


def _foreign(file: Path, form: str | None, names: Iterable[str]) -> str:
    """What to say of a file that is no predictor of this version."""
    if form and form.startswith(FORMAT.rstrip("0123456789")):
        return f"{file} is a predictor in format {form}, and this limner reads {FORMAT}. Update limner."
    if any(mark in name for name in names for mark in LORA_MARKS):
        return (
            f"{file} is a LoRA, not a predictor, which makes LoRAs of pictures. Name a predictor, or leave "
            f"out --predictor for the base's own; the LoRA is used by: limner generate {file.name}"
        )
    return f"{file} is no predictor: its header names no {FORMAT}. Name a file or folder of one."


def _module_name(look: str) -> str:
    """A look's name without dots, which torch parts names at."""
    return look.replace(".", "_")


def mean_cosine(vectors: Tensor) -> float:
    """(n, width) -> the mean over all pairs of different rows; 1 of one row."""
    if len(vectors) < 2:
        return 1.0
    unit = nn.functional.normalize(vectors, dim=1)
    cosines = unit @ unit.T
    return float((cosines.sum() - cosines.trace()) / (cosines.numel() - len(cosines)))


def is_predictor(path: Path) -> bool:
    """Whether a file says that it is a predictor of ours, whole or not, for this version or another."""
    try:
        with safe_open(path, "pt") as content:
            return (content.metadata() or {}).get("format", "").startswith("limner-instant-")
    except (OSError, SafetensorError):
        return False


def _config(text: str) -> PredictorConfig:
    values = json.loads(text)
    targets = tuple(Target(**target) for target in values.pop("targets"))
    looks = {"looks": tuple(Look(**look) for look in values.pop("looks"))} if "looks" in values else {}
    return PredictorConfig(targets=targets, **looks, **values)


def pixels_of(images: Sequence[Image.Image], side: int) -> Tensor:
    """Pictures of any sizes -> (k, 3, side, side) uint8: the middle square of each, transparency on white."""
    arrays = []
    for image in images:
        flat = image.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", flat.size, "white"), flat).convert("RGB")
        arrays.append(np.asarray(ImageOps.fit(flat, (side, side), Image.Resampling.LANCZOS)))
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
