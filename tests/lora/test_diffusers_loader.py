from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from limner.errors import BadLora
from limner.lora.diffusers_loader import LoadReport, load, verify
from limner.lora.factors import Factors
from limner.lora.file import write
from loras import from_peft, warned
from messages import raises

HARMLESS = "No LoRA keys associated to CLIPTextModel"
"""diffusers says so of every LoRA without a text encoder, and that it is safe to ignore."""

TRANSFORMER = r".*(to_q|to_k|to_v|to_out\.0|add_q_proj|proj_mlp|net\.2|norm1\.linear|x_embedder|proj_out)"
CLIP = ["q_proj", "v_proj", "out_proj", "fc1", "fc2"]
T5 = ["SelfAttention.q", "wo"]


@pytest.fixture
def said() -> Iterator[list[str]]:
    with warned() as texts:
        yield texts


def pipeline() -> FluxPipeline:
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    small: dict[str, Any] = {"num_hidden_layers": 2, "vocab_size": 100, "bos_token_id": 0, "eos_token_id": 1}
    clip = CLIPTextModel(CLIPTextConfig(hidden_size=32, intermediate_size=37, num_attention_heads=4, **small))
    t5 = T5EncoderModel(T5Config(d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, vocab_size=100))
    made = FluxPipeline(FlowMatchEulerDiscreteScheduler(), None, clip, None, t5, None, transformer)  # pyright: ignore
    for model in (transformer, clip, t5):
        model.eval().requires_grad_(False)
    return made


@torch.no_grad()
def outputs(pipe: FluxPipeline) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 99, (2, 7), generator=draw)
    pooled = pipe.text_encoder(ids).pooler_output
    text = pipe.text_encoder_2(ids)[0]
    pred = pipe.transformer(
        hidden_states=torch.randn(2, 9, 4, generator=draw),
        encoder_hidden_states=text,
        pooled_projections=pooled,
        timestep=torch.tensor([0.2, 0.9]),
        img_ids=torch.zeros(9, 3),
        txt_ids=torch.zeros(7, 3),
        return_dict=False,
    )[0]
    return {"text_encoder": pooled, "text_encoder_2": text, "transformer": pred}


def trained(*parts: str, alpha: int = 8) -> tuple[FluxPipeline, dict[str, dict[str, Factors]]]:
    """A pipeline with a random peft LoRA of rank 4 in ``parts``, and what is to be exported of it."""
    pipe = pipeline()
    torch.manual_seed(2)
    targets = {"transformer": TRANSFORMER, "text_encoder": CLIP, "text_encoder_2": T5}
    for part in parts:
        setting = LoraConfig(r=4, lora_alpha=alpha, target_modules=targets[part], init_lora_weights=False)
        pipe.components[part].add_adapter(setting)
        pipe.components[part].eval()
    return pipe, {part: from_peft(pipe.components[part]) for part in parts}


def lora_of(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}


@pytest.mark.parametrize("parts", [("transformer",), ("text_encoder",), ("transformer", "text_encoder")])
def test_stock_diffusers_paints_as_the_trained_model(
    parts: tuple[str, ...], tmp_path: Path, said: list[str]
) -> None:
    path = tmp_path / "lora.safetensors"
    teacher, components = trained(*parts)
    write(path, components, {"modelspec.title": "x", "ss_network_dim": "4"})
    verdict = verify(path, components, "FluxPipeline")
    assert verdict == LoadReport({part: len(components[part]) for part in parts}, {}, verdict.error)
    assert verdict.error < 1e-7
    assert verdict.advice() == ""
    stock = pipeline()
    base = outputs(stock)
    stock.load_lora_weights(str(path))
    for part in parts:
        loaded = lora_of(stock.components[part])
        assert not any(parameter.is_meta for parameter in loaded.values())
        assert len(loaded) == 2 * len(components[part])
    assert sum(len(lora_of(stock.components[part])) for part in stock.components if part in base) == len(
        load_file(path)
    )
    for part, wished in outputs(teacher).items():
        assert torch.equal(outputs(stock)[part], wished)
    assert not torch.equal(outputs(stock)["transformer"], base["transformer"])
    missing = "FluxTransformer2DModel" if "transformer" not in parts else "CLIPTextModel"
    foreseen = f"No LoRA keys associated to {missing}"
    assert [text for text in said if not text.startswith(foreseen)] == []


def test_mixed_ranks_and_the_outer_projection_load(tmp_path: Path, said: list[str]) -> None:
    """``proj_out`` ends the name of other modules, and diffusers matches names by their ends."""
    path = tmp_path / "lora.safetensors"
    draw = torch.Generator().manual_seed(3)
    shapes = {
        "proj_out": (4, 32, 2),
        "single_transformer_blocks.0.proj_out": (32, 160, 8),
        "x_embedder": (32, 4, 3),
    }
    adapter = {
        name: Factors(torch.randn(rank, into, generator=draw), torch.randn(out, rank, generator=draw))
        for name, (out, into, rank) in shapes.items()
    }
    write(path, {"transformer": adapter}, {})
    verify(path, {"transformer": adapter}, "FluxPipeline")
    stock = pipeline()
    stock.load_lora_weights(str(path))
    found = from_peft(stock.transformer, "default_0")
    assert found.keys() == adapter.keys()
    assert all(torch.equal(found[name].up, adapter[name].up) for name in adapter)
    assert [text for text in said if not text.startswith(HARMLESS)] == []


