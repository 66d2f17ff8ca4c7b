"""Taggers of the WD14 kind: an ONNX network and a list of tags, in a folder or in the hub's cache.

Input: (1, side, side, 3) float32, BGR, 0..255, on white. Output: (1, tags) in 0..1. The list is
``selected_tags.csv`` with the columns name and category (0 general, 4 character, 9 rating).
"""

import csv
import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from limner.captions.client import Provider, Reply, Request, Takes
from limner.captions.providers import Options, package
from limner.errors import BadProvider
from limner.files import real_path

MODEL = "SmilingWolf/wd-vit-tagger-v3"
NETWORK, TAGS = "model.onnx", "selected_tags.csv"
THRESHOLDS = {"0": 0.35, "4": 0.85}
"""Category -> least probability; those of the makers' own demonstration. Ratings are not written."""
EMOTICONS = frozenset(
    re.findall(
        r"\S+", "0_0 (o)_(o) +_+ +_- ._. <o>_<o> <|>_<|> =_= >_< 3_3 6_9 >_o @_@ ^_^ o_o u_u x_x |_| ||_||"
    )
)
"""Tags whose underscore is a mouth."""


def provider(options: Options) -> Provider:
    """A tagger.

    Raises:
        BadProvider: onnxruntime or the model are missing, or the two files do not belong together.
    """
    return Tagger(package("onnxruntime", "Taggers", "tagger"), options)


class Tagger:
    """Tags instead of sentences; takes no instructions."""

    parallel = 1
    reads_sets = False
    takes: Takes = "nothing"
    destination = ""

    def __init__(self, runtime: Any, options: Options) -> None:
        """Load it, on the CPU."""
        self.name = "tagger"
        path = options.model or MODEL
        folder = Path(path) if Path(path).is_dir() else _cached(path)
        self.model = real_path(folder).name if Path(path).is_dir() else path
        self._tags = _tags(folder / TAGS)
        try:
            self._session = runtime.InferenceSession(folder / NETWORK, providers=["CPUExecutionProvider"])
        except _failures(runtime) as error:
            raise BadProvider(
                f"{NETWORK} of {path} cannot be loaded ({type(error).__name__}). Get it anew."
            ) from None
        self._input = self._session.get_inputs()[0]
        self._side = int(self._input.shape[1])
        tags = self._session.get_outputs()[0].shape[-1]
        if tags != len(self._tags):
            raise BadProvider(
                f"{NETWORK} of {path} knows {tags} tags, {TAGS} has {len(self._tags)}. Get both anew."
            )

    def close(self) -> None:
        """See ``Provider``."""
        del self._session

    def ask(self, request: Request) -> Reply:
        """See ``Provider``."""
        image = _square(request.images[0].image, self._side)
        values = np.asarray(image, dtype=np.float32)[None, :, :, ::-1]
        sure = self._session.run(None, {self._input.name: np.ascontiguousarray(values)})[0][0]
        tags = [
            (float(p), name)
            for p, (name, category) in zip(sure, self._tags, strict=True)
            if p >= THRESHOLDS.get(category, 2.0)
        ]
        return Reply(
            text=", ".join(name for _, name in sorted(tags, key=lambda tag: -tag[0])), model=self.model
        )


def _failures(runtime: Any) -> tuple[type[Exception], ...]:
    """What onnxruntime raises; its errors have no class in common."""
    values = vars(runtime.capi.onnxruntime_pybind11_state).values()
    return (OSError, RuntimeError, ValueError) + tuple(
        value for value in values if isinstance(value, type) and issubclass(value, Exception)
    )


def _square(image: Image.Image, side: int) -> Image.Image:
    whole = max(image.size)
    paper = Image.new("RGB", (whole, whole), "white")
    paper.paste(image, ((whole - image.width) // 2, (whole - image.height) // 2))
    return paper.resize((side, side), Image.Resampling.BICUBIC)


def _tags(path: Path) -> list[tuple[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [(row["name"], row["category"]) for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError) as error:
        raise BadProvider(f"{path} is not a tagger's list of tags ({error}). Get it anew.") from None
    return [(name if name in EMOTICONS else name.replace("_", " "), category) for name, category in rows]


def _cached(name: str) -> Path:
    hub = importlib.import_module("huggingface_hub")
    paths = [hub.try_to_load_from_cache(name, file) for file in (NETWORK, TAGS)]
    if not all(isinstance(path, str) for path in paths):
        raise BadProvider(
            f"The tagger {name} is not on this machine. Run: hf download {name} {NETWORK} {TAGS}, "
            "or name a folder with --model."
        )
    return Path(paths[0]).parent
