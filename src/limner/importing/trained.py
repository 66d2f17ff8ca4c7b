"""The layers that other trainers adapt of each family where a file names none: facts of their sources.

``networks/lora*.py`` of sd-scripts and musubi-tuner, ``toolkit/lora_special.py`` and
``get_transformer_block_names`` of ai-toolkit, ``modules/modelSetup`` of OneTrainer,
``get_lora_target_layers`` of SimpleTuner, ``target_modules`` in diffusers' examples.
"""

from collections.abc import Mapping
from dataclasses import dataclass

KIN = {"flux2-dev": "flux2", "qwen-image-edit": "qwen-image", "qwen-image-edit-plus": "qwen-image"}
"""Family -> another, of which every trainer adapts the same layers."""


@dataclass(frozen=True)
class TrainedLayers:
    """What a trainer adapts of a family where its file is silent.

    Attributes:
        targets: As ``lora.targets``.
        encoders: Text encoders that learn as well, as ``lora.text_encoders``.
        differs: What of it cannot be had, or is otherwise in the file.
    """

    targets: tuple[str, ...]
    encoders: tuple[str, ...] = ()
    differs: str = ""


ENCODER, ENCODERS = ("text_encoder",), ("text_encoder", "text_encoder_2")
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
LINEAR = ("all-linear",)
BLOCKS = ("all-linear", "norm1.linear", "norm1_context.linear", "single_transformer_blocks.*.norm.linear")
"""Every linear layer in the blocks of FLUX.1, those of the modulations too."""
SD3_BLOCKS = ("all-linear", "norm1.linear", "norm1_context.linear")
FEED = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")
UNET = ("*", "!conv1", "!conv2", "!conv", "!conv_in", "!conv_out")
"""Every layer of a convolutional denoiser but kernels larger than 1 x 1."""
FUSED = "In its file q, k and v of a block share one down matrix; here each has its own: the file is larger."
IDLE = "Its file has the last layer of the first text encoder too, which no caption reaches: it stays zero."
PROJECTION = "It adapts the projection behind a CLIP's last layer too, which is left alone here."
NO_ENCODER = "It trains the text encoder too, if not told otherwise; this family's cannot be trained here."
STOPS = "It trains text encoders for 30 epochs, if not told otherwise; here they are trained to the end."

SD_SCRIPTS = {
    "sd15": TrainedLayers((*ATTENTION, "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"), ENCODER),
    "sdxl": TrainedLayers(LINEAR, ENCODERS, IDLE),
    "sd3": TrainedLayers(SD3_BLOCKS, ENCODERS, FUSED),
    "flux": TrainedLayers(BLOCKS, ENCODER, FUSED),
    "chroma": TrainedLayers(LINEAR, (), FUSED),
    "anima": TrainedLayers(LINEAR, (), NO_ENCODER),
}
TRAINED: Mapping[str, Mapping[str, TrainedLayers]] = {
    "sd-scripts": SD_SCRIPTS,
    "kohya_ss": SD_SCRIPTS,
    "musubi-tuner": {
        "flux-kontext": TrainedLayers(LINEAR, (), FUSED),
        "flux2": TrainedLayers(LINEAR, (), FUSED),
        "qwen-image": TrainedLayers(("transformer_blocks.*",)),  # "_mod_" is in no name of a module
        "z-image": TrainedLayers(("layers.*.attention.*", "layers.*.feed_forward.*")),
        "krea2": TrainedLayers(("*",)),
        "ideogram4": TrainedLayers(LINEAR, (), FUSED),
    },
    "ai-toolkit": {
        "sd15": TrainedLayers(UNET),
        "sdxl": TrainedLayers(UNET),
        "sd3": TrainedLayers(SD3_BLOCKS),
        "flux": TrainedLayers(BLOCKS),
        "flux-kontext": TrainedLayers(BLOCKS),
        "flux2": TrainedLayers(LINEAR, (), FUSED),
        "chroma": TrainedLayers(LINEAR, (), FUSED),
        "qwen-image": TrainedLayers(("transformer_blocks.*",)),
        "z-image": TrainedLayers(("layers.*",)),
        "krea2": TrainedLayers(LINEAR),
        "ideogram4": TrainedLayers(("layers.*",), (), FUSED),
        "hidream": TrainedLayers(("double_stream_blocks.*", "single_stream_blocks.*")),
    },
    "OneTrainer": {
        "sd15": TrainedLayers(("*",), ENCODER, STOPS),
        "sdxl": TrainedLayers(("*",), ENCODERS, f"{IDLE} {PROJECTION} {STOPS}"),
        "sd3": TrainedLayers(("*",), (*ENCODERS, "text_encoder_3"), f"{PROJECTION} {STOPS}"),
        "flux": TrainedLayers(("*",), ENCODERS, STOPS),
        "chroma": TrainedLayers(("*",), (), NO_ENCODER),
        "qwen-image": TrainedLayers(("*",), (), NO_ENCODER),
        "hidream": TrainedLayers(("*",), (), NO_ENCODER),
        "flux2": TrainedLayers(("*",)),
        "z-image": TrainedLayers(("*",)),
        "krea2": TrainedLayers(("*",)),
        "ideogram4": TrainedLayers(("*",)),
        "anima": TrainedLayers(("*",)),
    },
    "SimpleTuner": {
        "sd15": TrainedLayers(ATTENTION),
        "sdxl": TrainedLayers(ATTENTION),
        "sd3": TrainedLayers(ATTENTION),
        "flux": TrainedLayers(("attention",)),
        "flux2": TrainedLayers((*(f"attn.{name}" for name in ATTENTION), "attn.to_qkv_mlp_proj")),
        "chroma": TrainedLayers(("attention",)),
        "qwen-image": TrainedLayers(ATTENTION),
        "z-image": TrainedLayers(ATTENTION),
        "krea2": TrainedLayers(ATTENTION),
        "anima": TrainedLayers(ATTENTION),
        "hidream": TrainedLayers(ATTENTION[:3]),
    },
    "diffusers": {
        "sd15": TrainedLayers(ATTENTION),
        "sdxl": TrainedLayers(ATTENTION),
        "sd3": TrainedLayers((*(f"attn.{name}" for name in ATTENTION),)
        + ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out")),
        "flux": TrainedLayers(("attention", *FEED)),
        "flux-kontext": TrainedLayers(("attention", *FEED, "proj_mlp")),
        "flux2": TrainedLayers((*ATTENTION, "to_qkv_mlp_proj", "single_transformer_blocks.*.attn.to_out")),
        "qwen-image": TrainedLayers(ATTENTION),
        "z-image": TrainedLayers(ATTENTION),
        "krea2": TrainedLayers(("authors",)),
        "ideogram4": TrainedLayers((*ATTENTION, "w1", "w2", "w3")),
        "hidream": TrainedLayers(("to_q", "to_k", "to_v", "to_out")),
    },
}  # fmt: skip
"""Trainer -> family -> what it adapts."""


def silent(trainer: str, family: str) -> TrainedLayers | None:
    """What a trainer adapts of a family by itself; None where that is not known."""
    table = TRAINED.get(trainer, {})
    return table.get(family) or table.get(KIN.get(family, family))
