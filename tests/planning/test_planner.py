import json
from dataclasses import replace

import pytest
from PIL import Image

from blueprints import flux
from limner.errors import BadRecipe, BadUsage
from limner.nn.memory.plan import PreviousPrecision, from_json
from limner.planning import profile_cache
from limner.planning.choice import fits
from limner.planning.counts import IMAGES, counts_of
from limner.planning.describe import lines, sentences
from limner.planning.host import PHOTO
from limner.planning.planner import plan, request_of
from limner.recipe.schema import Recipe
from limner.recipe.toml import change
from limner.reporter import Reporter
from limner.run_folder import RunDir
from messages import raises

GB = 2**30
BASE = {"base": "flux-dev", "data.resolution": 1024, "limits.vram": "24GB", "train.steps": 1000}


@pytest.fixture(autouse=True)
def traced(tmp_path, monkeypatch):
    """A tracer of numbers alone; what it was asked."""
    asked = []

    def trace(one):
        asked.append(one)
        found = flux(max(one.size), doubles=4, singles=6)
        return whole(found, on_host=one.on_host) if one.base.recipe.train.method == "full" else found

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(profile_cache, "_traced", trace)
    return asked


def whole(profile, *, on_host):
    """The same when every weight is trained."""
    numbers = profile.blocks[0].weight_bytes["bf16"] // 2
    none = dict.fromkeys(profile.blocks[0].weight_bytes, 0)
    blocks = [replace(block, weight_bytes=none, modulation=0, trained=numbers) for block in profile.blocks]
    trained = numbers * len(blocks)
    stored = (2 if on_host else 4) * trained
    return replace(profile, blocks=tuple(blocks), trained=trained, whole=stored, on_host=on_host)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, size in enumerate([(640, 640), (600, 900), (640, 640), (900, 600)]):
        Image.new("RGB", size, (number, 0, 0)).save(folder / f"{number}.png")
    (folder / "torn.png").write_bytes(b"no image")
    return folder


def recipe(**changes):
    return change(Recipe(), BASE | {key.replace("__", "."): value for key, value in changes.items()})


def planned(card="RTX 4090", **changes):
    return plan(recipe(**changes), Reporter(), card=card)


def test_a_plan_says_everything_in_json():
    value = json.loads(json.dumps(planned().plain()))
    assert value["fits"] is True
    assert set(value["peak_bytes"]) == {"load", "cache", "train", "sample"}
    assert value["reserved_bytes"] >= value["peak_bytes"]["train"]
    assert value["seconds_per_step"] == value["pace"]["seconds"] > 0
    assert from_json(value["plan"]).compute == "bf16"
    assert sum(value["causes"]["train"].values()) == value["peak_bytes"]["train"]
    for each in value["alternatives"]:
        assert {"what", "fits", "change", "seconds_per_step", "reserved_bytes", "plan", "batch"} == set(each)
    assert set(value["host_bytes"]["phases"]) == {"load", "cache", "train", "save", "sample"}
    fullest = max(sum(each.values()) for each in value["host_bytes"]["phases"].values())
    assert value["host_bytes"]["pageable"] + value["host_bytes"]["pinned"] == fullest
    assert value["seconds"]["save"] > 0
    assert value["seconds"]["all"] >= value["seconds"]["train"] == 1000 * value["seconds_per_step"]


def test_nothing_fits_is_told_with_the_cause_and_what_would_do():
    result = planned(limits__vram="2GB", limits__weights_precision="16bit")
    value = result.plain()
    assert (result.fits, value["fits"], value["seconds_per_step"]) == (False, False, None)
    assert "Most of it is" in value["why_not"]
    assert value["would_fit"]
    assert value["peak_bytes"]["train"] > 0


