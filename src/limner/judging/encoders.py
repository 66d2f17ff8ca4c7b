"""Who looks at the images: the embedded base's own judge, or vision models of transformers."""

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from limner.assembly.resolve import device_of
from limner.bases.judge import Judge, stack
from limner.checking.encoder import ImageEncoder
from limner.errors import BadUsage
from limner.files import human, require_space, user_path
from limner.models.source import fetching
from limner.recipe.schema import Recipe

DEFAULT = "google/siglip2-base-patch16-224"
"""Apache-2.0; sees style and subject, and reads prompts."""
EMBEDDED_NAME = "the embedded base's judge"
PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model")
BATCH = 64


class Viewer(Protocol):
    """Somebody who sees images and may read prompts."""

    name: str

    def view(
        self, images: Iterable[Image.Image], prompts: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Features of N images and how well each fits each prompt.

        Args:
            images: RGB, of any size.
            prompts: T texts without the trigger.

        Returns:
            (N, D) of length 1; and (N, T), NaN for a prompt that cannot be read, None for a viewer that reads
            none.
        """
        ...


class EmbeddedViewer:
    """The judge that comes with the embedded base: it knows 64 nouns and 14 hands.

    Args:
        of_style: Compare images by their hand, not by what they show.
    """

    name = EMBEDDED_NAME

    def __init__(self, *, of_style: bool) -> None:
        """See the class."""
        self._judge, self._of_style = Judge.load(), of_style

    def nouns(self, prompt: str) -> list[str]:
        """The nouns in a prompt that it knows."""
        text = f" {''.join(letter if letter.isalpha() else ' ' for letter in prompt.lower())} "
        text = " ".join(text.split())
        return [noun for noun in self._judge.concept_names if f" {noun} " in f" {text} "]

    def view(
        self, images: Iterable[Image.Image], prompts: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """See :class:`Viewer`. A prompt fits by the probability of the nouns in it."""
        nouns = [self.nouns(prompt) for prompt in prompts]
        names, features, fits = self._judge.concept_names, [], []
        iterator = iter(images)
        while batch := list(islice(iterator, BATCH)):
            pixels = stack(batch, self._judge.side)
            features.append(self._judge.features(pixels, of_style=self._of_style))
            chances = self._judge.concepts(pixels)
            columns = [
                chances[:, [names.index(noun) for noun in group]].sum(1)
                if group
                else np.full(len(batch), np.nan)
                for group in nouns
            ]
            fits.append(np.stack(columns, axis=1))
        return np.concatenate(features), np.concatenate(fits)


class EncoderViewer:
    """Vision models of transformers: the first sees, and the first that has a text tower reads.

    Args:
        names: Folders in transformers layout, or hub ids whose files are on this machine.

    Raises:
        BadBase: One cannot be used.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """See the class."""
        device = device_of("auto")
        self._encoders = [ImageEncoder(name, device) for name in names]
        self.name = ", ".join(Path(name).name if Path(name).is_dir() else name for name in names)

    def view(
        self, images: Iterable[Image.Image], prompts: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """See :class:`Viewer`. A prompt fits by the cosine of its text and the image."""
        eye, reader = self._encoders[0], next((item for item in self._encoders if item.reads_text), None)
        if reader is None or reader is eye:
            features = eye.images(images)
            reader_features = features
        else:
            frames = list(images)
            features, reader_features = eye.images(frames), reader.images(frames)
        if reader is None:
            return features, None
        fits = reader_features @ reader.texts([prompt or "." for prompt in prompts]).T
        fits[:, [not prompt for prompt in prompts]] = np.nan
        return features, fits


def viewer_for(recipe: Recipe, names: Sequence[str], tell: Callable[[str], None]) -> Viewer:
    """The viewer for a run.

    Args:
        recipe: Of the run.
        names: Encoders that a person asks for; none: the embedded base's judge, or :data:`DEFAULT`.
        tell: Hears of a download before it starts.

    Raises:
        BadBase: An encoder cannot be had or used.
    """
    if is_embedded(recipe.base, names):
        return EmbeddedViewer(of_style=recipe.concept_type == "style")
    names = tuple(names) or (DEFAULT,)
    for name in names:
        fetch(name, tell)
    return EncoderViewer(names)


def is_embedded(base: str, names: Sequence[str]) -> bool:
    """Whether the embedded base's judge is the viewer."""
    return base == "glyph" and not names


def fetch(name: str, tell: Callable[[str], None]) -> None:
    """Have an encoder of the hub on this disk; its size and licence are told first.

    Raises:
        BadUsage: The name is no folder and no hub id.
        BadBase: It cannot be had.
        DiskFull: There is no room.
    """
    from huggingface_hub import HfApi, constants, errors, snapshot_download

    if user_path(name).is_dir():
        return
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise BadUsage(
            f"--encoder is {name}, and there is no such folder. Name a folder in transformers layout, or a "
            f"hub id such as {DEFAULT}."
        )
    patterns: list[str] = [*PATTERNS]
    try:
        snapshot_download(name, allow_patterns=patterns, local_files_only=True)
        return
    except (errors.LocalEntryNotFoundError, errors.HFValidationError, FileNotFoundError):
        pass  # not on this disk yet
    remedy = f"hf download {name}"
    with fetching(
        name,
        gated=f"{name} is gated: accept its licence on the hub, then `hf auth login`, then `{remedy}`.",
        offline_text=f"The encoder {name} is not on this disk and the hub cannot be reached. With network: "
        f"`{remedy}`. Or name a folder with --encoder.",
    ):
        facts = HfApi().model_info(name, files_metadata=True)
        files = [
            file
            for file in facts.siblings or ()
            if any(fnmatch(file.rfilename, pattern) for pattern in patterns)
        ]
        size = sum(file.size or 0 for file in files)
        licence = (facts.card_data or {}).get("license") or "no licence named on its page"
        tell(f"Fetching the encoder {name}: {human(size)} in {len(files)} files; licence: {licence}.")
        require_space(Path(constants.HF_HUB_CACHE), size, name)
        snapshot_download(name, allow_patterns=patterns)
