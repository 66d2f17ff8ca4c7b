"""Image encoders of predictors, through transformers: one vector of a picture.

Sizes and normalisation as DiffSynth-Studio's ``siglip2_image_encoder.py`` and ``dinov3_image_encoder.py``
have them: the middle square at 1024 pixels, from there bilinear to the encoder's own size.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torch import Tensor

from limner.data.images import read_image
from limner.errors import BadBase, first_line
from limner.imports import hush, imported
from limner.models.loading import LOAD_ERRORS, pretrained

SIDE = 1024
"""Pixels of the square that every picture becomes first."""


@dataclass(frozen=True)
class VisionEncoder:
    """An image encoder of transformers."""

    name: str
    model_class: str
    hub_id: str
    licence: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    sizes: Mapping[str, Any] = field(default_factory=dict)
    """Of its config, as published: a plan fetches nothing."""
    copy: str = ""
    """Its file in :data:`COPIES`, whose weights lie in the same names, without a config."""
    reads_chat: bool = False
    """Whether it is a language model that sees (``hyper.states``), which does all of this in its own way."""


COPIES = "DiffSynth-Studio/General-Image-Encoders"
"""Where the encoders of the published predictors lie side by side, and none waits for a licence."""
HALF = (0.5, 0.5, 0.5)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ENCODERS = {
    encoder.name: encoder
    for encoder in (
        VisionEncoder(
            "siglip2",
            "SiglipVisionModel",
            "google/siglip2-giant-opt-patch16-384",
            "Apache-2.0",
            HALF,
            HALF,
            {"hidden_size": 1536, "intermediate_size": 6144, "num_hidden_layers": 40}
            | {"num_attention_heads": 16, "image_size": 384, "patch_size": 16},
            copy="SigLIP2-G384/model.safetensors",
        ),
        VisionEncoder(
            "dinov3",
            "DINOv3ViTModel",
            "facebook/dinov3-vit7b16-pretrain-lvd1689m",
            "DINOv3 License, to be accepted on the hub",
            *IMAGENET,
            {"hidden_size": 4096, "intermediate_size": 8192, "num_hidden_layers": 40}
            | {"num_attention_heads": 32, "image_size": 224, "patch_size": 16, "num_register_tokens": 4}
            | {"use_gated_mlp": True, "hidden_act": "silu", "query_bias": False, "value_bias": False},
            copy="DINOv3-7B/model.safetensors",
        ),
        VisionEncoder(
            "dinov2",
            "Dinov2Model",
            "facebook/dinov2-giant",
            "Apache-2.0",
            *IMAGENET,
            {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24}
            | {"image_size": 518, "patch_size": 14, "use_swiglu_ffn": True},
        ),
        VisionEncoder(
            "qwen2.5-vl",
            "Qwen2_5_VLForConditionalGeneration",
            "Qwen/Qwen2.5-VL-7B-Instruct",
            "Apache-2.0",
            *IMAGENET,
            reads_chat=True,
        ),
    )
}
"""Name -> encoder. Its vector is ``pooler_output``: SigLIP's attention pool, DINO's normed class token; of
Qwen2.5-VL the mean of its last states."""


def load_encoder(name: str, folder: str = "") -> Any:
    """An encoder with its weights, in evaluation mode, as they are stored.

    Args:
        name: One of :data:`ENCODERS`.
        folder: Where it lies, in the layout of transformers or as in :data:`COPIES`; "" for the hub's cache.

    Raises:
        BadBase: It is not on this disk, or damaged; the message has the command that fetches it.
    """
    import transformers

    hush()
    encoder = ENCODERS[name]
    cls = getattr(transformers, encoder.model_class)
    try:
        model = _of_copy(encoder, cls, folder) or pretrained(cls, folder or encoder.hub_id)[0]
        if encoder.reads_chat:
            model = imported("limner.hyper.states:chat_encoder")(model, folder or encoder.hub_id)
    except LOAD_ERRORS as error:
        if folder and Path(folder).is_dir():
            raise BadBase(f"{folder} is no {name} encoder that can be read: {first_line(error)}.") from error
        other = f", or hf download {COPIES} {encoder.copy}" if encoder.copy else ""
        raise BadBase(
            f"The encoder {name} ({encoder.licence}) is not on this disk. Fetch it: "
            f"hf download {encoder.hub_id}{other}"
        ) from error
    return model.eval().requires_grad_(requires_grad=False)


def _of_copy(encoder: VisionEncoder, cls: Any, folder: str) -> Any:
    """The encoder of :data:`COPIES`, if it is in the folder, or in the hub's cache and its own is not."""
    from huggingface_hub import try_to_load_from_cache

    if folder:
        path = Path(folder) / Path(encoder.copy).name
        lies_there = bool(encoder.copy) and path.is_file() and not path.with_name("config.json").exists()
        path = path if lies_there else None
    elif encoder.copy and not isinstance(try_to_load_from_cache(encoder.hub_id, "config.json"), str):
        path = try_to_load_from_cache(COPIES, encoder.copy)
    else:
        path = None
    if not isinstance(path, str | Path):
        return None
    model, missing = pretrained(
        cls, None, config=cls.config_class(**encoder.sizes), state_dict=load_file(path)
    )
    if missing:
        raise BadBase(f"{path} has no {missing[0]}, so it is no {encoder.name} encoder. Fetch it again.")
    return model


