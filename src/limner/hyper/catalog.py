"""Where predictors are: beside the bases that have one, in files, and on the hub, the published ones by name.

The published ones are those of DiffSynth-Studio, first generation: names of their repositories and files as
its own examples have them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from limner.errors import BadUsage
from limner.files import human
from limner.hyper.predictor import FILE
from limner.lora import file
from limner.lora.metadata import without_path
from limner.models.registry import embedded_predictors

LICENCE = "Apache-2.0"
"""Of all that are published."""


@dataclass(frozen=True, kw_only=True)
class HubPredictor:
    """A published predictor, or several experts in one repository of the hub."""

    name: str
    family: str
    """Of the bases that it writes LoRAs for."""
    hub_id: str
    files: Mapping[str, tuple[str, int]]
    """Expert -> its file there, and bytes, 0 if unknown. The first is meant by the name alone."""

    def fetch(self, expert: str, tell: Callable[[str], None]) -> Path:
        """The file of an expert, from the hub or its cache.

        Args:
            expert: One of ``files``.
            tell: Is told what is fetched, its size and licence, before it is.

        Raises:
            BadLora: It is neither in the cache nor to be had from the hub.
        """
        from huggingface_hub import try_to_load_from_cache

        name, size = self.files[expert]
        if isinstance(path := try_to_load_from_cache(self.hub_id, name), str):
            return Path(path)
        tell(f"Fetching {self.hub_id}/{name} ({f'{human(size)}, ' if size else ''}{LICENCE}).")
        return file.find(f"{self.hub_id}/{name}", "predictor")


HUB_PREDICTORS = (
    HubPredictor(
        name="z-image-i2l",
        family="z-image",
        hub_id="DiffSynth-Studio/Z-Image-i2L",
        files={"style": ("model.safetensors", 3_226_468_352)},
    ),
    HubPredictor(
        name="qwen-image-i2l",
        family="qwen-image",
        hub_id="DiffSynth-Studio/Qwen-Image-i2L",
        files={
            "style": ("Qwen-Image-i2L-Style.safetensors", 4_812_963_840),
            "coarse": ("Qwen-Image-i2L-Coarse.safetensors", 15_854_469_120),
            "fine": ("Qwen-Image-i2L-Fine.safetensors", 15_146_680_320),
            "bias": ("Qwen-Image-i2L-Bias.safetensors", 0),
        },
    ),
)


def hub_predictor(name: str) -> HubPredictor | None:
    """The published predictor of a name or a hub id, if it is one."""
    words = name.lower()
    return next((entry for entry in HUB_PREDICTORS if words in (entry.name, entry.hub_id.lower())), None)


def predictor_path(name: str, base: str, family: str, tell: Callable[[str], None]) -> Path:
    """Where a predictor is.

    Args:
        name: A path, a published one's name, or a hub id; "" for the one that comes with the base.
        base: The base's name.
        family: Its family's.
        tell: Is told what is fetched, before it is.

    Raises:
        BadUsage: None comes with the base, or it is published for another family.
        BadLora: It is neither here nor on the hub.
    """
    if entry := hub_predictor(name):
        _require_family(entry, base, family)
        return entry.fetch(next(iter(entry.files)), tell)
    if name:
        return file.find(name, "predictor", FILE)
    folders = embedded_predictors()
    if base not in folders:
        entry = next((entry for entry in HUB_PREDICTORS if entry.family == family), None)
        if entry:
            size = human(next(iter(entry.files.values()))[1])
            raise BadUsage(
                f"No predictor comes with {base}; one of its family is published ({size}, {LICENCE}). Write "
                f"--predictor {entry.name}, or name the file, folder or hub id of another."
            )
        hint = f" (one does with {', '.join(folders)})" if folders else ""
        raise BadUsage(
            f"No predictor comes with {base}{hint}. Name the file, folder or hub id of one with --predictor."
        )
    return folders[base]


def expert_paths(
    experts: str, name: str, base: str, family: str, tell: Callable[[str], None]
) -> dict[str, tuple[Path, float]]:
    """Expert -> its file and its strength, in the order in which they are named.

    Args:
        experts: Their names, with commas between: files of the predictor's folder, or of a published one. A
            strength may follow a name: "coarse,bias:0.9".
        name: The predictor, as :func:`predictor_path` takes it.
        base: The base's name.
        family: Its family's.
        tell: Is told what is fetched, before it is.

    Raises:
        BadUsage: There is no such folder or file, a name comes twice, or a strength is no number but 0.
        BadLora: It is neither here nor on the hub.
    """
    strengths = _strengths(experts)
    names = [word for word, _ in strengths]
    if entry := hub_predictor(name):
        _require_family(entry, base, family)
        _require(names, list(entry.files), experts, entry.name)
        return {word: (entry.fetch(word, tell), strength) for word, strength in strengths}
    folder = predictor_path(name, base, family, tell)
    files = {path.stem: path for path in sorted(folder.glob("*.safetensors"))} if folder.is_dir() else {}
    for expert, (file_name, _) in (pair for entry in HUB_PREDICTORS for pair in entry.files.items()):
        if folder.joinpath(file_name).is_file():  # as they are published, under their own names
            files.setdefault(expert, folder / file_name)
    _require(names, list(files), experts, without_path(str(folder)))
    return {word: (files[word], strength) for word, strength in strengths}


def _strengths(experts: str) -> list[tuple[str, float]]:
    """Names, and their strengths."""
    pairs = []
    for word in experts.split(","):
        name, colon, text = word.strip().partition(":")
        try:
            strength = float(text) if colon else 1.0
        except ValueError:
            strength = math.nan
        if not math.isfinite(strength) or not strength:
            raise BadUsage(
                f"--experts is {experts!r}; the strength of {name} is {text!r}. Write a number that is not "
                f"0, such as {name}:0.9."
            )
        pairs.append((name, strength))
    return pairs


def _require(names: list[str], files: list[str], experts: str, title: str) -> None:
    odd = [name for name in names if name not in files or names.count(name) > 1]
    if odd:
        raise BadUsage(
            f"--experts is {experts!r}; {odd[0]!r} is not one file of {title}. "
            f"Name files of the folder that --predictor says, each once; it has {', '.join(files) or 'none'}."
        )


def _require_family(entry: HubPredictor, base: str, family: str) -> None:
    if entry.family != family:
        other = next((other.name for other in HUB_PREDICTORS if other.family == family), "")
        remedy = f"Write --predictor {other}" if other else "Name one that was trained for it"
        raise BadUsage(
            f"{entry.name} writes LoRAs for {entry.family}, and {base} has other layers. {remedy}."
        )
