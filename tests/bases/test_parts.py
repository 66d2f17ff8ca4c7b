from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline

from limner.bases import parts
from limner.bases.parts import SIZES, fresh_clip, fresh_pipeline, fresh_t5, fresh_transformer, fresh_vae


def weights(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", SIZES)
def test_a_base_weighs_less_than_40_mb_in_bf16(name: str) -> None:
    size = SIZES[name]
    models = (fresh_vae(size), fresh_transformer(size), fresh_clip(), fresh_t5())
    assert 2 * sum(map(weights, models)) < 40e6


def test_an_untrained_transformer_guesses_nothing_and_can_learn() -> None:
    model = fresh_transformer(SIZES["cpu"])
    wide = 4 * SIZES["cpu"].latent_channels
    pred = model(
        hidden_states=torch.randn(1, 4, wide),
        encoder_hidden_states=torch.randn(1, 3, 192),
        pooled_projections=torch.randn(1, 128),
        timestep=torch.tensor([0.5]),
        img_ids=torch.zeros(4, 3),
        txt_ids=torch.zeros(3, 3),
    ).sample
    assert torch.equal(pred, torch.zeros_like(pred))
    (pred - 1).square().mean().backward()
    assert model.proj_out.weight.grad is not None
    assert model.proj_out.bias.grad.abs().min() > 0


def test_clip_pools_at_the_first_end_whatever_follows() -> None:
    model = fresh_clip().eval()
    short = model(torch.tensor([[0, 700, 800, 1, 1, 1]])).pooler_output
    long = model(torch.tensor([[0, 700, 800, 1, *[1] * 73]])).pooler_output
    other = model(torch.tensor([[0, 700, 801, 1, 1, 1]])).pooler_output
    assert torch.allclose(short, long, atol=1e-6)
    assert not torch.allclose(short, other, atol=1e-3)


def test_stock_diffusers_loads_and_paints_what_was_saved(tmp_path: Path) -> None:
    size = SIZES["cpu"]
    fresh_vae(size).save_pretrained(tmp_path / "vae")
    made = fresh_pipeline(tmp_path / "vae", size)
    parts.save_pipeline(tmp_path / "base", made, size, dtype=torch.bfloat16)
    pipe = FluxPipeline.from_pretrained(tmp_path / "base", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    out = pipe("an owl", width=64, height=64, num_inference_steps=2, max_sequence_length=20)
    assert out.images[0].size == (64, 64)
    loaded = parts.load_pipeline(tmp_path / "base")
    assert {loaded[name].dtype for name in ("transformer", "text_encoder", "text_encoder_2")} == {
        torch.float32
    }
    rounded = made["transformer"].state_dict()["x_embedder.weight"].bfloat16().float()
    assert torch.equal(loaded["transformer"].state_dict()["x_embedder.weight"], rounded)
    assert max(file.stat().st_size for file in (tmp_path / "base").rglob("*")) < 16 * 2**20
    assert not any(str(tmp_path) in file.read_text() for file in (tmp_path / "base").rglob("*.json"))
