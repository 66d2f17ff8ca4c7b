import pytest
import torch

from blueprints import flux
from gpu import fake, gradients, ours, planned
from gpu.cells import GIB, TARGETS, chosen
from limner.nn.memory.plan import Plan

CPU = torch.device("cpu")
PLAIN = Plan(compute="fp32", weights="fp32")


def told(base: str, plan: Plan, **more):
    (cell,) = chosen([{"flux-dev": "3", "z-image": "8", "qwen-image": "7", "sdxl": "6"}[base]], small=True)
    return {
        "base": base,
        "tiny": True,
        "sizes": ((32, 32),),
        "batch": cell.batch,
        "plan": plan.to_json(),
        "blocks": 1,
        **more,
    }


@pytest.mark.parametrize("base", ["flux-dev", "z-image", "qwen-image", "sdxl"])
def test_what_a_plan_saves_changes_no_gradient(base):
    plan = Plan(
        compute="fp32",
        weights="fp32",
        checkpointed_blocks=3,
        swapped_blocks=2,
        precompute_modulation=base != "sdxl",
    )
    seen = gradients.compared(told(base, plan), CPU)
    assert seen["good"]
    assert seen["cosine"] == pytest.approx(1.0, abs=1e-9)
    assert seen["loss"] < 1e-6
    assert seen["plan"]["swapped_blocks"]


def test_coarse_weights_are_within_their_bound_and_not_exact():
    seen = gradients.compared(
        told("flux-dev", Plan(compute="fp32", weights="int8", checkpointed_blocks=2)), CPU
    )
    assert seen["good"]
    assert 0.99 < seen["cosine"] < 1 - 1e-9


def test_another_gradient_is_told_apart(monkeypatch):
    made = iter([torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.1])])
    monkeypatch.setattr(gradients, "gradient", lambda *_: (next(made), 1.0))
    assert not gradients.compared(told("flux-dev", PLAIN), CPU)["good"]


def test_a_plan_is_shortened_and_none_of_its_devices_lost():
    short = gradients.shortened(
        Plan(checkpointed_blocks=55, swapped_blocks=3, precompute_modulation=True), 4, 57
    )
    assert (short.checkpointed_blocks, short.swapped_blocks, short.precompute_modulation) == (4, 1, True)
    assert gradients.shortened(Plan(), 4, 57) == Plan()


def test_streamed_and_hoisted_weights_are_drawn_for_the_host():
    family, source = fake.described("flux-dev", tiny=True)
    plan = Plan(compute="fp32", weights="nf4", swapped_blocks=2, precompute_modulation=True)
    model = ours.drawn(family, source, plan, CPU)
    assert not [name for name, each in model.state_dict().items() if each.is_meta]
    assert not [name for name, each in model.state_dict().items() if not each.float().isfinite().all()]
    factors = ours.adapted(family, model, "flux-dev", CPU, plan)
    assert all(each.abs().sum() > 0 for each in factors)
    assert sum(each.requires_grad for each in model.parameters()) == len(factors)


def test_micro_batches_sum_to_the_mean():
    family, source = fake.described("z-image", tiny=True)
    model = ours.drawn(family, source, PLAIN, CPU)
    given = ours.values(family, source, (32, 32), 4, PLAIN, CPU)
    cut = ours.cut_of(family, source)

    def total(micro: int) -> float:
        plan = Plan(compute="fp32", weights="fp32", micro_batch=micro)
        with torch.no_grad():
            return float(sum(ours.losses(cut, {family.denoiser: model}, given, plan, 0)))

    assert total(4) == pytest.approx(total(1), rel=1e-5)


def test_useful_work_is_what_is_computed_once():
    known = flux()
    plan = Plan(checkpointed_blocks=3)
    every = sum(planned._flops(block.forward, 1) for block in known.blocks[:3])
    tails = sum(planned._flops(block.tail, 1) for block in known.blocks[:3])
    assert planned.repeated(known, plan) == pytest.approx(every - tails)
    assert planned.repeated(known, Plan(checkpointed_blocks=3, tail_skip=False)) == pytest.approx(every)
    assert planned.repeated(known, Plan()) == 0
    assert planned.useful(known, 2) > planned.useful(known, 1) > every


def test_a_played_card_has_the_rates_of_the_one_that_is_there():
    (cell,) = chosen(["4"], small=False)
    there = planned.device(cell, "NVIDIA H100 80GB HBM3", tiny=False, ram=64)
    assert there.free == 11 * GIB
    assert there.rates == planned.of_card(planned.cards.known("H100")).rates
    assert there.ram == 64 * GIB
    with pytest.raises(SystemExit, match="knows no card"):
        planned.device(cell, "Abacus 9000", tiny=False)


def test_a_tiny_cell_is_predicted_for_a_processor():
    (cell,) = chosen(["3"], small=True)
    said = planned.prediction(cell, "H100", tiny=True)
    assert said["plan"]["compute"] == "fp32" and said["useful"] > 0 and said["pinned"] == 0


def test_half_precision_is_cast_once_as_in_a_run():
    """Autocast, which runs gave up, keeps a fifth more than what is predicted."""
    family, source = fake.described("flux-dev", tiny=True)
    plan = Plan(compute="bf16", weights="bf16")
    model = ours.drawn(family, source, plan, CPU)
    ours.adapted(family, model, "flux-dev", CPU, plan)
    given = ours.values(family, source, (32, 32), 1, plan, CPU)
    dtypes = []
    block = next(iter(family.arch.blocks_of(model).values()))
    block.register_forward_hook(lambda *seen: dtypes.extend(each.dtype for each in seen[2]))
    (loss,) = ours.losses(ours.cut_of(family, source), {family.denoiser: model}, given, plan, 0)
    loss.backward()
    assert set(dtypes) == {torch.bfloat16} and not torch.is_autocast_enabled("cpu")


def test_predictions_are_kept(tmp_path):
    planned.keep(tmp_path / "plans.json", [{"cell": "1", "seconds": 0.3}])
    assert planned.kept(tmp_path / "plans.json") == {"1": {"cell": "1", "seconds": 0.3}}


def test_shallow_bases_keep_their_width():
    family, source = fake.described("flux-dev", shallow=True)
    config = source.config(family.denoiser)
    assert (config["num_layers"], config["num_single_layers"]) == (2, 2)
    assert config["num_attention_heads"] * config["attention_head_dim"] == 3072
    assert set(TARGETS) >= set(fake.SHALLOW)


def test_files_of_weights_are_cut_where_they_are_full():
    assert fake.shards({"a": 4, "b": 5, "c": 2, "d": 20, "e": 1}, limit=10) == {
        "a": 0,
        "b": 0,
        "c": 1,
        "d": 2,
        "e": 3,
    }
    assert set(fake.shards({"a": 4, "b": 5}, limit=10).values()) == {0}
