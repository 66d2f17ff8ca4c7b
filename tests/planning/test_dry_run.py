"""What is predicted on the meta device is what a true step takes on the CPU."""

import pytest
import torch

from cases import CASES
from limner.errors import BadRecipe
from limner.models.family import Family
from limner.models.loading import hush
from limner.models.registry import family_of
from limner.models.source import Source, locate
from limner.nn.layers.quantized_linear import storable
from limner.nn.memory.plan import Plan, Products, Weights
from limner.planning.dry_run import DryRun, machine_of
from limner.planning.memory import train_memory
from limner.planning.profiling import profile
from limner.planning.trace import Machine, plain
from measured import Real
from messages import raises
from specs import traced

FINE = Machine(granule=1)
CASE = {case.name: case for case in CASES if case.name != "sdxl-v"}
CLOSE = 0.01
SIZE = (256, 192)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory):
    """Name -> family and source of a tiny base, made when it is asked for."""
    made: dict[str, tuple[Family, Source]] = {}

    def base(name: str) -> tuple[Family, Source]:
        if name not in made:
            hush()
            folder = CASE[name].save(tmp_path_factory.mktemp("bases") / name)
            made[name] = family_of(CASE[name].pipeline), locate(str(folder), folders={})
        return made[name]

    return base


def compare(bases, name: str, weights: Weights, images: int, products: Products = "full") -> list[float]:
    """Predicted over measured for none, half and all of the blocks checkpointed."""
    family, source = bases(name)
    wish = {"size": SIZE, "rank": 4, "targets": CASE[name].targets, "compute": "fp32", "weights": weights}
    wish |= {"matmul_precision": products}
    real = Real(*traced(family, source, **wish), weights)
    rehearsal = DryRun(*traced(family, source, **wish), FINE)
    ratios = []
    for count in (0, len(real.blocks) // 2, len(real.blocks)):
        peak = real.peak(images, count)
        seen = rehearsal.trace(real.one, images, checkpointed_blocks=count, state=real.state())
        ratios.append(seen.trace.peak / peak)
    return ratios


@pytest.mark.parametrize("name", CASE)
def test_the_peak_of_a_step_is_predicted(bases, name: str) -> None:
    assert compare(bases, name, "fp32", 1) == pytest.approx([1.0] * 3, abs=CLOSE)


@pytest.mark.parametrize("weights", ["int8", "fp8", "nf4"])
@pytest.mark.parametrize("name", ["flux-dev", "z-image"])
def test_so_it_is_with_weights_in_few_bits_and_two_images(bases, name: str, weights: Weights) -> None:
    assert compare(bases, name, weights, 2) == pytest.approx([1.0] * 3, abs=CLOSE)


@pytest.mark.parametrize("name", ["flux-dev", "flux2-klein", "z-image", "qwen-image"])
@pytest.mark.parametrize("images", [1, 2])
def test_so_it_is_when_every_weight_is_trained(bases, name: str, images: int) -> None:
    family, source = bases(name)
    wish = {"size": SIZE, "full": True, "compute": "fp32"}
    real = Real(*traced(family, source, **wish))
    found = profile(*traced(family, source, **wish), machine=FINE)
    assert found.trained == sum(each.numel() for each in real.trained)
    assert found.whole == sum(each.nbytes for each in real.trained)
    for count in (0, len(real.blocks) // 2, len(real.blocks)):
        plan = Plan(checkpointed_blocks=count, micro_batch=images)
        need = train_memory(found, plan, device_kind="cpu")
        assert need.total == pytest.approx(real.peak(images, count), rel=CLOSE)
        assert need.causes["trained"] == 4 * found.trained and "adapter" not in need.causes
        assert need.causes["optimizer"] == 8 * found.learning


def test_half_precision_by_casting_once_keeps_less_than_by_autocast(bases) -> None:
    family, source = bases("flux-dev")
    kept = {}
    for arithmetic in ("autocast", "cast"):
        wish = {"size": SIZE, "rank": 4, "arithmetic": arithmetic}
        real = Real(*traced(family, source, size=SIZE, rank=4, compute="fp32"))
        trace = DryRun(*traced(family, source, **wish)).trace(real.one, 1, checkpointed_blocks=0).trace
        kept[arithmetic] = trace.saved - trace.start_bytes
    assert kept["cast"] < 0.85 * kept["autocast"]


def test_dropout_takes_room_and_so_does_attention_by_products(bases) -> None:
    family, source = bases("flux-dev")
    peaks = []
    for more in ({}, {"dropout": 0.5}, {"attention": "math"}):
        wish = {"size": SIZE, "rank": 4, "compute": "fp32", **more}
        one = Real(*traced(family, source, **wish)).one
        peaks.append(DryRun(*traced(family, source, **wish)).trace(one, 1, checkpointed_blocks=0).trace.peak)
    assert peaks[1] > peaks[0]
    assert peaks[2] > 1.5 * peaks[0]


def test_weights_are_told_apart_and_add_up(bases) -> None:
    family, source = bases("qwen-image")
    wish = {"size": SIZE, "rank": 4, "compute": "bf16"}
    rehearsal = DryRun(*traced(family, source, **wish))
    parts = [rehearsal.weigh([block]) for block in rehearsal.blocks.values()] + [rehearsal.weigh_outside()]
    frozen = sum(part["weight_bytes"]["bf16"] + part["other"] + part["modulation"] for part in parts)
    trained = sum(part["trained"] for part in parts)
    model = rehearsal.denoiser
    loose = sum(each.nbytes for module in model.modules() for each in plain(module))
    assert frozen == sum(p.nbytes for p in model.parameters() if not p.requires_grad) + loose
    assert trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert (
        parts[0]["weight_bytes"]["int8"] < parts[0]["weight_bytes"]["bf16"] < parts[0]["weight_bytes"]["fp32"]
    )
    assert not set(storable(model, family.arch)) & {"transformer_blocks.0.img_mod.1"}


def test_an_unknown_target_is_refused(bases) -> None:
    family, source = bases("flux-dev")
    wish = {"size": SIZE, "targets": ["nothing_like_it"]}
    with raises(BadRecipe):
        DryRun(*traced(family, source, **wish))


def test_a_cpu_is_imitated_to_the_byte(bases) -> None:
    flux = bases("flux-dev")
    machine = machine_of(*traced(*flux, size=SIZE, compute="fp32", device="cpu"))
    assert (machine.kernels, machine.granule, machine.autocast) == ("cpu", 1, None)
    assert machine_of(*traced(*flux, size=SIZE, arithmetic="autocast")).autocast == torch.bfloat16
    assert machine_of(*traced(*flux, size=SIZE)).autocast is None


@pytest.mark.parametrize("weights", ["int8", "fp8"])
@pytest.mark.parametrize("images", [1, 3])
def test_so_it_is_with_products_in_8_bits(bases, weights: Weights, images: int) -> None:
    """Kernels of CUDA are imitated, and take on the CPU what they are said to take."""
    assert compare(bases, "flux-dev", weights, images, "8bit") == pytest.approx([1.0] * 3, abs=CLOSE)


@pytest.mark.parametrize("images", [1, 2])
def test_arithmetic_knows_what_products_in_8_bits_take(bases, images: int) -> None:
    family, source = bases("flux-dev")
    wish = {
        "size": SIZE,
        "rank": 4,
        "targets": CASE["flux-dev"].targets,
        "compute": "fp32",
        "matmul_precision": "8bit",
    }
    found = profile(*traced(family, source, **wish), machine=FINE)
    real = Real(*traced(family, source, **wish), "int8")
    block = found.blocks[0]
    assert block.forward.w8a8.at(1) > 3 * block.forward.gemm.at(1) > 0  # captions have few rows
    assert block.tail.w8a8.at(1) > 0 == block.tail.gemm.at(1)
    for count in (0, len(real.blocks) // 2, len(real.blocks)):
        plan = Plan(weights="int8", matmul_precision="8bit", checkpointed_blocks=count, micro_batch=images)
        assert train_memory(found, plan, device_kind="cpu").total == pytest.approx(
            real.peak(images, count), rel=0.02
        )