def encoder_folder(root: str, name: str) -> str:
    """Where an encoder lies below a folder: under its own name or its copy's; "" for the hub's cache."""
    copy = ENCODERS[name].copy
    folders = [Path(root) / name, *([Path(root) / Path(copy).parent] if copy else [])]
    return str(next((folder for folder in folders if folder.is_dir()), folders[0])) if root else ""


def skeleton(name: str, folder: str = "") -> Any:
    """An encoder with true shapes and no weights, on the meta device.

    Args:
        name: One of :data:`ENCODERS`.
        folder: Where it lies; "", or a folder without it: as it is published.

    Raises:
        BadBase: The config there means nothing.
    """
    import transformers

    encoder = ENCODERS[name]
    cls = getattr(transformers, encoder.model_class)
    path = Path(folder) / "config.json"
    try:
        sizes = json.loads(path.read_text(encoding="utf-8")) if folder and path.is_file() else encoder.sizes
        if encoder.reads_chat:
            sizes = sizes or imported("limner.hyper.states:published_sizes")()
        else:
            sizes = sizes.get("vision_config", sizes)
        with torch.device("meta"):
            model = cls(cls.config_class.from_dict(dict(sizes)))
        if encoder.reads_chat:
            model = imported("limner.hyper.states:ChatEncoder")(model)
    except LOAD_ERRORS as error:
        raise BadBase(f"{path} describes no {name} encoder: {first_line(error)}.") from error
    return model.to(torch.bfloat16).eval().requires_grad_(requires_grad=False)


def fingerprint(name: str, folder: str = "") -> str:
    """Identity of an encoder for addresses of the cache: its files by name and size, and its config."""
    if not folder:
        return f"{name} {ENCODERS[name].hub_id}"
    state = hashlib.sha256(name.encode())
    for path in sorted(Path(folder).glob("*")):
        if path.suffix in (".json", ".safetensors"):
            state.update(f"{path.name} {path.stat().st_size}\n".encode())
            state.update(path.read_bytes() if path.suffix == ".json" else b"")
    return state.hexdigest()


class ReferenceImages:
    """Pictures in one pass, and what frozen encoders see of them: each looks at them once.

    Args:
        paths: Of the pictures.
        folder: With a subfolder for each encoder; "" for the hub's cache.
    """

    def __init__(self, paths: Sequence[Path], folder: str = "") -> None:
        """See the class."""
        self.paths, self.folder = paths, folder
        self._vectors: dict[str, Tensor] = {}

    @cached_property
    def whole(self) -> list[Image.Image]:
        """All of them, RGB, in their own sizes."""
        return [read_image(path) for path in self.paths]

    def vectors(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Encoder -> what it sees, (k, width) in float32. One after the other is in memory.

        On the CPU its weights are pages of their files, which the system takes back where memory is short.

        Args:
            names: Of :data:`ENCODERS`.

        Raises:
            BadBase: One is not on this disk, or damaged.
        """
        for name in names:
            if name not in self._vectors:
                model = load_encoder(name, encoder_folder(self.folder, name))
                self._vectors[name] = torch.stack([embed(name, model, image) for image in self.whole])
                del model
        return {name: self._vectors[name] for name in names}


@torch.no_grad()
def embed(name: str, model: Any, image: Image.Image | Tensor) -> Tensor:
    """RGB picture of any size -> (width,) in float32; of a tensor on the meta device its shape alone."""
    encoder = ENCODERS[name]
    if encoder.reads_chat:
        return model(image)
    side = model.config.image_size
    weight = next(model.parameters())
    if isinstance(image, Tensor):
        blank = torch.empty((1, 3, side, side), dtype=weight.dtype, device="meta")
        return model(pixel_values=blank).pooler_output[0].float()
    square = ImageOps.fit(image.convert("RGB"), (SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = np.asarray(square.resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255
    values = (torch.from_numpy(pixels) - torch.tensor(encoder.mean)) / torch.tensor(encoder.std)
    batch = values.permute(2, 0, 1)[None].to(weight.device, weight.dtype)
    return model(pixel_values=batch).pooler_output[0].float()
