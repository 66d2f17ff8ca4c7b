from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from limner.nn.layers.quantization import quantize
from limner.nn.layers.quantized_linear import QuantizedLinear, freeze
from limner.planning.kernels import imitated
from limner.planning.tracker import Tracker


def heads(*, dtype: torch.dtype = torch.bfloat16, width: int = 64) -> list[Tensor]:
    """Query, key and value (2, 4, 96, width)."""
    return [torch.empty(2, 4, 96, width, dtype=dtype, device="meta", requires_grad=True) for _ in range(3)]


def kept(run: Any) -> int:
    """Bytes alive after a function, whose result is held."""
    with Tracker(granule=1) as tracker:
        result = run()
        return tracker.alive + 0 * result.numel()


OUT = 2 * 4 * 96 * 64
ROWS = 2 * 4 * 96 * 4


@pytest.mark.parametrize(
    ("kind", "dtype", "size"),
    [
        ("flash", torch.bfloat16, 2 * OUT + ROWS + 32),
        ("auto", torch.float32, 4 * OUT + ROWS + 32),
        ("cudnn", torch.bfloat16, 2 * OUT + ROWS + 32),
    ],
)
def test_attention_keeps_its_output_and_a_number_for_each_row(
    kind: Any, dtype: torch.dtype, size: int
) -> None:
    with imitated(attention=kind):
        assert (
            kept(lambda: F.scaled_dot_product_attention(*heads(dtype=dtype)))
            == size + 3 * OUT * dtype.itemsize
        )


def test_attention_by_products_keeps_the_square() -> None:
    with imitated(attention="math"):
        assert kept(lambda: F.scaled_dot_product_attention(*heads())) > 2 * 4 * 96 * 96 * 2


def test_attention_reports_its_products_in_both_directions() -> None:
    with Tracker() as tracker, imitated(report=tracker.did):
        F.scaled_dot_product_attention(*heads()).sum().backward()
    assert tracker.now.attention == 3.5 * 4 * 2 * 4 * 96 * 96 * 64


def test_gradients_have_the_shapes_of_what_they_are_of() -> None:
    for kernels in ("cuda", "cpu"):
        some = heads()
        with imitated(kernels):
            F.scaled_dot_product_attention(*some).sum().backward()
        assert all(each.grad is not None and each.grad.shape == each.shape for each in some)


def test_the_rms_norm_keeps_one_number_for_each_row() -> None:
    x = torch.empty(6, 32, device="meta", requires_grad=True)
    weight = torch.empty(32, device="meta")
    with imitated():
        assert kept(lambda: F.rms_norm(x, (32,), weight)) == 6 * 32 * 4 + 6 * 4
    with imitated("cpu"):  # which has no such kernel: the scaled input is kept for the weight's gradient
        assert kept(lambda: F.rms_norm(x, (32,), weight.requires_grad_())) > 2 * 6 * 32 * 4


def test_dropout_keeps_a_byte_for_each_number_and_none_at_all_is_nothing() -> None:
    x = torch.empty(6, 32, device="meta", requires_grad=True)
    with imitated():
        assert kept(lambda: F.dropout(x, 0.1)) == 6 * 32 * 5
        assert F.dropout(x, 0.0) is x
        assert F.dropout(x, 0.5, training=False) is x


def test_autocast_multiplies_low_and_sums_in_full() -> None:
    x, weight = torch.empty(4, 8, device="meta"), torch.empty(8, 8, dtype=torch.bfloat16, device="meta")
    with imitated(autocast=torch.bfloat16):
        y = F.linear(x, weight)
        assert y.dtype == (y @ y.t()).dtype == torch.bfloat16
        assert F.layer_norm(y, (8,)).dtype == y.softmax(-1).dtype == (y**2).dtype == torch.float32
        assert y.to(torch.int64).sum().dtype == torch.int64
    assert F.layer_norm(y, (8,)).dtype == torch.bfloat16


def test_dropout_that_is_traced_in_training_has_a_gradient() -> None:
    x = torch.empty(6, 32, device="meta", requires_grad=True)
    with Tracker() as tracker, imitated(report=tracker.did):
        F.dropout(x, 0.1).sum().backward()
    assert x.grad is not None
    assert x.grad.shape == x.shape


def test_a_block_that_is_computed_again_is_imitated_the_second_time_too() -> None:
    some, attend = heads(), F.scaled_dot_product_attention
    with Tracker() as tracker, imitated(report=tracker.did):
        checkpoint(attend, *some, use_reentrant=False).sum().backward()
    assert tracker.now.attention == (1 + 3.5) * 4 * 2 * 4 * 96 * 96 * 64


def real() -> list[Tensor]:
    """Outputs and gradients of everything that may be imitated, on the CPU."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 6, 16, generator=draw, requires_grad=True)
    out = F.rms_norm(F.scaled_dot_product_attention(x, x + 1, x * 2), (16,)) @ x.transpose(-1, -2)
    out = F.softmax(F.dropout(out, 1.0) + out, -1)
    out.square().sum().backward()
    assert x.grad is not None
    return [out.detach(), x.grad, *eight_by_eight(x.detach())]


def eight_by_eight(x: Tensor) -> list[Tensor]:
    """A product of 8 bits by 8 bits and its gradient."""
    stored, scale = quantize(torch.ones(16, 16).tril(), "int8")
    layer = QuantizedLinear((stored, scale), "int8", (16, 16), None, products="8bit")
    x.requires_grad_()
    out = layer(x)
    return [out.detach(), *torch.autograd.grad(out.sum(), x)]


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_coding_for_products_in_8_bits_is_the_traffic_that_eager_kernels_have_for_it(kind: Any) -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(512, 2048, bias=False)).bfloat16().requires_grad_(requires_grad=False)
        x = torch.empty(1024, 512, dtype=torch.bfloat16)
    freeze(model, ["0"], kind, products="8bit")
    with Tracker() as tracker, imitated(report=tracker.did):
        model(x)
    assert tracker.now.coding == pytest.approx(tracker.now.traffic, rel=0.01)
    assert tracker.now.w8a8 == 2 * 1024 * 512 * 2048


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_other_threads_and_other_devices_compute_as_ever(autocast: torch.dtype | None) -> None:
    alone = real()
    with imitated(autocast=autocast), ThreadPoolExecutor(1) as pool:
        here, there = real(), pool.submit(real).result()
    for values in (here, there):
        assert all(torch.equal(one, other) for one, other in zip(alone, values, strict=True))


def test_no_function_of_torch_is_replaced() -> None:
    names = (F.scaled_dot_product_attention, F.rms_norm, F.dropout, torch.Tensor.__matmul__)
    with imitated(autocast=torch.bfloat16):
        assert (F.scaled_dot_product_attention, F.rms_norm, F.dropout, torch.Tensor.__matmul__) == names
