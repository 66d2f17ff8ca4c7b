from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from limner.errors import BadBase
from limner.lora.extraction import energy_kept, extract
from limner.lora.into_base import merge_into_base
from limner.lora.nearest import KindRequest
from limner.lora.weights import open_base
from loras import factors, worst
from messages import raises

ADAPTER = {
    "transformer_blocks.0.attn.to_q": factors(seed=1),
    "transformer_blocks.0.attn.to_v": factors(seed=2),
    "norm_out.linear": factors(16),
}


def of_rank(rank: int) -> KindRequest:
    return KindRequest(kind="lora", rank=rank)


def base_file(path):
    torch.manual_seed(0)
    shapes = {"double_blocks.0.img_attn.qkv": 24, "final_layer.adaLN_modulation.1": 16, "img_in": 8}
    save_file({f"{name}.weight": torch.randn(rows, 8) for name, rows in shapes.items()}, path)
    return path


def test_what_was_baked_is_extracted(tmp_path) -> None:
    base, tuned = base_file(tmp_path / "base.safetensors"), tmp_path / "tuned.safetensors"
    merge_into_base(base, open_base(base), {"transformer": ADAPTER}, tuned)
    told = []
    found = extract(open_base(base), open_base(tuned), of_rank(2), lambda: told.append(1))
    assert len(told) == 3
    assert worst({**found.adapters}, {"transformer": {**ADAPTER}}) < 1e-5  # pyright: ignore
    assert max(loss.relative for loss in found.losses) < 1e-5
    assert (found.left_out, found.left_out_share, found.lone_count) == ((), 0, 0)


def test_less_rank_is_the_nearest(tmp_path) -> None:
    base, tuned = base_file(tmp_path / "base.safetensors"), tmp_path / "tuned.safetensors"
    merge_into_base(base, open_base(base), {"transformer": ADAPTER}, tuned)
    losses = extract(open_base(base), open_base(tuned), of_rank(1)).losses
    values = torch.linalg.svdvals(factors(seed=1).dense())
    wanted = (values[1:].square().sum() / values.square().sum()).sqrt().item()
    assert next(loss for loss in losses if loss.module.endswith("to_q")).relative == pytest.approx(
        wanted, rel=1e-3
    )
    sizes = torch.tensor([[loss.size, loss.relative * loss.size] for loss in losses]).square().sum(0)
    assert energy_kept(losses) == pytest.approx((1 - sizes[1] / sizes[0]).item(), rel=1e-5)
    assert energy_kept([]) == 1


def test_what_has_no_difference_is_refused(tmp_path) -> None:
    base = base_file(tmp_path / "base.safetensors")
    with raises(BadBase):
        extract(open_base(base), open_base(base), of_rank(2))
    other = tmp_path / "other.safetensors"
    save_file({"noise_refiner.0.feed_forward.w1.weight": torch.ones(4, 4)}, other)
    with raises(BadBase):
        extract(open_base(base), open_base(other), of_rank(2))
    weights = load_file(base)
    save_file({"img_in.weight": weights["img_in.weight"][:4].clone()}, other)
    with raises(BadBase):
        extract(open_base(base), open_base(other, "flux"), of_rank(2))


def sdxl(path: Path, **changes: torch.Tensor) -> Path:
    """A single file of SDXL in small: the UNet, both text encoders, a bias and a norm."""
    draw = torch.Generator().manual_seed(0)
    clip_g, block = "conditioner.embedders.1.model", "transformer.resblocks.3"
    shapes = {
        "model.diffusion_model.input_blocks.4.1.proj_in.weight": (8, 8),
        "model.diffusion_model.input_blocks.4.1.proj_in.bias": (8,),
        "model.diffusion_model.out.0.weight": (8,),
        "conditioner.embedders.0.transformer.text_model.encoder.layers.1.mlp.fc1.weight": (16, 8),
        f"{clip_g}.{block}.attn.in_proj_weight": (24, 8),
        f"{clip_g}.{block}.attn.out_proj.weight": (8, 8),
        f"{clip_g}.{block}.ln_1.weight": (8,),
        f"{clip_g}.text_projection": (8, 6),
        f"{clip_g}.token_embedding.weight": (20, 8),
    }
    tensors = {name: torch.randn(*shape, generator=draw) for name, shape in shapes.items()}
    for ending, change in changes.items():
        (name,) = (name for name in shapes if name.endswith(ending))
        tensors[name] = tensors[name] + change
    save_file(tensors, path)
    return path


