"""Runs a program unchanged on machines where torchvision has no build for the installed torch (CPU wheels).

``python benchmarks/torchvision_standin.py PROGRAM [ARGUMENTS]``: where torchvision imports, it is used;
otherwise the few image transforms that training examples use are provided, on Pillow and numpy, under
torchvision's names.
"""

import importlib
import importlib.machinery
import random
import runpy
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

Size = int | Sequence[int]


class InterpolationMode:
    """The filters by torchvision's names, as Pillow's values."""

    NEAREST = Image.Resampling.NEAREST
    BILINEAR = Image.Resampling.BILINEAR
    BICUBIC = Image.Resampling.BICUBIC
    LANCZOS = Image.Resampling.LANCZOS


def _pair(size: Size) -> tuple[int, int]:
    """(height, width)."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def crop(image: Image.Image, top: int, left: int, height: int, width: int) -> Image.Image:
    """The rectangle of an image whose upper left corner is at (left, top)."""
    return image.crop((left, top, left + width, top + height))


def resize(size: Size, interpolation: Image.Resampling = InterpolationMode.BILINEAR) -> Callable:
    """One number is the shorter side; the longer one keeps the aspect."""

    def apply(image: Image.Image) -> Image.Image:
        if not isinstance(size, int):
            return image.resize((size[1], size[0]), interpolation)
        scale = size / min(image.size)
        width, height = (max(size, int(side * scale)) for side in image.size)
        return image.resize((width, height), interpolation)

    return apply


class CenterCrop:
    """Cut a rectangle out of the middle."""

    def __init__(self, size: Size) -> None:
        self.size = _pair(size)

    def __call__(self, image: Image.Image) -> Image.Image:
        height, width = self.size
        return crop(
            image, round((image.height - height) / 2), round((image.width - width) / 2), height, width
        )


class RandomCrop(CenterCrop):
    """Cut a rectangle out of anywhere; ``get_params`` alone says where."""

    @staticmethod
    def get_params(image: Image.Image, output_size: Size) -> tuple[int, int, int, int]:
        """(top, left, height, width) of a crop that lies inside the image."""
        height, width = _pair(output_size)
        return random.randint(0, image.height - height), random.randint(0, image.width - width), height, width

    def __call__(self, image: Image.Image) -> Image.Image:
        return crop(image, *self.get_params(image, self.size))


def center_crop(image: Image.Image, output_size: Size) -> Image.Image:
    """The middle of an image."""
    return CenterCrop(output_size)(image)


def random_horizontal_flip(p: float = 0.5) -> Callable:
    """Mirror with probability ``p``."""
    return lambda image: ImageOps.mirror(image) if random.random() < p else image


def to_tensor() -> Callable:
    """uint8 image -> float tensor (C, H, W) in [0, 1]."""

    def apply(image: Image.Image) -> torch.Tensor:
        pixels = torch.from_numpy(np.array(image))
        return pixels.reshape(image.height, image.width, -1).movedim(-1, 0).contiguous().float().div(255)

    return apply


def normalize(mean: Sequence[float], std: Sequence[float]) -> Callable:
    """(x - mean) / std by channel."""
    centre, spread = (torch.tensor(v).reshape(-1, 1, 1) for v in (mean, std))
    return lambda tensor: (tensor - centre) / spread


FUNCTIONS = {
    "crop": crop,
    "hflip": ImageOps.mirror,
    "center_crop": center_crop,
    "resize": lambda image, size, interpolation=InterpolationMode.BILINEAR: resize(size, interpolation)(
        image
    ),
    "to_tensor": lambda image: to_tensor()(image),
    "normalize": lambda tensor, mean, std: normalize(mean, std)(tensor),
}
"""The same as functions of an image."""


def compose(transforms: Sequence[Callable]) -> Callable:
    """One after the other."""

    def apply(value: Any) -> Any:
        for transform in transforms:
            value = transform(value)
        return value

    return apply


NAMES = {
    "InterpolationMode": InterpolationMode,
    "Resize": resize,
    "CenterCrop": CenterCrop,
    "RandomCrop": RandomCrop,
    "RandomHorizontalFlip": random_horizontal_flip,
    "ToTensor": to_tensor,
    "Normalize": normalize,
    "Compose": compose,
}


def install() -> bool:
    """Put the stand-in where ``import torchvision`` looks unless the real one works; say if it is used."""
    try:
        importlib.import_module("torchvision.transforms")
    except (ImportError, RuntimeError, AttributeError):
        # These look for torchvision as they load and must not find a stand-in that is far from whole.
        for name in ("transformers", "diffusers", "peft"):
            importlib.import_module(name)
    else:
        return False
    functional = types.ModuleType("torchvision.transforms.functional")
    functional.__dict__.update(FUNCTIONS)
    transforms = types.ModuleType("torchvision.transforms")
    transforms.__dict__.update(NAMES, functional=functional)
    package = types.ModuleType("torchvision")
    package.__dict__.update(transforms=transforms)
    for module in (package, transforms, functional):
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, loader=None)
        sys.modules[module.__name__] = module
    return True


if __name__ == "__main__":
    install()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
