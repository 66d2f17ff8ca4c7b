import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from limner.errors import BadLora
from limner.lora import file
from limner.lora.adapters import Dora, to_lora
from limner.lora.peft_config import CONFIG_FILE, HEADER_KEY, WEIGHTS_FILE, PeftConfig, in_folder, in_header

NAMES = ("to_q", "to_k", "to_v")


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(8, 8, bias=False) for _ in range(3))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = Attention()


class Model(nn.Module):
    """Two blocks that are called as FLUX.1's are."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList([Block(), Block()])


def saved_by_peft(folder: Path, config: Any) -> nn.Module:
    """Let peft itself write its two files; random numbers wherever it begins with zeros."""
    torch.manual_seed(0)
    model = peft.get_peft_model(Model(), config)  # pyright: ignore
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            nn.init.uniform_(weight, 0.5, 1.5) if "magnitude" in name else nn.init.normal_(weight)
    model.save_pretrained(str(folder))
    return model


COMMON: dict[str, Any] = {"r": 4, "target_modules": list(NAMES)}
PATTERNS: dict[str, Any] = {
    "alpha_pattern": {"to_k": 2, "transformer_blocks.1.attn.to_q": 1, "^transformer_blocks.0.attn.to_v": 3},
    "rank_pattern": {r"transformer_blocks\.\d+\.attn\.to_v": 2},
}
CONFIGS = {
    "alpha": peft.LoraConfig(lora_alpha=16, **COMMON),
    "rslora": peft.LoraConfig(lora_alpha=16, use_rslora=True, **COMMON),
    "patterns": peft.LoraConfig(lora_alpha=8, **COMMON, **PATTERNS),
    "rslora patterns": peft.LoraConfig(lora_alpha=8, use_rslora=True, **COMMON, **PATTERNS),
    "LoHa": peft.LoHaConfig(alpha=16, **COMMON, **PATTERNS),
    "LoKr": peft.LoKrConfig(alpha=16, **COMMON, **PATTERNS),
    "LoKr factored": peft.LoKrConfig(alpha=16, decompose_both=True, r=1, target_modules=list(NAMES)),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("by_folder", [True, False])
def test_a_folder_of_peft_has_the_strength_that_peft_gives_it(name: str, tmp_path: Path, by_folder) -> None:
    model = saved_by_peft(tmp_path, CONFIGS[name])
    lora = file.read(tmp_path if by_folder else tmp_path / WEIGHTS_FILE, "flux")
    layers: dict[str, Any] = {
        path.removeprefix("base_model.model."): layer
        for path, layer in model.named_modules()
        if hasattr(layer, "get_delta_weight")
    }
    deltas = lora.components["transformer"]
    assert deltas.keys() == layers.keys()
    for module, layer in layers.items():
        expected = layer.get_delta_weight("default")
        assert torch.allclose(to_lora(deltas[module]).dense().float(), expected, rtol=1e-4, atol=1e-5), module
    assert "adapter_config.json holds the strength" in lora.repairs[0]


def test_a_dora_of_peft_is_scaled_too(tmp_path: Path) -> None:
    saved_by_peft(tmp_path, peft.LoraConfig(lora_alpha=16, use_dora=True, **COMMON))
    flat = load_file(tmp_path / WEIGHTS_FILE)
    delta = file.read(tmp_path, "flux").components["transformer"]["transformer_blocks.0.attn.to_q"]
    assert isinstance(delta, Dora)
    stem = "base_model.model.transformer_blocks.0.attn.to_q"
    assert torch.equal(delta.factors.up, flat[f"{stem}.lora_B.weight"] * 4)


def test_without_its_config_the_strength_is_said_to_be_unknown(tmp_path: Path) -> None:
    saved_by_peft(tmp_path, CONFIGS["alpha"])
    (tmp_path / CONFIG_FILE).unlink()
    assert "adapter_config.json, which is not beside" in file.read(tmp_path, "flux").notes[0]


def test_diffusers_anchors_its_patterns() -> None:
    """As diffusers 0.42.1 writes them for a LoRA of several ranks."""
    entries = {
        "transformer.r": 2,
        "transformer.lora_alpha": 2,
        "transformer.alpha_pattern": {"^transformer_blocks.0.attn.to_k": 4},
        "transformer.rank_pattern": {"^transformer_blocks.0.attn.to_k": 4},
    }
    config = in_header({HEADER_KEY: json.dumps(entries)})["transformer"]
    assert config.scale("transformer_blocks.0.attn.to_k", 4) == 1
    assert config.scale("transformer_blocks.0.attn.to_q", 2) == 1
    assert in_header({}) == {}


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(a+)+", "intricate"),
        ("a*b*c*d*", "intricate"),
        ("(", "which is none"),
        ("(y)*", "intricate"),
    ],
)
def test_patterns_that_cannot_be_tried_are_refused(pattern: str, reason: str) -> None:
    config = PeftConfig("adapter_config.json", 1.0, 4, False, {pattern: 1}, {})  # noqa: FBT003
    with pytest.raises(BadLora, match=reason):
        config.scale("a" * 40, 4)


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"r": 4}, "has no lora_alpha"),
        ({"lora_alpha": "x", "r": 4}, "has no lora_alpha"),
        ({"lora_alpha": float("inf"), "r": 4}, "not finite"),
        ({"lora_alpha": 4, "r": 4, "alpha_pattern": [1]}, "has no lora_alpha"),
        ({"lora_alpha": 4, "r": 4, "init_lora_weights": "pissa_niter_16"}, "changes the weights of the base"),
    ],
)
def test_configs_that_do_not_say_the_strength_are_refused(
    entries: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    (tmp_path / CONFIG_FILE).write_text(json.dumps(entries))
    with pytest.raises(BadLora, match=reason):
        in_folder(tmp_path / WEIGHTS_FILE)


def test_no_rank_anywhere_is_refused() -> None:
    config = PeftConfig("adapter_config.json", 1.0, None, False, {}, {})  # noqa: FBT003
    with pytest.raises(BadLora, match="has no rank for a"):
        config.scale("a", None)


def test_only_the_file_of_that_name_has_a_config_beside_it(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / CONFIG_FILE).write_text("no JSON")
    assert in_folder(tmp_path / "other.safetensors") is None
    bad = {b"no JSON": "is not JSON", b" " * 1_000_001: "has over", b"\xff": "cannot be read"}
    for content, reason in bad.items():
        (tmp_path / CONFIG_FILE).write_bytes(content)
        with pytest.raises(BadLora, match=reason):
            in_folder(tmp_path / WEIGHTS_FILE)


def test_the_base_that_a_config_names_tells_the_family(tmp_path: Path) -> None:
    """Names and widths of this module are those of FLUX.1, of FLUX.2 klein and of Qwen-Image."""
    stem = "base_model.model.transformer_blocks.0.attn.to_q"
    tensors = {f"{stem}.lora_A.weight": torch.ones(1, 3072), f"{stem}.lora_B.weight": torch.ones(3072, 1)}
    save_file(tensors, tmp_path / WEIGHTS_FILE)
    for base, family in (("black-forest-labs/FLUX.1-dev", "flux"), ("Qwen/Qwen-Image", "qwen-image")):
        config = {"r": 1, "lora_alpha": 1, "base_model_name_or_path": base}
        (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
        assert file.read(tmp_path).family == family
