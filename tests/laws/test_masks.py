"""Masks: white ones change no bit; cached = uncached, resumed = whole, several processes = one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cases import CASES
from limner.assembly.resolve import cache_root, resolve
from limner.data.folder import read_folder
from limner.data.images import header
from limner.generation.class_images import with_prior
from limner.graph.cache import Cache
from limner.nn.layers import lora
from limner.nn.loop import Fit, fit
from limner.nn.optim import optimizer, schedule
from limner.recipe import toml
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.runs import train
from limner.training.cache import all_rows, fill_cache
from limner.training.encode import survey
from limner.training.encoders import uncached
from limner.training.model import TrainableModel
from small import equal, losses, weights, wish
from tinybase import PLACES, Base
from two_processes import train_in_two

HARD = {"flip": True, "caption_dropout": 0.3, "trigger": "zorb", "crop": "centre"}


def masks_of(photos: Path, folder: Path, left: int, right: int) -> Path:
    """A mask for each photo but the last: its left half of one value, its right half of another."""
    folder.mkdir()
    for path in sorted(photos.glob("*.png"))[:-1]:
        width, height = header(path)
        pixels = np.full((height, width), left, np.uint8)
        pixels[:, width // 2 :] = right
        Image.fromarray(pixels).save(folder / path.name)
    return folder


def masked(base: Path, photos: Path, masks: Path | None, **sections: Any) -> Recipe:
    """Hard choices at once, in micro-batches of two."""
    data = {**HARD, **({"masks": str(masks)} if masks else {}), **sections.pop("data", {})}
    return wish(base, photos, data=data, limits={"micro_batch": 2}, **sections)


def trained(recipe: Recipe) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and weights of four steps by the plain plan."""
    resolved = resolve(recipe)
    store, _ = fill_cache(resolved, Reporter())
    model = TrainableModel(resolved, store)
    model.dropping(enabled=True)
    options = {"weight_decay": recipe.train.weight_decay, "betas": recipe.train.betas}
    pace = Fit(
        parameters=model.parameters,
        optimizer=optimizer("adamw", model.groups(), **options),
        rate=schedule("constant", 0, 4),
        clip=recipe.train.clip,
    )
    steps = [step.loss for step in fit(pace, model.losses, start=0, steps=4)]
    return [*steps, model.validation_loss()], model.state()["transformer"]


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_white_masks_change_no_bit(tiny_base: Path, photos: Path, tmp_path: Path, loss: str):
    masks = masks_of(photos, tmp_path / "masks", 255, 255)
    none = masked(tiny_base, photos, None, train={"batch": 4, "loss": loss})
    losses, parameters = trained(none)
    white = trained(toml.change(none, {"data.masks": masks, "train.mask_floor": 0.1}))
    assert white[0] == losses and equal(white[1], parameters)
    gray = trained(toml.change(none, {"data.masks": masks_of(photos, tmp_path / "gray", 255, 0)}))
    assert gray[0] != losses and not equal(gray[1], parameters)


def test_what_is_cached_is_what_is_computed_straight(tiny_base: Path, photos: Path, tmp_path: Path):
    resolved = resolve(masked(tiny_base, photos, masks_of(photos, tmp_path / "masks", 255, 40)))
    assert resolved.cut.boundary >= {"loss_weight", "latent_mean"}
    store, _ = fill_cache(resolved, Reporter())
    rows = all_rows(resolved)
    for number, straight in enumerate(uncached(resolved, rows)):
        assert equal(store.row(number), straight)
    view, weight = resolved.views[0], store.row(0)["loss_weight"]
    mirror = next(n for n, other in enumerate(resolved.views) if other.example is view.example and other.flip)
    assert torch.equal(store.row(mirror)["loss_weight"], weight.flip(3))
    assert weight.mean().item() == pytest.approx(1) and weight[..., 0].mean() > 5 * weight[..., -1].mean()
    bare = [n for n, other in enumerate(resolved.views) if other.example.mask is None]
    assert bare and all((store.row(n)["loss_weight"] == 1).all() for n in bare)


