import pytest
import torch

from limner.nn.layers import precision, quantization
from limner.nn.layers.precision import coding_bytes, stored_bytes
from limner.nn.layers.quantization import empty, quantize
from limner.planning.tracker import Tracker

CHUNK = 1 << 19
"""So many numbers at once here: tests have small weights."""


@pytest.mark.parametrize("kind", ["int8", "fp8", "nf4"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (64, 64), (16, 1025), (3072, 15360)])
def test_bytes_are_those_of_the_tensors(kind, shape):
    stored = empty(kind, *shape, "meta")
    assert stored_bytes(kind, *shape) == sum(t.numel() * t.element_size() for t in stored)


@pytest.mark.parametrize(("weights", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_plain_weights(weights, dtype):
    assert stored_bytes(weights, 3, 5) == torch.empty(3, 5, dtype=dtype).nbytes


def test_bits_of_a_large_weight():
    numbers = 3072 * 12288
    bits = {kind: 8 * stored_bytes(kind, 3072, 12288) / numbers for kind in ("int8", "fp8", "nf4")}
    assert bits["int8"] == bits["fp8"] == pytest.approx(8.0026, abs=1e-3)
    assert bits["nf4"] == pytest.approx(4.1289, abs=1e-3)


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match="not as 'int3'"):
        stored_bytes("int3", 2, 2)


@pytest.mark.parametrize("kind", ["int8", "fp8", "nf4"])
@pytest.mark.parametrize("shape", [(64, 64), (300, 1000), (1024, 1200)])
def test_coding_takes_what_is_said(kind, shape, monkeypatch):
    """Whether a weight is coded at once or in three parts, of which none is there beside the next."""
    monkeypatch.setattr(quantization, "CHUNK", CHUNK)
    monkeypatch.setattr(precision, "CHUNK", CHUNK)
    with Tracker("cpu", granule=1) as seen:
        quantize(torch.ones(shape, dtype=torch.bfloat16), kind)
    given = 2 * shape[0] * shape[1]
    took = seen.peak - given - stored_bytes(kind, *shape)
    assert took == pytest.approx(coding_bytes(kind, shape[0] * shape[1]), rel=0.1)
