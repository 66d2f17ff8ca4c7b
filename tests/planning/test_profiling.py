import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from cases import CASES
from limner.imports import hush
from limner.models.bundled import known
from limner.models.family import Family
from limner.models.registry import family_of
from limner.models.source import Source, locate
from limner.nn.arch import ArchSpec
from limner.nn.memory.plan import Attention, Plan
from limner.planning.cards import known as known_card
from limner.planning.devices import of_card
from limner.planning.dry_run import DryRun
from limner.planning.memory import train_memory
from limner.planning.meta_inputs import boundary
from limner.planning.profile import Profile, from_json, to_json
from limner.planning.profiling import _outside, _works, profile
from limner.planning.time import seconds_of
from limner.planning.trace import Machine
from measured import Real
from specs import traced

GIB = 2**30
CASE = {case.name: case for case in CASES if case.name != "sdxl-v"}


def base(name: str) -> tuple[Family, Source]:
    source = known(name)
    return family_of(source.index["_class_name"]), source


def tiny(name: str, folder: Path) -> tuple[Family, Source]:
    hush()
    return family_of(CASE[name].pipeline), locate(str(CASE[name].save(folder / name)), folders={})


def tensors(found: Profile, **choice) -> float:
    """GiB of tensors: what stands in no other program's way."""
    causes = train_memory(found, Plan(compute="bf16", weights="bf16", **choice)).causes
    return sum(size for cause, size in causes.items() if cause not in ("context", "workspace")) / GIB


@pytest.mark.parametrize("name", CASE)
def test_arithmetic_on_a_profile_predicts_a_true_step(name: str, tmp_path: Path) -> None:
    family, source = tiny(name, tmp_path)
    wish = {"size": (256, 192), "rank": 4, "compute": "fp32"}
    found = profile(*traced(family, source, **wish), machine=Machine(granule=1))
    real = Real(*traced(family, source, **wish))
    blocks = len(found.blocks)
    for images, count in ((1, 0), (1, blocks), (2, blocks // 2)):
        plan = Plan(checkpointed_blocks=count, micro_batch=images)
        assert train_memory(found, plan, device_kind="cpu").total == pytest.approx(
            real.peak(images, count), rel=0.01
        )


@pytest.mark.parametrize("kind", ["loha", "lokr", "dora"])
def test_so_it_does_for_every_kind_of_adapter(kind: str, tmp_path: Path) -> None:
    family, source = tiny("flux-dev", tmp_path)
    wish = {"size": (128, 128), "rank": 4, "compute": "fp32", "kind": kind}
    found = profile(*traced(family, source, **wish), machine=Machine(granule=1))
    real = Real(*traced(family, source, **wish))
    assert found.learning == sum(factor.numel() for factor in real.trained)
    for images, count in ((1, 0), (2, len(found.blocks))):
        plan = Plan(compute="fp32", weights="fp32", checkpointed_blocks=count, micro_batch=images)
        predicted = train_memory(found, plan, device_kind="cpu").total
        assert predicted == pytest.approx(real.peak(images, count), rel=0.005)


def test_what_never_learns_and_what_is_made_once_is_known_to_the_kilobyte(tmp_path: Path) -> None:
    """Qwen-Image keeps its positions from the first step on, and its last block's text reaches no loss."""
    family, source = tiny("qwen-image", tmp_path)
    wish = {"size": (256, 256), "rank": 4, "compute": "fp32"}
    found = profile(*traced(family, source, **wish), machine=Machine(granule=1))
    real = Real(*traced(family, source, **wish))
    for count in (0, 2):
        need = train_memory(found, Plan(checkpointed_blocks=count), device_kind="cpu")
        assert need.total == pytest.approx(real.peak(1, count), abs=1024)
    assert found.constants == 256 * 16 * 4  # a token's positions: 8 complex numbers
    learnt = [each for each in real.trained if each in real.optimizer.state]
    assert found.learning == sum(each.numel() for each in learnt) < found.trained
    assert found.tensors == len(learnt)
    assert need.causes["adapter"] == 4 * found.trained
    assert need.causes["optimizer"] == 8 * found.learning


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "peaks"),
    [
        ("flux-dev", {(1, 0): 41.446, (1, 29): 32.473, (1, 57): 24.582, (4, 57): 30.931}),
        ("sdxl", {(1, 0): 10.356, (1, 87): 5.540}),
        ("qwen-image", {(1, 0): 65.872, (1, 60): 40.830}),
    ],
)
def test_true_bases_take_what_their_whole_traces_took(name: str, peaks: dict[tuple[int, int], float]) -> None:
    family, source = base(name)
    found = profile(*traced(family, source, size=(1024, 1024), targets="attention", arithmetic="cast"))
    seen = {key: tensors(found, micro_batch=key[0], checkpointed_blocks=key[1]) for key in peaks}
    assert seen == pytest.approx(peaks, rel=0.01)


def test_shallow_and_whole_rehearsals_agree(tmp_path: Path) -> None:
    family, source = tiny("z-image", tmp_path)
    config = source.root / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"n_layers": 5, "n_refiner_layers": 1}))
    wish = {"size": (256, 256), "rank": 4, "compute": "fp32"}
    few, all_of_them = (profile(*traced(family, source, **wish), whole=whole) for whole in (False, True))
    assert len(few.blocks) == len(all_of_them.blocks) == 7
    assert (few.trained, few.tensors, few.factored) == (
        all_of_them.trained,
        all_of_them.tensors,
        all_of_them.factored,
    )
    for count in (0, 4, 7):
        needs = [train_memory(each, Plan(checkpointed_blocks=count)).total for each in (few, all_of_them)]
        assert needs[0] == pytest.approx(needs[1], rel=1e-3)