def test_a_run_costs_what_its_hours_cost():
    free = planned(card="RTX 4080")
    assert free.cost is None
    result = plan(recipe(), Reporter(), card="RTX 4090", price=3.6)
    assert result.total is not None
    assert result.cost == pytest.approx(result.total.seconds / 1000)
    several = replace(result, device=replace(result.device, processes=4))
    assert several.cost == pytest.approx(4 * result.cost), "each of several GPUs costs as much"


def test_a_limit_is_kept(traced):
    for memory in (5, 6, 12):
        result = planned(limits__vram=f"{memory}GB")
        assert result.choice is not None
        assert fits(result.choice, result.device)
        assert result.choice.reserved < memory * GB
    assert len(traced) == 1


def test_a_profile_is_traced_once_for_all_that_does_not_change_it(traced):
    planned()
    planned(
        train__steps=5, train__learning_rate=1e-3, limits__weights_precision="4bit", seed=3, train__batch=4
    )
    assert len(traced) == 1
    planned(lora__rank=8)
    planned(data__resolution=512)
    planned(limits__compute_dtype="fp32")
    assert [one.base.compute for one in traced] == ["bf16", "bf16", "bf16", "fp32"]
    assert traced[2].size == (512, 512)


def test_of_several_resolutions_the_largest_counts_for_memory_and_the_mean_for_time(traced):
    one, small = planned(), planned(data__resolution=512)
    several = planned(data__resolution=(1024, 512), data__resolution_shares=(0.25, 0.75))
    assert [request.size for request in traced[2:]] == [(512, 512), (1024, 1024)]
    assert one.choice and small.choice and several.choice and several.total and one.total and small.total
    assert (several.choice.plan, several.choice.reserved) == (one.choice.plan, one.choice.reserved)
    seconds = [result.choice.step_time.seconds for result in (small, several, one)]
    assert seconds == sorted(seconds) and seconds[0] < seconds[1] < seconds[2]
    assert (
        several.total.train == pytest.approx(1000 * seconds[1]) and several.total.measure == one.total.measure
    )
    assert several.counts.views == 2 * one.counts.views
    assert "per step, the mean over several sizes" in "\n".join(lines(several))
    for option, other in zip(several.alternatives, one.alternatives, strict=True):
        assert option.change == other.change
        ratio = option.choice.step_time.seconds / seconds[1]
        assert ratio == pytest.approx(other.choice.step_time.seconds / seconds[2])


def test_the_images_say_how_many_and_which_bucket_is_the_largest(images, traced):
    request = recipe(
        data__images=images, data__flip=True, prior__prompts=("a cat",), prior__images_per_prompt=3
    )
    counts = counts_of(request)
    assert (counts.images, counts.images_unknown, counts.views) == (4, False, 11)
    assert set(counts.sizes) == {(640, 640), (600, 900), (900, 600)}
    result = plan(request, Reporter(), card="RTX 4090")
    width, height = traced[0].size
    assert width * height == max(w * h for w, h in [(1024, 1024), (width, height)])
    assert result.counts == counts
    assert request_of(request, result.device).batches == (1, 1)


def test_training_on_a_distilled_base_is_said_and_not_refused(traced):
    heard = []
    reporter = Reporter(lambda event: heard.append(str(event)))
    made = plan(recipe(base="flux-schnell"), reporter, card="RTX 4090")
    assert made.choice is not None
    assert sum("distilled" in line and "flux-dev" in line for line in heard) == 1
    heard.clear()
    plan(recipe(base="flux-dev"), reporter, card="RTX 4090")
    assert not any("distilled" in line for line in heard)


def test_a_plan_is_kept_in_a_run_folder_if_there_is_one(tmp_path):
    result = planned()
    run = RunDir(tmp_path / "run")
    assert not run.write_plan(result.plain())
    assert not run.path.exists()
    run.path.mkdir()
    assert run.write_plan(result.plain())
    assert json.loads(run.plan_path.read_text()) == json.loads(json.dumps(result.plain()))


