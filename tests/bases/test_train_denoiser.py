import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from limner.bases import train_denoiser
from limner.bases.train_denoiser import LENGTHS, DenoiserConfig, train, validation_loss
from limner.graph.unit import split
from limner.models.flux.family import FAMILY
from limner.models.loading import load
from limner.models.source import locate

TRAINED = {"transformer": 0, "text_encoder": 0, "text_encoder_2": 0}


def boundary(count: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        "latent_mean": torch.randn(count, 4, 4, 4, generator=draw).bfloat16(),
        "latent_logvar": torch.full((count, 4, 4, 4), -4.6).bfloat16(),
        "clip_tokens": torch.randint(2, 60, (count, 77), generator=draw).to(torch.int16),
        "t5_tokens": torch.randint(2, 40, (count, 12), generator=draw).to(torch.int16),
    }


@pytest.fixture
def models(tiny_base: Path) -> dict[str, torch.nn.Module]:
    source = locate(str(tiny_base), folders={})
    cpu = torch.device("cpu")
    return {name: load(FAMILY, source, name, dtype=torch.float32, device=cpu) for name in TRAINED}


def wish(minutes: float) -> DenoiserConfig:
    return DenoiserConfig(
        minutes=minutes, batch=8, rate=6e-3, decay=0.9, device=torch.device("cpu"), precision=torch.float32
    )


def test_three_trained_models_leave_latents_and_tokens_to_the_frozen_part() -> None:
    cut = split(tuple(unit.bind(**train_denoiser.CONSTANTS) for unit in FAMILY.units), TRAINED)
    assert cut.boundary == set(boundary(1))


def test_training_by_the_clock_learns_and_records(
    models: dict[str, torch.nn.Module], monkeypatch: pytest.MonkeyPatch, looked_at: Callable[[int], None]
) -> None:
    looked_at(100)
    said: list[dict[str, float]] = []
    monkeypatch.setattr(train_denoiser, "_log", said.append)
    before = {name: p.detach().clone() for name, p in models["text_encoder_2"].named_parameters()}
    kept: list[int] = []
    record = train(models, boundary(64), boundary(16), wish(1), lambda row: kept.append(len(row["rows"])))
    assert record["rows"] == said
    assert kept == list(range(1, len(said) + 1))
    assert record["rows"][-1]["images"] > record["rows"][0]["images"]
    assert record["rows"][-1]["shown"] < record["rows"][0]["shown"]
    after = dict(models["text_encoder_2"].named_parameters())
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_the_held_out_loss_has_no_luck_in_it(models: dict[str, torch.nn.Module]) -> None:
    cut = split(tuple(unit.bind(**train_denoiser.CONSTANTS) for unit in FAMILY.units), TRAINED)
    first = validation_loss(models, cut, boundary(16), wish(1))
    torch.rand(3)
    assert validation_loss(models, cut, boundary(16), wish(1)) == first


def test_text_comes_in_several_lengths() -> None:
    assert [length for length, _, _ in LENGTHS] == [0, 128, 512]
    assert sum(share for _, _, share in LENGTHS) == pytest.approx(1)
    rows = train_denoiser._rows(boundary(4), torch.arange(2), 128)
    assert rows["t5_tokens"].shape == (2, 128)
    assert rows["t5_tokens"][0, 12:].eq(0).all()
    assert train_denoiser._rows(boundary(4), torch.arange(2), 0)["t5_tokens"].shape == (2, 12)


def test_a_base_that_goes_on_counts_on(tmp_path: Path) -> None:
    row = {"step": 3, "images": 24, "seconds": 2.0, "held_out": 0.5}
    (fresh,) = train_denoiser.earlier(None, [row], "ab")
    assert fresh == row | {"part": 1, "set": "ab"}
    (tmp_path / "training.json").write_text(json.dumps({"rows": [fresh]}))
    first, second = train_denoiser.earlier(tmp_path, [row], "cd")
    assert first == fresh
    counted = {"step": 6, "images": 48, "seconds": 4.0}
    assert second == counted | {"held_out": 0.5, "part": 2, "set": "cd"}


def test_a_held_out_set_is_told_by_its_captions() -> None:
    same, other = boundary(4), boundary(4)
    assert train_denoiser.fingerprint(same) == train_denoiser.fingerprint(boundary(4))
    other["clip_tokens"][0, 3] += 1
    assert train_denoiser.fingerprint(other) != train_denoiser.fingerprint(same)