def test_the_text_encoders_of_a_single_file_are_extracted(tmp_path) -> None:
    """CLIP-G stands there as its authors name it: q, k and v as one, the projection the other way round."""
    base = sdxl(tmp_path / "base.safetensors")
    k, projection, fc1 = factors(seed=1), factors(6, 8, seed=2), factors(16, seed=3)
    in_proj = torch.zeros(24, 8)
    in_proj[8:16] = k.dense().float()
    changes = {"in_proj_weight": in_proj, "text_projection": projection.dense().float().T}
    tuned = sdxl(tmp_path / "tuned.safetensors", **changes, **{"mlp.fc1.weight": fc1.dense().float()})
    found = extract(open_base(base), open_base(tuned), of_rank(2))
    layer = "text_model.encoder.layers"
    expected = {
        "text_encoder": {f"{layer}.1.mlp.fc1": fc1},
        "text_encoder_2": {f"{layer}.3.self_attn.k_proj": k, "text_projection": projection},
    }
    assert worst({**found.adapters}, expected) < 1e-5  # pyright: ignore
    out = tmp_path / "out.safetensors"
    assert merge_into_base(base, open_base(base), expected, out) == 3
    merged, wanted = load_file(out), load_file(tuned)
    assert all(torch.allclose(merged[name], wanted[name], atol=1e-6) for name in wanted)


def test_what_a_lora_does_not_hold_is_named(tmp_path) -> None:
    base = sdxl(tmp_path / "base.safetensors")
    delta = {"proj_in.weight": torch.full((8, 8), 0.5), "proj_in.bias": torch.full((8,), 3.0)}
    found = extract(open_base(base), open_base(sdxl(tmp_path / "tuned.safetensors", **delta)), of_rank(2))
    assert found.left_out == ("model.diffusion_model.input_blocks.4.1.proj_in.bias",)
    assert found.left_out_share == pytest.approx((72 / (72 + 16)) ** 0.5)
    only = sdxl(tmp_path / "only.safetensors", **{"ln_1.weight": torch.ones(8)})
    with raises(BadBase):
        extract(open_base(base), open_base(only), of_rank(2))


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float16), (torch.bfloat16, torch.float32)])
def test_rounding_is_no_difference(tmp_path, dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    base = sdxl(tmp_path / "base.safetensors")
    tensors = load_file(base)
    name = "model.diffusion_model.input_blocks.4.1.proj_in.weight"
    for n, dtype in enumerate(dtypes):
        rounded = {key: tensor.to(dtype) for key, tensor in tensors.items()}
        save_file(
            rounded | ({name: (tensors[name] + 1).to(dtype)} if n else {}), tmp_path / f"{n}.safetensors"
        )
        tensors = {key: tensor.float() for key, tensor in rounded.items()} if n == 0 else tensors
    found = extract(open_base(tmp_path / "0.safetensors"), open_base(tmp_path / "1.safetensors"), of_rank(4))
    assert [loss.module for loss in found.losses] == ["down_blocks.1.attentions.0.proj_in"]
    assert found.left_out == ()


def test_a_base_in_diffusers_layout_and_a_fine_tune_in_one_file(tmp_path) -> None:
    single, folder = base_file(tmp_path / "tuned.safetensors"), tmp_path / "base" / "transformer"
    folder.mkdir(parents=True)
    tensors = load_file(single)
    q, k, v = tensors["double_blocks.0.img_attn.qkv.weight"].split(8)
    scale, shift = tensors["final_layer.adaLN_modulation.1.weight"].chunk(2)
    block = "transformer_blocks.0.attn"
    layout = {
        f"{block}.to_q": q,
        f"{block}.to_k": k - 1,
        f"{block}.to_v": v,
        "x_embedder": tensors["img_in.weight"],
    }
    layout["norm_out.linear"] = torch.cat([shift, scale])
    save_file(
        {f"{name}.weight": tensor.contiguous() for name, tensor in layout.items()}, folder / "m.safetensors"
    )
    found = extract(open_base(folder.parent, "flux"), open_base(single), of_rank(8))
    assert {name: list(adapter) for name, adapter in found.adapters.items()} == {
        "transformer": [f"{block}.to_k"]
    }
    assert torch.allclose(found.adapters["transformer"][f"{block}.to_k"].dense().float(), torch.ones(8, 8))
