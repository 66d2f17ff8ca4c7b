from typing import Any

import pytest

from limner.importing import layers
from limner.importing.book import Book
from limner.importing.options import ForeignOption
from limner.importing.trained import FUSED, NO_ENCODER


def book_of(trainer: str, family: str, **values: Any) -> Book:
    book = Book([ForeignOption(key, value) for key, value in values.items()])
    book.facts |= {"trainer": trainer, "family": family}
    layers.layers(book)
    return book


@pytest.mark.parametrize(
    ("base", "script", "values", "family"),
    [
        ("flux-dev", "", {}, "flux"),
        ("models/juggernaut.safetensors", "sdxl_train_network.py", {}, "sdxl"),
        ("models/v1-5-pruned.safetensors", "sd-scripts/train_network.py", {}, "sd15"),
        ("z_image_turbo_bf16.safetensors", "", {}, "z-image"),
        ("D:\\models\\anything.safetensors", "", {"model_type": "STABLE_DIFFUSION_XL_10_BASE"}, "sdxl"),
        ("somebody/flux-merge", "", {"model_family": "flux"}, "flux"),
        ("mine.safetensors", "", {"model.is_flux": True}, "flux"),
        ("mine.safetensors", "", {"LoRA_type": "Flux1"}, "flux"),
        ("mine.safetensors", "", {}, None),
    ],
)
def test_the_family_is_read_from_the_base_the_script_or_the_kind(
    base: str, script: str, values: dict[str, Any], family: str | None
):
    options = [ForeignOption(key, value) for key, value in values.items()]
    book = Book(options, facts={"script": script}, changes={"base": base})
    layers.family(book)
    assert book.facts.get("family") == family


@pytest.mark.parametrize(
    ("trainer", "family", "values", "targets"),
    [
        ("diffusers", "flux", {"lora_layers": "attn.to_k, attn.to_q"}, ("attn.to_k", "attn.to_q")),
        ("diffusers", "flux", {"lora_layers": "all-linear"}, ("*",)),
        ("SimpleTuner", "flux", {"flux_lora_target": "nano"}, ("single_transformer_blocks.7.proj_out",)),
        (
            *("DiffSynth-Studio", "krea2", {"lora_target_modules": "wq,gate"}),
            ("attn.to_q", "attn.to_gate", "ff.gate"),
        ),
        ("ai-toolkit", "flux", {"only_if_contains": ["proj_mlp"]}, ("*transformer_blocks.*proj_mlp*",)),
        ("ai-toolkit", "z-image", {"only_if_contains": ["attention"]}, ("*layers.*attention*",)),
        ("ai-toolkit", "z-image", {"ignore_if_contains": ["adaLN"]}, ("layers.*", "!*adaLN*")),
        ("OneTrainer", "qwen-image", {"layer_filter": "attn, img_mlp"}, ("*attn*", "*img_mlp*")),
        ("sd-scripts", "flux", {"network_args": ["train_blocks=double"]}, ("transformer_blocks.*",)),
        ("sd-scripts", "sdxl", {"network_args": "conv_dim=4 conv_alpha=1"}, "locon"),
    ],
)  # fmt: skip
def test_layers_that_a_file_names(trainer: str, family: str, values: dict[str, Any], targets: object):
    assert book_of(trainer, family, **values).changes["lora.targets"] == targets


@pytest.mark.parametrize(
    ("trainer", "family", "values", "note"),
    [
        ("SimpleTuner", "flux", {"flux_lora_target": "most"}, "Not among all"),
        ("ai-toolkit", "krea2", {"only_if_contains": ["wq"]}, "other names"),
        ("OneTrainer", "flux", {"layer_filter": "attn$", "layer_filter_regex": True}, "regular expression"),
        ("sd-scripts", "sdxl", {"network_args": "conv_dim=4 conv_alpha=4"}, "Strength 1 there"),
        ("sd-scripts", "flux", {"network_args": "img_attn_dim=8"}, "No such argument"),
        ("DiffSynth-Studio", "z-image", {"lora_rank": 8}, "on this base it stops"),
        ("ai-toolkit", "qwen-image", {"train_text_encoder": True}, "cannot be trained"),
        ("diffusers", "sdxl", {"train_text_encoder": True}, "feed-forward"),
        ("sd-scripts", "flux", {}, FUSED),
        ("OneTrainer", "chroma", {}, NO_ENCODER),
        ("OneTrainer", "qwen-image", {"text_encoder.train": True}, "cannot be trained here"),
    ],
)  # fmt: skip
def test_what_of_the_layers_cannot_be_had_is_a_row(
    trainer: str, family: str, values: dict[str, Any], note: str
):
    notes = [row.note for row in book_of(trainer, family, **values).rows if row.outcome == "cannot be had"]
    assert any(note in text for text in notes), notes


BOTH = ("text_encoder", "text_encoder_2")


@pytest.mark.parametrize(
    ("trainer", "family", "values", "encoders"),
    [
        ("sd-scripts", "sdxl", {}, BOTH),
        ("sd-scripts", "sdxl", {"network_train_unet_only": True}, ()),
        ("sd-scripts", "flux", {"network_args": "train_t5xxl=True"}, BOTH),
        ("kohya_ss", "sdxl", {"text_encoder_lr": 0, "unet_lr": 1e-4}, ()),
        ("kohya_ss", "sdxl", {"text_encoder_lr": 1e-5, "unet_lr": 1e-4}, BOTH),
        ("OneTrainer", "sdxl", {"text_encoder.train": False}, ("text_encoder_2",)),
        ("ai-toolkit", "sdxl", {}, ()),
        ("ai-toolkit", "sdxl", {"train_text_encoder": True}, BOTH),
        ("diffusers", "flux", {"train_text_encoder": True}, ("text_encoder",)),
    ],
)
def test_text_encoders_are_those_that_the_trainer_trains(
    trainer: str, family: str, values: dict[str, Any], encoders: tuple[str, ...]
):
    assert book_of(trainer, family, **values).changes.get("lora.text_encoders", ()) == encoders


def test_a_rank_of_convolutions_counts_where_there_are_some():
    """ai-toolkit's window writes one for every base."""
    values = {"conv": 8, "conv_alpha": 8, "linear": 16, "linear_alpha": 16}
    assert book_of("ai-toolkit", "sdxl", **values).changes["lora.conv_rank"] == 8
    transformer = book_of("ai-toolkit", "z-image", **values)
    assert "lora.conv_rank" not in transformer.changes
    assert [row.outcome for row in transformer.rows if row.key.startswith("conv")] == ["off", "off"]
