"""Pictures of a model card with their prompts, and the captions that stay private."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from limner.errors import BadUsage
from limner.run_folder import RunDir

MOST_IMAGES = 8
"""On a model card, at most."""


@dataclass(frozen=True)
class CardImage:
    """A picture of the LoRA."""

    path: Path
    prompt: str
    """Empty where it is not known, or is a caption of the dataset that stays private."""
    parameters: str = ""
    """How it was made, as the web UI writes it into its pictures."""


def samples(run: RunDir, metadata: Mapping[str, str]) -> list[CardImage]:
    """The samples of the newest step that is not after that of the LoRA with these metadata."""
    text = metadata.get("ss_steps", "")
    last = int(text) if text.isascii() and text.isdigit() else 0
    by_step = {step: images for step, images in run.samples().items() if 0 < step <= last}
    if not by_step:
        return []
    prompts = run.prompts()
    images = list(by_step[max(by_step)].items())[:MOST_IMAGES]
    return [CardImage(path, prompts[number] if number < len(prompts) else "") for number, path in images]


def generated(folder: Path) -> list[CardImage]:
    """Pictures of a folder, by name, with the prompts that ``limner generate`` wrote into them.

    Raises:
        BadUsage: There are none.
    """
    paths = sorted(folder.glob("*.png")) if folder.is_dir() else []
    images = [image for path in paths if (image := _generated(path))]
    if not images:
        raise BadUsage(
            f"--images is {folder}, and no picture by `limner generate` is there. Make some, or leave it out."
        )
    return images[:MOST_IMAGES]


def _generated(path: Path) -> CardImage | None:
    """A picture that says how it was made; None of another."""
    try:
        with Image.open(path) as file:
            chunks: Mapping[str, Any] = getattr(file, "text", {})
            record = json.loads(chunks["limner"])
            return CardImage(path, str(record["prompt"]), str(chunks.get("parameters", "")))
    except (UnidentifiedImageError, OSError, ValueError, LookupError, TypeError):
        return None


def captions_of(run: RunDir) -> tuple[str, ...]:
    """Captions of the dataset, in its order, each once."""
    images = run.data().get("images")
    entries = [entry for entry in images if isinstance(entry, dict)] if isinstance(images, list) else []
    texts = [text for entry in entries for text in entry.get("captions") or () if isinstance(text, str)]
    return tuple(dict.fromkeys(text for text in texts if text))


def is_caption(prompt: str, captions: Iterable[str], trigger: str) -> bool:
    """Whether a prompt has the words of a caption and no others, the trigger apart."""
    words = _words(prompt, trigger)
    return bool(words) and any(words == _words(caption, trigger) for caption in captions)


def _words(text: str, trigger: str) -> list[str]:
    text = text.lower()
    return re.findall(r"\w+", text.replace(trigger.lower(), " ") if trigger else text)
