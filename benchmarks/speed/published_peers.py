"""Other programs' modules and inputs, on the meta device: what the figures in ``published_cases`` are of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, ChromaTransformer2DModel
from torch import Tensor, nn

from limner.models.bundled import known as configs_of
from limner.nn.memory.plan import Compute, Weights

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One published measurement, or two of one run: its seconds and its memory."""

    name: str
    rows: Sequence[int]
    """Its numbers in the table of 47 figures."""
    card: str
    peer: str
    """Program, with its settings."""
    source: str
    trust: str
    model: Callable[[], nn.Module] | None = None
    """The denoiser, on the meta device; None: what ran cannot be traced, and ``remark`` says why."""
    inputs: Callable[[int], dict[str, Any]] = dict
    """Of so many images."""
    images: int = 1
    rank: int = 0
    """Of LoRA; 0: a forward pass without gradients."""
    targets: Sequence[str] = ATTENTION
    dropout: float = 0.0
    checkpoints: bool = False
    weights: Weights = "bf16"
    coded: Sequence[str] = ("",)
    """Linear layers that are stored so have one of these in their names."""
    compute: Compute = "bf16"
    compiled: bool = False
    swapped: Sequence[tuple[str, int]] = ()
    """Blocks (list of modules, how many of it) whose weights are not on the device."""
    beside: float = 0.0
    """Other models on the device, in units of 2^30 bytes."""
    state: float = 8
    """Bytes of the optimizer's state for each trained number: 8 of AdamW, 2 of that in 8 bits."""
    bare: bool = False
    """Whether memory is what comes to the weights, not with them."""
    seconds: float | None = None
    """Published."""
    memory: float | None = None
    """Published, in units of 2^30 bytes."""
    kind: Literal["allocated", "device"] = "allocated"
    """What was read: most that torch allocated, or what the device gave, the driver's context with it."""
    bound: Literal["", "at least", "at most"] = ""
    """What is published is a limit that was seen to hold, such as the card on which it fits."""
    timed: bool = True
    """Whether the seconds are of the graph that is traced."""
    remark: str = ""
    """Why it may be another computation."""


def model(kind: Any, base: str, part: str = "transformer") -> nn.Module:
    """A model of a registered base, on the meta device, in bf16."""
    config = configs_of(base).config(part)
    with torch.device("meta"):
        return kind.from_config(config).to(torch.bfloat16)


def _numbers(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta", dtype=torch.bfloat16)


def flux(height: int, width: int, text: int) -> Callable[[int], dict[str, Any]]:
    """Inputs of FLUX.1: pixels of the image, tokens of the caption."""
    tokens = height * width // 256

    def inputs(images: int) -> dict[str, Any]:
        return {
            "hidden_states": _numbers(images, tokens, 64),
            "encoder_hidden_states": _numbers(images, text, 4096),
            "pooled_projections": _numbers(images, 768),
            "timestep": _numbers(images),
            "guidance": _numbers(images),
            "img_ids": _numbers(tokens, 3),
            "txt_ids": _numbers(text, 3),
        }

    return inputs


def sd3(side: int, text: int) -> Callable[[int], dict[str, Any]]:
    """Inputs of SD 3.5."""

    def inputs(images: int) -> dict[str, Any]:
        return {
            "hidden_states": _numbers(images, 16, side // 8, side // 8),
            "encoder_hidden_states": _numbers(images, text, 4096),
            "pooled_projections": _numbers(images, 2048),
            "timestep": _numbers(images),
        }

    return inputs


def z_image(side: int, text: int) -> Callable[[int], dict[str, Any]]:
    """Inputs of Z-Image."""

    def inputs(images: int) -> dict[str, Any]:
        return {
            "x": [_numbers(16, 1, side // 8, side // 8) for _ in range(images)],
            "t": _numbers(images),
            "cap_feats": [_numbers(text, 2560) for _ in range(images)],
        }

    return inputs


def krea2(side: int, text: int) -> Callable[[int], dict[str, Any]]:
    """Inputs of Krea 2."""
    config = configs_of("krea2").config("transformer")
    tokens = side * side // 256

    def inputs(images: int) -> dict[str, Any]:
        return {
            "hidden_states": _numbers(images, tokens, config["in_channels"]),
            "encoder_hidden_states": _numbers(
                images, text, config["num_text_layers"], config["text_hidden_dim"]
            ),
            "timestep": _numbers(images),
            "position_ids": torch.empty(text + tokens, 3, device="meta"),
        }

    return inputs


def qwen(side: int, text: int) -> Callable[[int], dict[str, Any]]:
    """Inputs of Qwen-Image."""
    tokens = side // 16

    def inputs(images: int) -> dict[str, Any]:
        return {
            "hidden_states": _numbers(images, tokens * tokens, 64),
            "encoder_hidden_states": _numbers(images, text, 3584),
            "encoder_hidden_states_mask": torch.empty(images, text, device="meta", dtype=torch.bool),
            "timestep": _numbers(images),
            "img_shapes": [[(1, tokens, tokens)]] * images,
        }

    return inputs


def chroma(side: int, text: int) -> Callable[[int], dict[str, Any]]:
    """Inputs of Chroma."""
    tokens = side * side // 256

    def inputs(images: int) -> dict[str, Any]:
        return {
            "hidden_states": _numbers(images, tokens, 64),
            "encoder_hidden_states": _numbers(images, text, 4096),
            "timestep": _numbers(images),
            "img_ids": _numbers(tokens, 3),
            "txt_ids": _numbers(text, 3),
        }

    return inputs


def sdxl(side: int) -> Callable[[int], dict[str, Any]]:
    """Inputs of SDXL."""

    def inputs(images: int) -> dict[str, Any]:
        return {
            "sample": _numbers(images, 4, side // 8, side // 8),
            "timestep": _numbers(images),
            "encoder_hidden_states": _numbers(images, 77, 2048),
            "added_cond_kwargs": {"text_embeds": _numbers(images, 1280), "time_ids": _numbers(images, 6)},
        }

    return inputs


def latents(side: int) -> Callable[[int], dict[str, Any]]:
    """Inputs of a decoder of 16 channels."""
    return lambda images: {"z": _numbers(images, 16, side // 8, side // 8)}


class Decoder(nn.Module):
    """FLUX.1's autoencoder, of which the half that decodes is called."""

    def __init__(self) -> None:
        """On the meta device, in bf16."""
        super().__init__()
        self.autoencoder = model(AutoencoderKL, "flux-dev", "vae")

    def forward(self, z: Tensor, *, return_dict: bool) -> Any:
        """Latents (B, 16, h, w) -> images (B, 3, 8 h, 8 w)."""
        return self.autoencoder.decode(z, return_dict=return_dict)


def chroma_model() -> nn.Module:
    """The denoiser of Chroma, whose sizes are the class's own."""
    with torch.device("meta"):
        return ChromaTransformer2DModel().to(torch.bfloat16)