@pytest.mark.parametrize("name", ["flux-dev", "flux2-klein", "qwen-image", "sdxl-v"])
def test_the_loss_is_weighed_place_by_place(name: str, tmp_path: Path):
    """A place of the latent counts as the mask does there, on average, beside the mean of its image."""
    base = Base(next(case for case in CASES if case.name == name), tmp_path / name)
    denoiser, values = base.moved(), base.batch(0, 1)
    plain, trained = base.live(denoiser, values, PLACES), lora.trained(denoiser)
    white = base.masked(denoiser, values, torch.full((2, 1, 32, 64), 255, dtype=torch.uint8), 0.25)
    assert torch.equal(white, plain["loss"])
    both = (torch.autograd.grad(loss.sum(), trained, allow_unused=True) for loss in (white, plain["loss"]))
    assert all(a is b if a is None or b is None else torch.equal(a, b) for a, b in zip(*both, strict=True))
    mask = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (2, 1, 32, 64), dtype=np.uint8))
    error = (plain["pred"] - plain["target"]).detach().cpu().square()
    tiles = mask.unflatten(3, (error.shape[3], -1)).unflatten(2, (error.shape[2], -1)).double().mean((3, 5))
    shares = 0.25 + 0.75 * tiles / 255
    weighted = (error * shares).mean((1, 2, 3)) / shares.mean((1, 2, 3)) / error.mean((1, 2, 3))
    wanted = weighted * plain["loss"].detach().cpu()
    assert base.masked(denoiser, values, mask, 0.25).tolist() == pytest.approx(wanted.tolist(), rel=1e-4)


@pytest.mark.slow
def test_a_resumed_run_is_the_whole_run_wherever_masks_lie(tiny_base: Path, photos: Path, tmp_path: Path):
    masks = masks_of(photos, tmp_path / "masks", 255, 0)
    recipe = masked(tiny_base, photos, masks)
    train(recipe, tmp_path / "whole", Reporter())
    train(toml.change(recipe, {"train.steps": 2}), tmp_path / "half", Reporter())
    moved = toml.change(recipe, {"data.masks": masks.rename(tmp_path / "elsewhere")})
    train(moved, tmp_path / "half", Reporter())
    assert losses(tmp_path / "half") == losses(tmp_path / "whole")
    assert equal(weights(tmp_path / "half", 4), weights(tmp_path / "whole", 4))


def test_a_painted_mask_misses_the_cache_and_its_image_does_not(
    tiny_base: Path, photos: Path, tmp_path: Path
):
    masks = masks_of(photos, tmp_path / "masks", 255, 0)
    recipe = masked(tiny_base, photos, masks, data={"flip": False, "validation_count": 0})
    fill_cache(resolve(recipe), Reporter())

    def missing(recipe: Recipe) -> dict[str, int]:
        resolved = resolve(recipe)
        work = survey(resolved, Cache(cache_root(recipe)), all_rows(resolved))
        return {name: len(todo) for name, todo in work.missing.items() if todo}

    assert missing(recipe) == {}
    Image.new("L", (48, 48), 7).save(masks / "0.png")
    assert missing(recipe) == {"weigh": 1}
    assert set(missing(toml.change(recipe, {"train.mask_floor": 0.5}))) == {"weigh"}


@pytest.mark.parametrize("kind", ["teacher", "images"])
def test_all_of_a_picture_of_the_prior_counts(tiny_base: Path, photos: Path, tmp_path: Path, kind: str):
    masks = masks_of(photos, tmp_path / "masks", 255, 0)
    ordinary = tmp_path / "ordinary"
    ordinary.mkdir()
    Image.new("RGB", (48, 48), (9, 99, 199)).save(ordinary / "a.png")
    prior = {"kind": "teacher"} if kind == "teacher" else {"images": str(ordinary)}
    resolved = resolve(masked(tiny_base, photos, masks, prior=prior))
    resolved = with_prior(resolved, RunDir(tmp_path / "run"), Reporter())
    store, _ = fill_cache(resolved, Reporter())
    model = TrainableModel(resolved, store)
    counts = [store.row(n)["loss_weight"] for n in range(len(resolved.views))]
    assert resolved.class_views
    assert all((weight == 1).all() for weight in counts[-resolved.class_views :])
    assert any((weight != 1).any() for weight in counts[: -resolved.class_views])
    assert torch.stack(list(model.losses(0))).isfinite().all()


@pytest.mark.slow
def test_two_processes_are_one(tiny_base: Path, photos: Path, tmp_path: Path):
    """As it is for an adapter of another kind: a LoKr."""
    masks = masks_of(photos, tmp_path / "masks", 255, 0)
    kind = {"lora": {"kind": "lokr", "rank": 2}, "export": {"for": ("comfyui",)}}
    recipe = masked(tiny_base, photos, masks, train={"batch": 4, "steps": 2}, **kind)
    train(recipe, tmp_path / "one", Reporter())
    train_in_two(recipe, tmp_path)
    assert losses(tmp_path / "two") == losses(tmp_path / "one")
    assert equal(weights(tmp_path / "two", 2), weights(tmp_path / "one", 2))


def test_validation_images_without_masks_count_whole(photos: Path, tmp_path: Path):
    masks = masks_of(photos, tmp_path / "masks", 255, 0)
    examples = read_folder(photos, masks=masks).examples
    assert [example.mask is not None for example in examples] == [True] * 5 + [False]
