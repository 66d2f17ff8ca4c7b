import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from limner.assembly.resolve import resolve, resolve_base
from limner.errors import BadData, BadRecipe
from limner.generation import pipeline as stock
from limner.generation.class_images import FACTS, _batches, prior, with_prior
from limner.graph.unit import run as run_units
from limner.lora import file
from limner.nn import distributed
from limner.nn.memory.plan import Plan
from limner.nn.rng import KeyedRng, seed_of
from limner.recipe import toml
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.runs import train
from limner.training.cache import fill_cache
from limner.training.model import TrainableModel
from messages import raises
from small import Told, equal, weights, wish

PROMPTS = {"prompts": ["a cat", "a dog"], "batch": 1}


def pictures(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(place.glob("*.png"))}


def folder(place: Path, caption: str) -> Path:
    place.mkdir()
    Image.new("RGB", (40, 40), (200, 60, 10)).save(place / "one.png")
    (place / "one.txt").write_text(caption)
    return place


def test_the_base_paints_one_picture_of_each_prompt_once(
    tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    recipe = wish(tiny_base, photos, prior={**PROMPTS, "images_per_prompt": 2})
    run = RunDir(tmp_path / "run")
    place = prior(resolve_base(recipe), run, Reporter())
    assert place == run.prior_path
    first = pictures(run.prior_path)
    assert len(first) == 4
    rows = [json.loads(row) for row in (run.prior_path / "metadata.jsonl").read_text().splitlines()]
    assert rows[2]["text"] == "a dog" and rows[2]["seed"] == seed_of(recipe.seed, "prior", "a dog", 0)
    assert len(set(first.values())) == 4
    (run.prior_path / "0001.png").unlink()
    old = (run.prior_path / "0000.png").stat().st_mtime_ns
    prior(resolve_base(recipe), run, Reporter())
    assert pictures(run.prior_path) == first
    assert (run.prior_path / "0000.png").stat().st_mtime_ns == old


def test_small_pictures_are_computed_several_at_once_always_with_the_same_neighbours(
    tiny_base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = resolve_base(wish(tiny_base, photos, prior={**PROMPTS, "images_per_prompt": 3}))
    assert [len(numbers) for numbers in _batches(7, 3, [1, 6])] == [3, 1]
    made = {}
    for pixels in (1, 2 * base.resolution**2):
        monkeypatch.setattr(stock, "BATCH_PIXELS", pixels)
        place = prior(base, RunDir(tmp_path / f"run-{pixels}"), Reporter())
        made[pixels] = [
            np.asarray(Image.open(path), int) for path in sorted((place or tmp_path).glob("*.png"))
        ]
    for one, other in zip(*made.values(), strict=True):
        assert np.abs(one - other).max() <= 1


def test_a_process_that_does_not_see_what_the_first_generated_says_so(
    tiny_base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    with raises(BadData):
        prior(resolve_base(wish(tiny_base, photos, prior=PROMPTS)), RunDir(tmp_path / "run"), Reporter())


def test_other_prompts_begin_again(tiny_base: Path, photos: Path, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    prior(resolve_base(wish(tiny_base, photos, prior={**PROMPTS, "images_per_prompt": 2})), run, Reporter())
    prior(resolve_base(wish(tiny_base, photos, prior={"prompts": ["a cup"]})), run, Reporter())
    assert list(pictures(run.prior_path)) == ["0000.png"]
    assert "a cup" in (run.prior_path / FACTS).read_text()


def test_no_prior_is_wanted_unless_it_is_named(tiny_base: Path, photos: Path, tmp_path: Path) -> None:
    assert prior(resolve_base(wish(tiny_base, photos)), RunDir(tmp_path), Reporter()) is None
    assert (
        prior(resolve_base(wish(tiny_base, photos, prior={"images": photos})), RunDir(tmp_path), Reporter())
        == photos
    )


def test_two_sources_are_refused(tiny_base: Path, photos: Path) -> None:
    with raises(BadRecipe):
        wish(tiny_base, photos, prior={**PROMPTS, "images": photos})


def test_a_caption_with_the_trigger_is_refused(tiny_base: Path, photos: Path, tmp_path: Path) -> None:
    place = folder(tmp_path / "usual", "a zorb, red")
    with raises(BadData):
        resolve(wish(tiny_base, photos, data={"trigger": "zorb"})).with_class_images(place)


def losses(recipe: Recipe, place: Path | None, step: int = 0) -> torch.Tensor:
    resolved = resolve(recipe)
    resolved = resolved.with_class_images(place) if place else resolved
    store, _ = fill_cache(resolved, Reporter())
    return torch.stack(list(TrainableModel(resolved, store).losses(step))).sum()


def test_the_loss_is_that_of_the_images_plus_the_weighted_prior(
    tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    place = folder(tmp_path / "usual", "a red thing")
    plain = losses(wish(tiny_base, photos), None)
    whole, heavy = (
        losses(wish(tiny_base, photos, prior={"images": place, "batch": 2, "weight": weight}), place)
        for weight in (1.0, 3.0)
    )
    assert whole > plain
    assert torch.allclose(heavy - plain, 3 * (whole - plain), rtol=1e-4)
    split = wish(
        tiny_base, photos, prior={"images": place, "batch": 2}, limits={"device": "cpu", "micro_batch": 1}
    )
    assert torch.allclose(losses(split, place), whole, rtol=1e-5)


def test_the_prior_is_drawn_apart_and_never_held_out(tiny_base: Path, photos: Path, tmp_path: Path) -> None:
    place = folder(tmp_path / "usual", "a red thing")
    resolved = resolve(wish(tiny_base, photos, prior={"images": place, "batch": 3})).with_class_images(place)
    assert resolved.class_views == 1
    assert resolved.views[-1].caption == "a red thing"
    assert all(view.example.path.parent != place for view in (*resolved.own, *resolved.held_out))
    store, _ = fill_cache(resolved, Reporter())
    (samples,) = TrainableModel(resolved, store)._samples(2)
    positions = [one.position for one in samples]
    assert len(set(positions)) == len(positions)
    assert [one for one in positions if one < 0] == [-7, -8, -9]
    assert seed_of(0, "prior") != 0


def test_a_run_with_a_prior_is_a_run(tiny_base: Path, photos: Path, tmp_path: Path) -> None:
    recipe = wish(tiny_base, photos, prior=PROMPTS, train={"steps": 2})
    done = train(recipe, tmp_path / "run", Reporter())
    assert done.lora.exists()
    assert len(pictures(tmp_path / "run" / "prior")) == 2


DISTILL = {"prompts": ("a cat", "a dog"), "images_per_prompt": 2, "teacher_steps": 2, "steps": 2}


def distilling(base: Path, steps: int) -> Recipe:
    return wish(base, Path("images"), train={"objective": "distill", "steps": steps}, distill=DISTILL)


def test_a_teacher_samples_once_and_a_distilled_run_goes_on_to_the_bit(tiny_base, tmp_path):
    half, whole = (distilling(tiny_base, steps) for steps in (2, 4))
    train(half, tmp_path / "parts", Told())
    pictures = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "parts" / "teacher").glob("*.png")}
    done = train(whole, tmp_path / "parts", Told())
    train(whole, tmp_path / "whole", Told())
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "parts" / "teacher").glob("*.png")}
    assert len(pictures) == 4 and after == pictures
    assert equal(weights(tmp_path / "parts", 4), weights(tmp_path / "whole", 4))
    losses = [row["loss"] for row in RunDir(tmp_path / "whole").metrics() if "loss" in row]
    assert len(losses) == 4 and losses[-1] != losses[0]
    assert done.lora is not None and file.read(done.lora).metadata["limner.guidance"] == "1"
    # stage two needs the denoiser alone
    resolved = resolve(toml.load(tmp_path / "whole" / "recipe.toml"))
    assert [unit.name for unit in resolved.cut.live] == ["sample", "measure_sampled"]
    assert resolved.cut.loaded == ("transformer",) and "start" in resolved.cut.boundary


def test_pictures_without_a_seed_or_of_another_size_are_no_pairs(tiny_base, photos, tmp_path):
    with raises(BadData):
        resolve(wish(tiny_base, photos, train={"objective": "distill"}))
    Image.new("RGB", (56, 48)).save(tmp_path / "odd.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "odd.png", "text": "a cat", "seed": 3}\n')
    shutil.rmtree(photos)
    with raises(BadData):
        resolve(wish(tiny_base, tmp_path, data={"validation_count": 0}, train={"objective": "distill"}))


TEACHER = {
    "data": {"trigger": "zorb", "validation_count": 1},
    "prior": {"kind": "teacher", "class_word": "cup"},
}


def taught(recipe: Recipe, place: Path, plan: Plan | None = None) -> TrainableModel:
    resolved = with_prior(resolve(recipe), RunDir(place / "run"), Reporter())
    store, _ = fill_cache(resolved, Reporter())
    return TrainableModel(resolved, store, plan)


def moved(one: TrainableModel) -> TrainableModel:
    """With adapters that change something."""
    with torch.no_grad():
        for weight in one.parameters:
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return one


@pytest.mark.parametrize("kind", ["teacher", "blank"])
def test_the_teacher_reads_captions_without_the_trigger(tiny_base, photos, tmp_path, kind):
    word = {"class_word": "cup"} if kind == "teacher" else {}
    recipe = wish(tiny_base, photos, data=TEACHER["data"], prior={"kind": kind, **word})
    resolved = with_prior(resolve(recipe), RunDir(tmp_path), Reporter())
    own = {view.caption for view in resolved.own}
    expected = {caption.replace("zorb", "cup") for caption in own} if kind == "teacher" else {""}
    assert {view.caption for view in resolved.views[len(resolved.own) :]} == expected != own
    assert all("zorb" in caption for caption in own)


PLANS = {
    "plain": {},
    "checkpointed": {"checkpointed_blocks": 2},
    "int8": {"weights": "int8"},
    "one by one": {"micro_batch": 1},
}


@pytest.mark.parametrize("plan", PLANS)
def test_an_adapter_that_changes_nothing_has_nothing_to_keep(tiny_base, photos, tmp_path, plan):
    plain = Plan(**{"compute": "fp32", "weights": "fp32", "micro_batch": 2, **PLANS[plan]})
    alone, beside = (
        taught(wish(tiny_base, photos, **sections), tmp_path, plain)
        for sections in ({"data": TEACHER["data"]}, TEACHER | {"lora": {"rank": 2, "dropout": 0.5}})
    )
    first, last = ([loss.item() for loss in one.losses(0)] for one in (alone, beside))
    assert last == [*first, 0.0]
    *_, prior_loss = moved(beside).losses(0)
    assert prior_loss.item() > 0
    prior_loss.backward()
    assert all(weight.grad is not None for weight in beside.parameters), "the adapters are on again"


def test_the_loss_of_the_teacher_is_the_distance_from_the_bare_base(tiny_base, photos, tmp_path):
    recipe = wish(tiny_base, photos, **{**TEACHER, "prior": {**TEACHER["prior"], "weight": 3.0, "batch": 2}})
    student, bare = moved(taught(recipe, tmp_path)), taught(recipe, tmp_path)
    expected = 0.0
    for sample in student._samples(0)[1]:
        draw = KeyedRng([(recipe.seed, 0, sample.position)])
        values = student.store.batch([sample.view_index], student.device)
        answers = [
            run_units(one.live_units, one.models, dict(values), draw)["pred"].detach()
            for one in (student, bare)
        ]
        expected += 3.0 / 2 * (answers[0] - answers[1]).square().mean().item()
    assert sum(loss.item() for loss in list(student.losses(0))[1:]) == pytest.approx(expected, rel=1e-4)


def test_a_run_with_a_teacher_goes_on_to_the_bit_and_paints_nothing(tiny_base, photos, tmp_path):
    told = Told()
    train(wish(tiny_base, photos, **TEACHER), tmp_path / "whole", told)
    train(wish(tiny_base, photos, **TEACHER, train={"steps": 2}), tmp_path / "run", Told())
    train(wish(tiny_base, photos, **TEACHER), tmp_path / "run", Told())
    assert equal(weights(tmp_path / "run", 4), weights(tmp_path / "whole", 4))
    assert "the bare base is the teacher of" in told.text and not (tmp_path / "whole" / "prior").exists()