def test_targets_that_differ_between_blocks_are_rehearsed_whole(tmp_path: Path) -> None:
    family, source = tiny("flux-dev", tmp_path)
    wish = {"size": (64, 64), "targets": ["single_transformer_blocks.1.attn.to_q"], "compute": "fp32"}
    found = profile(*traced(family, source, **wish))
    assert [block.trained for block in found.blocks] == [0, 0, 16 * 64]
    assert found.trained == 16 * 64
    assert found.tensors == 2


def test_it_grows_with_the_resolution(tmp_path: Path) -> None:
    family, source = tiny("sd15", tmp_path)
    found = [profile(*traced(family, source, size=(side, 128), compute="fp32")) for side in (64, 128, 256)]
    for count in (0, 6, 12):
        needs = [train_memory(each, Plan(checkpointed_blocks=count)).total for each in found]
        assert needs == sorted(needs)
        assert len(set(needs)) == 3


def test_a_trained_text_encoder_is_part_of_the_rest(tmp_path: Path) -> None:
    family, source = tiny("flux-dev", tmp_path)
    wish = {"size": (64, 64), "compute": "fp32"}
    alone = profile(*traced(family, source, **wish))
    both = profile(*traced(family, source, size=(64, 64), compute="fp32", text_encoders={"text_encoder": 1}))
    assert both.rest.trained > alone.rest.trained == 0
    assert both.rest.other > alone.rest.other
    assert both.blocks[0].trained == alone.blocks[0].trained


def test_a_denoiser_without_an_anatomy_is_all_rest(tmp_path: Path) -> None:
    family, source = tiny("flux-dev", tmp_path)
    wish = {"size": (64, 64), "compute": "fp32"}
    known_by_blocks = profile(*traced(family, source, **wish))
    whole = profile(*traced(replace(family, arch=ArchSpec(blocks=())), source, **wish))
    assert whole.blocks == ()
    assert whole.trained == known_by_blocks.trained
    assert train_memory(whole, Plan()).total == pytest.approx(
        train_memory(known_by_blocks, Plan()).total, rel=0.05
    )


def test_a_profile_is_plain_numbers(tmp_path: Path) -> None:
    found = profile(*traced(*tiny("qwen-image", tmp_path), size=(64, 64), compute="fp32"))
    assert from_json(json.loads(json.dumps(to_json(found)))) == found
    assert found.blocks[0].forward.gemm.at(2) > found.blocks[0].forward.gemm.at(1) > 0
    assert found.blocks[0].tail.gemm.per_image > 0
    assert found.blocks[0].attention_kept.per_image > 0


def test_in_bf16_a_processor_takes_what_is_foreseen_and_its_products_own_scratch(tmp_path: Path) -> None:
    family, source = tiny("flux-dev", tmp_path)
    wish = {"size": (128, 128), "rank": 4, "compute": "bf16"}
    found, real = (
        profile(*traced(family, source, **wish), machine=Machine(granule=1)),
        Real(*traced(family, source, **wish)),
    )
    for count in (0, 3):
        plan = Plan(compute="bf16", weights="bf16", checkpointed_blocks=count)
        foreseen = train_memory(found, plan, device_kind="cpu").total
        without, whole = (real.peak(1, count, scratch=scratch) for scratch in (False, True))
        assert foreseen == pytest.approx(without, rel=0.01)
        assert without <= whole <= without + 200_000


@pytest.mark.parametrize("name", ["flux-dev", "sdxl", "qwen-image", "z-image"])
def test_no_kernel_of_attention_is_better_than_the_one_that_plans_assume(name: str, tmp_path: Path) -> None:
    """So plans need not look at others: they would take as long or longer, and no less memory but padding."""
    family, source = tiny(name, tmp_path)
    one = boundary(traced(family, source, size=(256, 192))[0], (256, 192))
    card = known_card("RTX 4090")
    assert card is not None
    found = {}
    for kernel in get_args(Attention):
        wish = {"size": (256, 192), "rank": 4, "compute": "bf16", "attention": kernel}
        seen = DryRun(*traced(family, source, **wish)).trace(one, 1, checkpointed_blocks=0).trace
        works = {side: _works([_outside(seen, side)]) for side in ("forward", "backward")}
        blocks = [(side, _works([each])) for side in works for each in seen.of(side).values()]
        seconds = sum(
            seconds_of(work, of_card(card), "bf16", 1, backward=side == "backward")
            for side, work in (*works.items(), *blocks)
        )
        found[kernel] = seen.peak, seen.saved, seconds
    peak, kept, seconds = found.pop("auto")
    for kernel, (other_peak, other_kept, other_seconds) in found.items():
        assert other_seconds >= 0.99 * seconds, kernel  # the first trace makes the table of noise as well
        assert other_kept >= kept, kernel
        assert other_peak >= 0.98 * peak, kernel
    assert found["math"][0] > 1.1 * peak and found["math"][2] > seconds
