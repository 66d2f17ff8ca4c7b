from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel

from limner.assembly.assemble import META, assemble
from limner.assembly.resolve import resolve
from limner.errors import BadLora, BadRecipe
from limner.lora import file
from limner.lora.adapters import Loha, to_lora
from limner.lora.factors import Factors
from limner.lora.tools import tool_named
from limner.runs import _predict, train
from limner.training.initial import initial_lora
from limner.training.model import plain
from messages import raises
from small import Told, equal, weights, wish

MODULE = "transformer_blocks.0.attn.to_q"


@pytest.fixture(scope="module")
def shapes(tiny_base) -> dict[str, tuple[int, int]]:
    """Trained layer of the denoiser -> rows and columns."""
    model = FluxTransformer2DModel.from_pretrained(tiny_base, subfolder="transformer")
    return {
        name: (layer.out_features, layer.in_features)
        for name, layer in model.named_modules()
        if name.endswith((".attn.to_q", ".attn.to_k", ".attn.to_v"))
    }


def factors(shapes: dict[str, tuple[int, int]], rank: int) -> dict[str, Factors]:
    draw = torch.Generator().manual_seed(rank)
    return {
        name: Factors(torch.randn(rank, columns, generator=draw), torch.randn(rows, rank, generator=draw) / 9)
        for name, (rows, columns) in shapes.items()
    }


def trained(base: Path, photos: Path, out: Path, **sections) -> Told:
    told = Told()
    train(wish(base, photos, **sections), out, told)
    return told


def changes(path: Path) -> dict[str, torch.Tensor]:
    adapter = file.read(path).components["transformer"]
    return {name: to_lora(change).dense() for name, change in adapter.items()}


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_step_0_is_the_lora_at_any_rank(tiny_base, photos, tmp_path, shapes, rank):
    """Of the run's rank 2: a smaller one whole, a larger one as its best approximation."""
    adapter = factors(shapes, rank)
    path = tmp_path / "other.safetensors"
    file.write(path, {"transformer": adapter}, {}, tool=tool_named("comfyui"), family="flux")
    told = trained(
        tiny_base, photos, tmp_path / "run", train={"init": str(path), "steps": 0}, lora={"alpha": 1.0}
    )
    written = tmp_path / "run" / "lora.safetensors"
    dense = changes(written)
    energies = []
    for name, change in adapter.items():
        left, values, right = torch.linalg.svd(change.dense())
        best = left[:, :2] * values[:2] @ right[:2]
        assert torch.allclose(dense[name], best, atol=1e-5), name
        energies.append((values[:2].square().sum(), values.square().sum()))
    assert all(not change.any() for name, change in dense.items() if name not in adapter)
    energy = float(sum(kept for kept, _ in energies) / sum(whole for _, whole in energies))
    assert (energy == pytest.approx(1.0)) == (rank <= 2)
    (line,) = (line for line in told.lines if line.startswith("Starts from"))
    assert f"{len(adapter)} layers" in line and f"{100 * energy:.1f} %" in line
    metadata = file.read(written).metadata
    assert metadata["limner.init"] == "other.safetensors"
    assert float(metadata["limner.init_energy"]) == pytest.approx(energy, abs=1e-6)
    assert len(metadata["limner.init_sha256"]) == 64


def test_a_run_from_a_lora_is_resumed_exactly_and_without_it(tiny_base, photos, tmp_path, shapes):
    path = tmp_path / "first.safetensors"
    file.write(path, {"transformer": factors(shapes, 3)}, {})
    options = {"init": str(path), "ema": 0.9}
    trained(tiny_base, photos, tmp_path / "whole", train=options)
    trained(tiny_base, photos, tmp_path / "half", train=options | {"steps": 2})
    path.unlink()
    listener = Told()
    again = wish(tiny_base, photos, train=options | {"init": "elsewhere.safetensors"})
    train(again, tmp_path / "half", listener)
    assert 'is "elsewhere.safetensors", which counts at step 0 alone' in listener.text
    whole, half, other = weights(tmp_path / "whole", 4), weights(tmp_path / "half", 4), tmp_path / "other"
    assert equal(whole, half)
    metadata = [file.read(tmp_path / run / "lora.safetensors").metadata for run in ("whole", "half")]
    assert metadata[0]["limner.init_sha256"] == metadata[1]["limner.init_sha256"]
    trained(tiny_base, photos, other)
    assert not equal(whole, weights(other, 4))