def test_saving_and_the_size_of_pictures_are_foreseen(images):
    often, seldom = (planned(train__save_every=each, train__steps=100).total for each in (10, 50))
    assert often.save == pytest.approx(5 * seldom.save) and seldom.save > 0
    others = (often.measure - seldom.measure) + (often.save - seldom.save)
    assert often.seconds - seldom.seconds == pytest.approx(others)
    small, pred = planned(data__images=images), planned()
    assert small.request.image_pixels == 600 * 900 < pred.request.image_pixels == PHOTO
    assert small.choice.hosts["cache"].total <= pred.choice.hosts["cache"].total


def test_disk_is_foreseen():
    result = planned(train__save_every=100, train__keep=2)
    disk = result.disk
    assert disk["download"] == result.profile.download
    assert disk["cache"] == result.profile.entry * IMAGES
    assert disk["checkpoints"] == 4 * result.profile.trained * (4 + 8)


FULL = {"train__method": "full", "limits__ram": "128GB"}


def test_a_full_fine_tune_goes_to_the_host_when_the_device_is_too_small(monkeypatch):
    kept = {}
    for vram in ("80GB", "24GB", "12GB"):
        result = planned(limits__vram=vram, limits__weights_precision="16bit", **FULL)
        plan_ = result.choice.plan
        kept[plan_.optimizer_state] = result
        assert (plan_.weights, plan_.swapped_blocks, plan_.precompute_modulation) == ("bf16", 0, False)
        assert fits(result.choice, result.device)
    assert set(kept) == {"fp32", "host"}
    here, there = kept["fp32"], kept["host"]
    assert there.choice.host.pinned == 2 * there.profile.trained and here.choice.host.pinned == 0
    assert there.choice.step_time.optimizer > here.choice.step_time.optimizer
    assert there.disk == here.disk
    few = planned(limits__vram="32GB", limits__weights_precision="8bit", train__steps=3, **FULL)
    assert few.choice.plan.optimizer_state in ("fp32", "8bit")


def test_gradients_wait_in_bf16_where_a_full_fine_tune_would_go_to_the_host():
    def kept(vram="20GB", **more):
        made = planned(limits__vram=vram, **{**FULL, **more})
        return made.choice and (made.choice.plan.optimizer_state, made.choice.plan.gradients)

    assert planned(limits__vram="80GB", **FULL).choice.plan.gradients == "fp32", "the plain way where it fits"
    assert kept() == ("8bit", "bf16")
    assert kept(train__batch=2) == ("host", "fp32"), "its images may be of two sizes, so two micro-batches"
    assert kept("16GB", train__optimizer="adafactor") == ("fp32", "bf16")
    assert kept("24GB", train__optimizer="prodigy", train__learning_rate=1.0) is None, (
        "it looks at all at once"
    )
    assert planned(limits__vram="20GB").choice.plan.gradients == "fp32", "a LoRA's are small"
    device = replace(planned(limits__vram="20GB", **FULL).device, processes=2)
    several = plan(recipe(limits__vram="20GB", **FULL), Reporter(), device=device)
    assert several.choice is not None and several.choice.plan.gradients == "fp32", "they are summed in fp32"


def test_too_little_memory_in_the_computer_is_told_with_what_would_do():
    result = planned(
        limits__vram="12GB", train__method="full", limits__ram="32GB", limits__weights_precision="16bit"
    )
    text = str(result.misfit)
    assert "in the host's memory take" in text and "may use 32.0 GB" in text
    assert "GB of memory in the computer" in text and "a card of" in text


def test_a_full_fine_tune_goes_on_where_there_is_room_now():
    small = {"limits__vram": "12GB", **FULL}
    begun = plan(recipe(**small), Reporter(), card="RTX 4090", previous=PreviousPrecision("bf16", "fp32"))
    assert begun.choice.plan.optimizer_state == "host"
    eight = plan(recipe(**small), Reporter(), card="RTX 4090", previous=PreviousPrecision("bf16", "8bit"))
    assert not eight.fits, "8 bits hold other numbers"


