import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limner.errors import BadRecipe
from limner.nn.layers import quantization
from limner.nn.layers.quantization import NF4, dequantize, empty, kernels_for, quantize
from limner.planning.tracker import Tracker
from messages import raises

KINDS = ("int8", "fp8", "nf4")


def weight(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Like those of a network: rows of different size, normal within."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.exp(0.5 * torch.randn(rows, 1, generator=generator))
    return 0.02 * size * torch.randn(rows, columns, generator=generator)


def back(given: torch.Tensor, kind, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return dequantize(quantize(given, kind), kind, tuple(given.shape), dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 64), (33, 1000), (70, 16384)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shapes_and_dtypes_come_back(kind, shape, dtype):
    made = back(weight(*shape), kind, dtype)
    assert made.shape == shape and made.dtype == dtype and made.is_contiguous()
    assert [(t.shape, t.dtype) for t in quantize(weight(*shape), kind)] == [
        (t.shape, t.dtype) for t in empty(kind, *shape, "cpu")
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_no_number_is_further_off_than_the_bits_allow(kind):
    given = weight(32, 256)
    off = (back(given, kind) - given).abs()
    largest = given.abs().amax(1, keepdim=True)
    match kind:
        case "int8":
            assert bool((off <= largest / 254 * 1.001).all())
        case "fp8":  # 3 bits of mantissa, and steps of 2^-9 below 2^-6
            step = torch.maximum(given.abs() / 16, largest / 448 * 2**-10)
            assert bool((off <= step * 1.001).all())
        case "nf4":  # half of the widest step of the code, and the rounding of the scale
            most = given.view(-1, 64).abs().amax(1, keepdim=True)
            widest = max(b - a for a, b in zip(NF4, NF4[1:], strict=False)) / 2
            assert bool((off.view(-1, 64) <= most * widest + most.max() / 510).all())


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_zeros_and_rows_of_other_sizes(kind):
    given = torch.zeros(4, 64)
    given[1] = 1e-6
    given[2] = 1e6
    made = back(given, kind)
    assert bool(made.isfinite().all()) and float(made[0].abs().max()) <= 1e6 / 255 * (kind == "nf4")
    if kind != "nf4":  # scales of their own
        assert torch.allclose(made, given, rtol=1e-2)


def test_chunks_change_nothing(monkeypatch):
    given = weight(40, 1003)
    whole = {kind: (quantize(given, kind), back(given, kind)) for kind in KINDS}
    for name in ("CHUNK", "DEQUANTIZED_NUMBERS"):
        monkeypatch.setattr(quantization, name, 1024)
    for kind, (stored, made) in whole.items():
        assert all(torch.equal(a, b) for a, b in zip(quantize(given, kind), stored, strict=True))
        assert torch.equal(back(given, kind), made)


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_rounding_changes_little(kind):
    """8 bits are a fixed point; the scales of NF4 are rounded anew."""
    made = back(weight(16, 128), kind)
    again = back(made, kind)
    bound = {"int8": 1e-6, "fp8": 1e-6, "nf4": 5e-3}[kind]
    assert float((again - made).norm() / made.norm()) < bound


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(kind, bad):
    given = weight(8, 64)
    given[3, 5] = bad
    with pytest.raises(ValueError, match="not finite"):
        quantize(given, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_without_data_shapes_alone(kind):
    stored = quantize(torch.empty(3072, 12288, device="meta"), kind)
    assert all(t.is_meta for t in stored)
    made = dequantize(stored, kind, (3072, 12288), torch.bfloat16)
    assert made.is_meta and made.shape == (3072, 12288) and made.dtype == torch.bfloat16


@settings(max_examples=25)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 300),
    kind=st.sampled_from(KINDS),
    size=st.floats(1e-5, 1e5),
    seed=st.integers(0, 99),
)
def test_signs_and_sizes_survive(rows, columns, kind, size, seed):
    numbers = size * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    made = back(numbers, kind)
    assert bool((made * numbers >= 0).all())
    assert float(made.abs().max()) <= float(numbers.abs().max()) * 1.0001


@pytest.fixture
def eager():
    """Nothing is compiled, which would take a minute."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.usefixtures("eager")
def test_nf4_is_that_of_bitsandbytes():
    """The same bytes, and from the same scales the same numbers to the bit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        functional = pytest.importorskip("bitsandbytes.functional")
    for shape in ((64, 256), (5, 77)):
        given = weight(*shape)
        packed, state = functional.quantize_4bit(given, blocksize=64, quant_type="nf4")
        stored = quantize(given, "nf4")
        theirs = packed.view(-1)
        assert torch.equal(stored[0][: given.numel() // 2], theirs[: given.numel() // 2])
        for dtype in (torch.float32, torch.bfloat16):
            by_them = dequantize(stored, "nf4", shape, dtype, "bitsandbytes")
            assert torch.equal(dequantize(stored, "nf4", shape, dtype), by_them)
        exact = functional.dequantize_4bit(packed, state)
        assert torch.allclose(back(given, "nf4"), exact, rtol=0, atol=float(given.abs().max()) / 255)


def test_kernels_of_a_cpu_are_torch_itself():
    assert kernels_for(torch.device("cpu")) == "torch"


def test_devices_that_cannot_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    with raises(BadRecipe):
        quantization.require("fp8", torch.device("cuda"))
    with raises(BadRecipe):
        quantization.require("int8", torch.device("mps"))
    assert quantization.require("int8", torch.device("cuda")) is None
    assert quantization.require("fp8", torch.device("cpu")) is None


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_the_scale_of_each_output_is_folded_into_the_gradient(kind):
    """Outputs a thousand times apart in size: left out of the fold, the small ones would vanish."""
    draw = torch.Generator().manual_seed(0)
    size = torch.logspace(-3, 0, 48)[:, None]
    weight = size * torch.randn(48, 64, generator=draw)
    gradient = torch.randn(32, 48, generator=draw) / size.t()
    stored, scale = quantize(weight, kind)
    made = quantization.input_gradient(gradient, stored, scale, kind=kind)
    wanted = gradient @ weight
    assert float((made - wanted).norm() / wanted.norm()) < 0.05
    assert made.dtype == gradient.dtype
    assert quantization.product(made, stored, scale, kind=kind).shape == gradient.shape


def test_cards_of_other_makers_are_refused(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "7.0")
    with raises(BadRecipe):
        quantization.require("fp8", torch.device("cuda"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_one_kernel_turns_int8_back_as_two_do(dtype):
    """On a GPU a product is written where it belongs; to the bit what the processor does in two steps."""
    codes, scale = quantize(torch.randn(24, 64), "int8")
    product = torch.mul(codes, scale, out=torch.empty(24, 64, dtype=dtype))
    assert torch.equal(product, dequantize((codes, scale), "int8", (24, 64), dtype))


def test_turning_int8_back_on_a_gpu_moves_a_byte_and_a_number():
    codes, scale = (tensor.to("meta") for tensor in quantize(torch.randn(256, 512), "int8"))
    with torch.enable_grad(), Tracker("meta") as tracker:
        weight = dequantize((codes, scale), "int8", (256, 512), torch.bfloat16)
    assert (weight.dtype, weight.shape) == (torch.bfloat16, (256, 512))
    assert sum(segment.traffic for segment in tracker.segments) == 3 * 256 * 512 + 256 * scale.element_size()
    assert sum(segment.kernels for segment in tracker.segments) == 1
