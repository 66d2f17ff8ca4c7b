"""Generated images as files: named after what made them, which stands in their metadata, too.

Two text chunks of PNG: ``parameters`` as AUTOMATIC1111's web UI writes it (``modules/infotext_utils.py``),
which Forge, Civitai and most viewers read; and ``limner``, the same as JSON.
"""

import json
import re
import unicodedata
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from limner.files import write_new

SAMPLERS = {
    "FlowMatchEulerDiscreteScheduler": "Euler",
    "EulerDiscreteScheduler": "Euler",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "DDIMScheduler": "DDIM",
    "PNDMScheduler": "PLMS",
    "LMSDiscreteScheduler": "LMS",
    "HeunDiscreteScheduler": "Heun",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "UniPCMultistepScheduler": "UniPC",
}
"""diffusers' scheduler -> what the web UI calls it; others keep their names."""
HASH_DIGITS = 12
"""Of a LoRA's hash in ``Lora hashes``, as the web UI and Civitai shorten it."""
SLUG = 40
"""Letters of a prompt in the name of a file."""


@dataclass(frozen=True, kw_only=True)
class UsedLora:
    """A LoRA that an image was made with."""

    name: str
    """What it was called when it was trained, else its file."""
    sha256: str
    """Of its tensors, in hex: what the web UI and Civitai call AutoV3."""
    strength: float
    trained_steps: int | None = None


@dataclass(frozen=True)
class UsedWord:
    """A textual inversion that an image was made with."""

    word: str
    sha256: str
    """Of its vectors, in hex."""
    trained_steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """All that an image was made from."""

    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    """Of the sampler."""
    guidance: float
    """Scale of classifier-free guidance; 1 is none."""
    distilled_guidance: float | None
    """What a guidance-distilled base is told instead."""
    width: int
    height: int
    base: str
    """Its name; of a folder, only the last part."""
    sampler: str
    """Class of diffusers' scheduler."""
    loras: tuple[UsedLora, ...]
    """The one that the image was made for comes first."""
    lora_on: str = "both"
    """Branches of guidance that they are on: "both" or "positive"."""
    negative_lora: str | None = None
    """The one that is on the negative branch in their place, by its file."""
    words: tuple[UsedWord, ...] = ()
    """Textual inversions."""

    @property
    def stem(self) -> str:
        """Name of its file: ``a-red-fox-step300-strength0.8-seed3``."""
        parts = [slug(self.prompt)]
        if self.loras:
            main = self.loras[0]
            parts += [] if main.trained_steps is None else [f"step{main.trained_steps}"]
            parts.append(f"strength{main.strength:g}")
        elif self.words and self.words[0].trained_steps is not None:
            parts.append(f"step{self.words[0].trained_steps}")
        return "-".join([*parts, f"seed{self.seed}"])

    def parameters(self) -> str:
        """The text that the web UI reads: prompt, negative prompt, and a line of settings."""
        tags = [f"<lora:{_tag(lora.name)}:{lora.strength:g}>" for lora in self.loras]
        settings: dict[str, Any] = {
            "Steps": self.steps,
            "Sampler": SAMPLERS.get(self.sampler, self.sampler),
            "CFG scale": f"{self.guidance:g}",
        }
        if self.distilled_guidance is not None:
            settings["Distilled CFG Scale"] = f"{self.distilled_guidance:g}"
        settings |= {"Seed": self.seed, "Size": f"{self.width}x{self.height}", "Model": self.base}
        if self.loras:
            hashes = (f"{_tag(lora.name)}: {lora.sha256[:HASH_DIGITS]}" for lora in self.loras)
            settings["Lora hashes"] = ", ".join(hashes)
        if self.words:
            hashes = (f"{word.word}: {word.sha256[:HASH_DIGITS]}" for word in self.words)
            settings["TI hashes"] = ", ".join(hashes)
        settings["Version"] = f"Limner {version('limner')}"
        lines = [" ".join([self.prompt, *tags])]
        lines += [f"Negative prompt: {self.negative_prompt}"] if self.negative_prompt else []
        return "\n".join([*lines, ", ".join(f"{key}: {_quoted(value)}" for key, value in settings.items())])

    def png_info(self) -> PngInfo:
        """The text chunks."""
        info = PngInfo()
        text = self.parameters().replace("\0", " ").encode("utf-8", "replace").decode()
        info.add_text("parameters", text)
        values = {"limner": version("limner"), **asdict(self)}
        info.add_text("limner", json.dumps(values))
        return info


def write_image(folder: Path, image: Image.Image, record: ImageRecord) -> Path:
    """Write an image as PNG under a name that no file has.

    Args:
        folder: Where to.
        image: The pixels.
        record: What they were made from.
    """
    info = record.png_info()
    return write_new(folder, record.stem, ".png", lambda draft: image.save(draft, format="PNG", pnginfo=info))


def slug(prompt: str) -> str:
    """The first letters of a prompt as part of a file's name, in any script: ``slug("A cat") == "a-cat"``."""
    words = re.sub(r"[\W_]+", "-", unicodedata.normalize("NFC", prompt.lower()))
    return words.strip("-")[:SLUG].strip("-") or "blank"


def _tag(name: str) -> str:
    """A name as it may stand in the web UI's ``<lora:name:1>`` and before a hash."""
    return re.sub(r"[<>:,\"\s]+", "-", name).strip("-") or "lora"


def _quoted(value: object) -> str:
    """A value that holds a comma, a colon or a line break in quotes, as the web UI does it."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,:\n]", text) else text