def test_what_cannot_be_planned_is_told():
    with raises(BadUsage):
        planned(card="nothing")
    with raises(BadRecipe):
        planned(card="RTX 2080", limits__compute_dtype="bf16")


def test_a_smaller_resolution_is_looked_for_when_nothing_fits(traced):
    result = planned(limits__vram="1.9GB", limits__weights_precision="16bit")
    assert not result.fits
    assert {one.size for one in traced} > {(1024, 1024)}


def test_other_devices_may_be_given():
    device = replace(planned().device, free=10 * GB)
    result = plan(recipe(), Reporter(), device=device)
    assert result.device is device


def test_modulations_stay_as_a_run_began_with_them():
    for coded in (False, True):
        begun = PreviousPrecision("nf4", "fp32", code_modulations=coded)
        made = plan(recipe(), Reporter(), card="RTX 4090", previous=begun)
        assert made.choice is not None and made.choice.plan.code_modulations == coded
        assert made.down(made.choice.reserved).choice.plan.code_modulations == coded
        assert ("modulations too" in " ".join(lines(made))) == coded


@pytest.mark.parametrize(
    ("begun", "weights"),
    [(PreviousPrecision("nf4", "8bit"), "nf4"), (PreviousPrecision("fp32", "fp32"), "bf16")],
)
def test_a_run_that_goes_on_keeps_how_its_weights_and_moments_are_stored(begun, weights):
    made = plan(recipe(), Reporter(), card="RTX 4090", previous=begun)
    assert made.choice is not None
    assert (made.choice.plan.weights, made.choice.plan.optimizer_state) == (weights, begun.optimizer_state)
    assert made.plain()["plan"]["weights"] == weights


def test_products_in_8_bits_are_planned_where_they_are_asked_for(traced):
    result = planned(limits__matmul_precision="8bit")
    assert (result.choice.plan.matmul_precision, result.choice.plan.weights) == ("8bit", "int8")
    assert result.plain()["plan"]["matmul_precision"] == "8bit"
    assert "8-bit matmul forward and backward" in next(sentences(result, result.choice))
    assert planned(card="RTX 3090", limits__matmul_precision="8bit").request.weights == ["int8"]
    assert planned().choice.plan.matmul_precision == "full"
    assert [one.matmul_precision for one in traced] == ["8bit", "full"]


def test_a_device_that_cannot_is_told_before_configs_are_read(monkeypatch):
    monkeypatch.setattr("limner.planning.planner.opened", None)
    with raises(BadRecipe):
        planned(card="RTX 2080", limits__matmul_precision="8bit")
    with raises(BadRecipe):
        plan(recipe(), Reporter(), card="RTX 3090", previous=PreviousPrecision("fp8", "fp32", "8bit"))


def test_what_contradicts_products_in_8_bits_is_refused():
    with raises(BadRecipe):
        recipe(limits__matmul_precision="8bit", limits__weights_precision="16bit")
    with raises(BadRecipe):
        recipe(limits__matmul_precision="8bit", train__method="full")


def test_a_run_that_goes_on_keeps_how_it_multiplies():
    made = plan(recipe(), Reporter(), card="RTX 4090", previous=PreviousPrecision("fp8", "fp32", "8bit"))
    assert (made.choice.plan.weights, made.choice.plan.matmul_precision) == ("fp8", "8bit")
    request = recipe(limits__matmul_precision="8bit")
    made = plan(request, Reporter(), card="RTX 4090", previous=PreviousPrecision("bf16", "fp32"))
    assert (made.choice.plan.weights, made.choice.plan.matmul_precision) == ("bf16", "full")
    assert made.down(made.choice.reserved).choice.plan.matmul_precision == "full"
    assert from_json({"weights": "int8"}).matmul_precision == "full", "a plan.json of the time before"