def test_a_name_that_ends_another_is_foretold(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    outer = {"proj_out": Factors(torch.ones(2, 32), torch.ones(4, 2))}
    write(path, {"transformer": outer}, {})
    stock = pipeline()
    names = {"transformer": [name for name, _ in stock.transformer.named_modules()]}
    verdict = verify(path, {"transformer": outer}, "FluxPipeline", modules=names)
    assert verdict.ambiguous == ("single_transformer_blocks.0.proj_out",)
    assert "will warn of single_transformer_blocks.0.proj_out, which ends" in verdict.advice()
    with pytest.warns(
        RuntimeWarning, match=r"additional target modules: \['single_transformer_blocks.0.proj_out'\]"
    ):
        stock.load_lora_weights(str(path))
    assert from_peft(stock.transformer, "default_0").keys() == outer.keys()


def test_stock_passes_over_t5_without_a_word(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "lora.safetensors"
    teacher, components = trained("transformer", "text_encoder", "text_encoder_2")
    write(path, components, {})
    verdict = verify(path, components, "FluxPipeline")
    assert verdict.ignored_modules == {"text_encoder_2": len(components["text_encoder_2"])}
    assert "passes over the 4 modules of text_encoder_2" in verdict.advice()
    stock = pipeline()
    stock.load_lora_weights(str(path))
    assert said == []
    assert not lora_of(stock.text_encoder_2)
    assert not torch.equal(outputs(stock)["text_encoder_2"], outputs(teacher)["text_encoder_2"])


def test_load_brings_t5_too(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "lora.safetensors"
    teacher, components = trained("transformer", "text_encoder", "text_encoder_2")
    write(path, components, {})
    pipe = pipeline()
    assert load(pipe, path).ignored_modules == {"text_encoder_2": 4}
    for part, wished in outputs(teacher).items():
        assert torch.equal(outputs(pipe)[part], wished), part
    assert said == []


def test_only_t5_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    _, components = trained("text_encoder_2")
    write(path, components, {})
    with raises(BadLora):
        verify(path, components, "FluxPipeline")


def altered(path: Path, change: str) -> None:
    flat = load_file(path)
    first, second = sorted(flat)[:2]
    match change:
        case "lost":
            del flat[first], flat[second]
        case "number":
            flat[first][0] += 1
        case "added":
            flat["transformer.extra.lora_A.weight"] = torch.ones(1, 2)
            flat["transformer.extra.lora_B.weight"] = torch.ones(2, 1)
        case "wider":
            flat[first] = torch.ones(4, 99)
        case "scaled":
            flat["transformer.x_embedder.alpha"] = torch.tensor(2.0)
    save_file(flat, path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("lost", "reads 1 modules otherwise, the first is transformer"),
        ("added", "reads 1 modules otherwise, the first is transformer.extra"),
        ("number", r"% off when read as torch.float32"),
        ("wider", r"inf% off when read as"),
        ("scaled", "finds scales beside the factors"),
    ],
)
def test_a_file_that_is_not_what_was_meant_is_refused(tmp_path: Path, change: str, reason: str) -> None:
    path = tmp_path / "lora.safetensors"
    _, components = trained("transformer")
    write(path, components, {})
    altered(path, change)
    with pytest.raises(BadLora, match=reason):
        verify(path, components, "FluxPipeline")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_is_tolerated_and_vanishing_is_not(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "lora.safetensors"
    _, components = trained("transformer")
    write(path, components, {}, dtype)
    assert 0 < verify(path, components, "FluxPipeline").error < 1e-2
    tiny = {name: Factors(f.down, f.up * 1e-8) for name, f in components["transformer"].items()}
    write(path, {"transformer": tiny}, {}, dtype)
    if dtype == torch.float16:
        with raises(BadLora):
            verify(path, {"transformer": tiny}, "FluxPipeline")
    else:
        assert verify(path, {"transformer": tiny}, "FluxPipeline").error < 1e-2


def test_an_untrained_lora_is_the_base(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    _, components = trained("transformer")
    zero = {name: Factors(f.down, torch.zeros_like(f.up)) for name, f in components["transformer"].items()}
    write(path, {"transformer": zero}, {})
    assert verify(path, {"transformer": zero}, "FluxPipeline").error == 0
    stock = pipeline()
    base = outputs(stock)
    stock.load_lora_weights(str(path))
    assert torch.equal(outputs(stock)["transformer"], base["transformer"])


def test_the_installed_diffusers_loads_what_we_think() -> None:
    assert diffusers.FluxPipeline._lora_loadable_modules == ["transformer", "text_encoder"]