def test_rows_of_zeros_learn_and_other_kinds_are_made_lora(tiny_base, photos, tmp_path, shapes):
    """A row whose two sides are zero has no gradient: it begins as in a run from nothing."""
    rows, columns = shapes[MODULE]
    dead = Factors(torch.zeros(2, columns), torch.zeros(rows, 2))
    draw = torch.Generator().manual_seed(0)
    sides = [torch.randn(*shape, generator=draw) for shape in ((rows, 1), (1, columns)) * 2]
    loha = Loha(*sides)
    other = next(name for name in shapes if name != MODULE)
    path = tmp_path / "mixed.safetensors"
    for name, adapter in (("dead", {MODULE: dead}), ("loha", {other: loha})):
        file.write(path, {"transformer": adapter}, {}, tool=tool_named("comfyui"), family="flux")
        trained(tiny_base, photos, tmp_path / name, train={"init": str(path), "steps": 2})
    moved = weights(tmp_path / "dead", 2)
    assert any(key.startswith(f"transformer.{MODULE}.lora_B") and value.any() for key, value in moved.items())
    trained(tiny_base, photos, tmp_path / "start", train={"init": str(path), "steps": 0})
    assert torch.allclose(
        changes(tmp_path / "start" / "lora.safetensors")[other], loha.to_lora().dense(), atol=1e-5
    )


def asked(base: Path, photos: Path, init: str, **sections) -> object:
    resolved = resolve(wish(base, photos, **{"train": {"init": init}, **sections}))
    return initial_lora(resolved, assemble(resolved.spec, plain(resolved), META), Told(), _predict)


def test_what_does_not_fit_is_told_before_anything_is_computed(tiny_base, photos, tmp_path, shapes):
    adapter = factors(shapes, 2)
    path = tmp_path / "a.safetensors"
    cases = {
        "elsewhere": {"transformer": {"transformer_blocks.7.attn.to_q": adapter[MODULE]}},
        "shape": {"transformer": {MODULE: Factors(torch.ones(1, 48), adapter[MODULE].up[:, :1])}},
        "encoder": {
            "text_encoder": {
                "text_model.encoder.layers.0.self_attn.q_proj": Factors(torch.ones(1, 16), torch.ones(16, 1))
            }
        },
    }
    for components in cases.values():
        file.write(path, components, {})
        with raises(BadRecipe):
            asked(tiny_base, photos, str(path))
    file.write(path, {"transformer": adapter}, {})
    with raises(BadRecipe):
        asked(tiny_base, photos, str(path), lora={"targets": ["attn.to_k"]})
    path.write_bytes(b"torn")
    with pytest.raises(BadLora):
        asked(tiny_base, photos, str(path))
    for missing in (str(tmp_path / "nowhere.safetensors"), "nobody/nothing"):
        with raises(BadLora):
            asked(tiny_base, photos, missing)
    with raises(BadRecipe):
        wish(tiny_base, photos, train={"init": str(path), "method": "full"}, lora={"rank": 16})


def test_text_encoders_begin_with_their_part(tiny_base, photos, tmp_path):
    layer = "text_model.encoder.layers.0.self_attn.q_proj"
    change = Factors(torch.randn(1, 16), torch.randn(16, 1))
    path = tmp_path / "a.safetensors"
    file.write(path, {"text_encoder": {layer: change}}, {})
    trained(
        tiny_base,
        photos,
        tmp_path / "run",
        train={"init": str(path), "steps": 0},
        lora={"text_encoders": ["text_encoder"]},
    )
    components = file.read(tmp_path / "run" / "lora.safetensors").components
    assert torch.allclose(to_lora(components["text_encoder"][layer]).dense(), change.dense(), atol=1e-6)
