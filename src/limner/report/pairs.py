"""What stands before the samples of an edit model: control images, and the image that they could become."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class Pairs:
    """Thumbnails by prompt, as base64 of a JPEG; what is not text is passed over."""

    entries: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "Pairs":
        """Those in the run's sheet of data; none of a run without control images."""
        entries = data.get("pairs")
        entries = entries if isinstance(entries, list) else []
        return cls([entry if isinstance(entry, dict) else {} for entry in entries])

    @property
    def names(self) -> tuple[str, ...]:
        """Heads of the columns: "control", "control 2" .., and "target" where any prompt has one."""
        count = max((len(self._controls(entry)) for entry in self.entries), default=0)
        names = [f"control {number}" if number > 1 else "control" for number in range(1, count + 1)]
        return (*names, *(("target",) if any(entry.get("target") for entry in self.entries) else ()))

    def row(self, index: int) -> list[tuple[str, Any]]:
        """Head and thumbnail of each column, for one prompt; None where it has none."""
        entry = self.entries[index] if index < len(self.entries) else {}
        controls = self._controls(entry)
        count = sum(name != "target" for name in self.names)
        cells = [*controls, *[None] * (count - len(controls)), entry.get("target")]
        return list(zip(self.names, cells, strict=False))

    def images(self, index: int) -> list[Image.Image | None]:
        """The same as images; None of what cannot be read."""
        return [_image(thumb) for _, thumb in self.row(index)]

    @staticmethod
    def _controls(entry: Mapping[str, Any]) -> list[Any]:
        controls = entry.get("controls")
        return controls if isinstance(controls, list) else []


def _image(thumb: Any) -> Image.Image | None:
    if not isinstance(thumb, str):
        return None
    try:
        return Image.open(BytesIO(base64.b64decode(thumb, validate=True))).convert("RGB")
    except (binascii.Error, OSError, ValueError):
        return None
