import pytest
import torch
from safetensors.torch import load_file, save_file

from limner.errors import BadBase
from limner.lora.extraction import extract, flattened
from limner.lora.into_base import merge_into_base
from limner.lora.weights import open_base
from loras import dora, factors, loha, worst
from messages import raises

ADAPTER = {
    "transformer_blocks.0.attn.to_q": factors(seed=1),
    "transformer_blocks.0.attn.to_v": factors(seed=2),
    "norm_out.linear": factors(16),
}


def base_file(path):
    torch.manual_seed(0)
    shapes = {"double_blocks.0.img_attn.qkv": 24, "final_layer.adaLN_modulation.1": 16, "img_in": 8}
    save_file({f"{name}.weight": torch.randn(rows, 8) for name, rows in shapes.items()}, path)
    return path


def test_what_was_baked_is_extracted(tmp_path) -> None:
    base, tuned = base_file(tmp_path / "base.safetensors"), tmp_path / "tuned.safetensors"
    merge_into_base(base, open_base(base), {"transformer": ADAPTER}, tuned)
    told = []
    found, lost = extract(open_base(base), open_base(tuned), 2, lambda: told.append(1))
    assert len(told) == 3
    assert worst({**found}, {"transformer": {**ADAPTER}}) < 1e-5  # pyright: ignore
    assert max(left.relative for left in lost) < 1e-5


def test_less_rank_is_the_nearest(tmp_path) -> None:
    base, tuned = base_file(tmp_path / "base.safetensors"), tmp_path / "tuned.safetensors"
    merge_into_base(base, open_base(base), {"transformer": ADAPTER}, tuned)
    _, lost = extract(open_base(base), open_base(tuned), 1)
    values = torch.linalg.svdvals(factors(seed=1).dense())
    wanted = (values[1:].square().sum() / values.square().sum()).sqrt().item()
    assert next(left for left in lost if left.module.endswith("to_q")).relative == pytest.approx(
        wanted, rel=1e-3
    )


def test_what_has_no_difference_is_refused(tmp_path) -> None:
    base = base_file(tmp_path / "base.safetensors")
    with raises(BadBase):
        extract(open_base(base), open_base(base), 2)
    other = tmp_path / "other.safetensors"
    save_file({"layers.0.feed_forward.w1.weight": torch.ones(4, 4)}, other)
    with raises(BadBase):
        extract(open_base(base), open_base(other), 2)
    weights = load_file(base)
    save_file({"img_in.weight": weights["img_in.weight"][:4].clone()}, other)
    with raises(BadBase):
        extract(open_base(base), open_base(other, "flux"), 2)


def test_any_kind_becomes_a_plain_lora() -> None:
    weight = torch.randn(8, 8)
    made, relative = flattened(dora(), weight, 8)
    assert torch.allclose(made.dense(), dora().over(weight) - weight, atol=1e-5)
    assert relative < 1e-6
    _, lost = flattened(dora(), weight, 1)
    assert 0 < lost < 1
    assert flattened(loha(), None, 99)[1] < 1e-7
