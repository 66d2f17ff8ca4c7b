"""Law 1: cached = uncached, resumed = whole, two processes = one with twice the accumulation; to the bit.

And to rounding: any number of processes, equal or not, and another number after each stop.

Of several processes: a step of two micro-batches has a sum of two terms, the same in any order. Of more
micro-batches each process adds up its own, and the sums are added after that: ((1 + 3) + (2 + 4)) for
(((1 + 2) + 3) + 4). Floating point numbers round otherwise then, so equality is to rounding, as between two
micro-batch sizes.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from limner.assembly.resolve import cache_root, resolve
from limner.graph.cache import Cache
from limner.recipe import toml
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.runs import train
from limner.training import checkpoint
from limner.training.cache import all_rows
from limner.training.encode import survey
from limner.training.model import TrainableModel
from straight import Straight
from two_processes import train_in

HARD = {
    "flip": True,
    "caption_dropout": 0.3,
    "trigger": "zorb",
}
"""Every finite choice at once."""


def recipe(
    base: Path,
    photos: Path,
    *,
    steps: int = 6,
    encoders: tuple[str, ...] = (),
    layers: int | None = None,
    **more,
):
    return Recipe(
        base=str(base),
        data={"images": str(photos), **HARD},
        lora={"rank": 3, "text_encoders": encoders, "text_encoder_layers": layers},
        train={
            "steps": steps,
            "batch": 4,
            "learning_rate": 1e-2,
            "save_every": 3,
            "schedule": "cosine",
            **more,
        },
        sample={"every": -1},
        limits={"micro_batch": 2},
    )


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    parts, _ = checkpoint.load(RunDir(run).checkpoint_path(step))
    return {
        f"{model}.{name}": value for model, state in parts["weights"].items() for name, value in state.items()
    }


def losses(run: Path) -> list[tuple[float | None, float | None]]:
    return [(row.get("loss"), row.get("held_out")) for row in RunDir(run).metrics()]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("encoders", "layers", "boundary"),
    [
        ((), None, {"pooled", "context", "latent_mean", "latent_logvar"}),
        (("text_encoder",), None, {"clip_tokens", "context", "latent_mean", "latent_logvar"}),
        (
            ("text_encoder", "text_encoder_2"),
            1,
            {"encode_clip@2", "clip_tokens", "encode_t5@2", "t5_tokens", "latent_mean", "latent_logvar"},
        ),
    ],
    ids=["denoiser", "clip", "last-layer-of-both"],
)
def test_cached_training_is_the_same_training(tiny_base, photos, tmp_path, encoders, layers, boundary):
    wish = recipe(tiny_base, photos, encoders=encoders, layers=layers)
    run = tmp_path / "run"
    train(wish, run, Reporter())
    resolved = resolve(wish)
    assert resolved.cut.boundary == boundary

    straight = TrainableModel(resolved, Straight(resolved))  # pyright: ignore[reportArgumentType]
    from limner.nn.loop import Fit, fit
    from limner.nn.optim import optimizer, schedule

    straight.dropping(enabled=True)
    pace = Fit(
        parameters=straight.parameters,
        optimizer=optimizer(
            "adamw", straight.groups(), weight_decay=wish.train.weight_decay, betas=wish.train.betas
        ),
        rate=schedule("cosine", 0, wish.train.steps),
        clip=wish.train.clip,
    )
    seen = [step.loss for step in fit(pace, straight.losses, start=0, steps=wish.train.steps)]
    assert seen == [loss for loss, _ in losses(run) if loss is not None]
    mine = {
        f"{model}.{name}": value for model, state in straight.state().items() for name, value in state.items()
    }
    assert equal(mine, weights(run, 6))


NEW_KEYS = {
    "adamw": {
        "train.loss": "huber",
        "train.noise_range": (0.1, 0.9),
        "train.schedule": "cosine_with_restarts",
    },
    "adafactor": {"train.loss": "l1", "train.time_density": "style", "train.schedule": "warmup_stable_decay"},
    "prodigy": {
        "train.learning_rate": 1.0,
        "train.schedule": "polynomial",
        "train.schedule_power": 2.0,
        "prior.kind": "teacher",
        "prior.class_word": "cat",
    },
    "schedulefree": {
        "data.caption_dropout": 0.0,
        "prior.kind": "blank",
        "prior.batch": 2,
    },
    "torch.optim.NAdam": {
        "train.schedule": "linear",
        "lora.targets": ["attention", "!single_transformer_blocks.*"],
        "lora.ranks": {"attn.to_q": 2},
        "lora.rates": {"attn.to_v": 0.5},
    },
}
"""Optimizer -> keys that it is tried with, so that each is resumed once."""


def two_sets(photos: Path, root: Path) -> dict[str, object]:
    """The photos as two data.sets, each with its trigger; one is drawn more often and counts less."""
    for path in sorted(photos.iterdir()):
        folder = root / ("one" if int(path.stem) % 2 else "other")
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder)
    one = {"images": str(root / "one"), "trigger": "zorb", "default_caption": "a cat", "repeats": 2}
    other = {"images": str(root / "other"), "trigger": "quov", "default_caption": "a cat", "weight": 0.5}
    return {"flip": True, "caption_dropout": 0.3, "sets": (one, other)}


@pytest.mark.parametrize("name", NEW_KEYS)
def test_a_resumed_run_is_the_whole_run(tiny_base, photos, tmp_path, name):
    averaging = {"schedule": "constant", "ema": 0.0} if name == "schedulefree" else {"ema": 0.9}
    wish = recipe(tiny_base, photos, optimizer=name, **averaging)
    if name == "torch.optim.NAdam":
        data = type(wish.data)(**two_sets(photos, tmp_path))  # pyright: ignore
        wish = wish.model_copy(update={"data": data})
    wish = toml.change(wish, NEW_KEYS[name])
    train(wish, tmp_path / "whole", Reporter())
    half = tmp_path / "half"
    train(wish, half, Reporter())
    run = RunDir(half)
    run.checkpoint_path(6).unlink()
    run.lora_path.unlink()
    run.metrics_path.write_bytes(run.metrics_path.read_bytes()[:-20])  # torn, and rows after the checkpoint
    moved = half.rename(tmp_path / "elsewhere")
    train(wish, moved, Reporter())
    assert losses(moved) == losses(tmp_path / "whole")
    assert equal(weights(moved, 6), weights(tmp_path / "whole", 6))
    assert (moved / "lora.safetensors").read_bytes() != b""


def test_splitting_the_batch_changes_no_draw(tiny_base, photos, tmp_path):
    """The result never depends on how a batch passes through the device, but for rounding."""
    whole = recipe(tiny_base, photos, steps=3)
    train(whole, tmp_path / "two", Reporter())
    single = whole.model_copy(update={"limits": whole.limits.model_copy(update={"micro_batch": 1})})
    train(single, tmp_path / "one", Reporter())
    for (a, _), (b, _) in zip(losses(tmp_path / "two"), losses(tmp_path / "one"), strict=True):
        assert a == b or a == pytest.approx(b, rel=1e-5)


@pytest.mark.slow
def test_processes_are_one_with_more_accumulation_and_others_go_on_where_they_stopped(
    tiny_base, photos, tmp_path
):
    whole = recipe(tiny_base, photos, steps=8, schedule="constant")
    one, several = tmp_path / "one", tmp_path / "several"
    train(whole, one, Reporter())
    train_in(2, shorter(whole, 3), several)
    assert losses(several) == losses(one)[:4]
    assert equal(weights(several, 3), weights(one, 3))
    train_in(3, shorter(whole, 6), several, unequal=True)
    plan = json.loads(RunDir(several).plan_path.read_text())
    assert len(plan["processes"]) == 3
    train(whole, several, Reporter())
    for pair, expected in zip(losses(several), losses(one), strict=True):
        assert pair == expected or pair[0] == pytest.approx(expected[0], rel=1e-4)
    for name, weight in weights(one, 8).items():
        assert torch.allclose(weights(several, 8)[name], weight, rtol=1e-3, atol=1e-5), name


def shorter(whole: Recipe, steps: int) -> Recipe:
    return whole.model_copy(update={"train": whole.train.model_copy(update={"steps": steps})})


def test_a_warm_cache_computes_nothing_and_a_new_caption_only_text(tiny_base, photos, tmp_path):
    wish = recipe(tiny_base, photos)
    train(wish, tmp_path / "run", Reporter())
    store = Cache(cache_root(wish))

    def missing() -> dict[str, int]:
        resolved = resolve(wish)
        work = survey(resolved, store, all_rows(resolved))
        return {name: len(todo) for name, todo in work.missing.items() if todo}

    assert missing() == {}
    (photos / "3.txt").write_text("a thing with another caption\n")
    assert missing() == {"tokenize": 1, "tokenize_2": 1, "encode_clip": 1, "encode_t5": 1}
    faster = wish.model_copy(update={"train": wish.train.model_copy(update={"learning_rate": 1e-3})})
    resolved = resolve(faster)
    assert len(survey(resolved, store, all_rows(resolved)).missing_keys) == 2
    assert json.loads((tmp_path / "run" / "cache" / "index.json").read_text())["addresses"]
