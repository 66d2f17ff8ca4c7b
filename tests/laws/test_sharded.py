"""Law: weights split over processes = each process with all of them, to rounding; a predictor's heads too.

Sums of gradients are split as they come, and the length of the whole gradient is a sum over parts: the same
numbers in another order. What was saved is one file, and goes on with any number of processes.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from forks import train_forked
from limner.hyper.predictor import Predictor
from limner.planning.run_plan import plan_run
from limner.recipe import Recipe
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.runs import train
from limner.training import checkpoint
from style_folders import predictor_recipe, style_folders

STEPS = 4


@pytest.fixture
def checkpointed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has split runs recompute a block, as the plan does where memory is short."""

    def plan(*arguments: Any) -> Any:
        run_plan = plan_run(*arguments)
        count = int(run_plan.plan.shards > 1)
        return replace(run_plan, plan=replace(run_plan.plan, checkpointed_blocks=count))

    monkeypatch.setattr("limner.runs.plan_run", plan)


def wish(base: Path, photos: Path, method: str, *, steps: int = STEPS, shard: str = "auto") -> Recipe:
    """Three images in micro-batches of one, so that of two processes one has less to do.

    The adapter is a DoRA, which asks the most of split weights: norms, and a product beside the input's.
    """
    return Recipe(
        base=str(base),
        data={"images": str(photos), "flip": True, "caption_dropout": 0.3},
        lora={"kind": "dora", "rank": 3, "dropout": 0.1} if method == "lora" else {},
        train={
            "method": method,
            "steps": steps,
            "batch": 4 if method == "full" else 3,
            "learning_rate": 1e-3,
            "save_every": 2,
            "ema": 0.9,
            "clip": 0.5,
        },
        sample={"every": -1} if method == "full" else {"every": 0, "prompts": ("a thing",), "steps": 1},
        limits={"micro_batch": 1, "shard": shard, "device": "cpu"},
    )


def saved(run: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    """Weights, moments and the average of a checkpoint, by name."""
    parts, _ = checkpoint.load(RunDir(run).checkpoint_path(step))
    tensors = {
        f"{model}.{name}": value for model, state in parts["weights"].items() for name, value in state.items()
    }
    for index, entry in parts["optimizer"]["state"].items():
        tensors |= {f"{index}.{key}": value for key, value in entry.items()}
    return tensors | {f"average.{number}": value for number, value in enumerate(parts["average"])}


def assert_alike(run: Path, other: Path) -> None:
    one, two = saved(run), saved(other)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.allclose(two[name], tensor, rtol=1e-3, atol=1e-5), name
    for row, same in zip(RunDir(run).metrics(), RunDir(other).metrics(), strict=True):
        keys = [key for key in ("loss", "norm", "held_out") if key in row]
        assert [row[key] for key in keys] == pytest.approx([same[key] for key in keys], rel=1e-4)


@pytest.mark.usefixtures("checkpointed")
def test_split_over_two_processes_is_whole_and_goes_on_with_one_and_with_two(tiny_base, photos, tmp_path):
    lora, split = tmp_path / "lora", tmp_path / "split"
    full, several = tmp_path / "full", tmp_path / "several"
    train(wish(tiny_base, photos, "lora"), lora, Reporter())
    train(wish(tiny_base, photos, "full"), full, Reporter())
    train_forked(
        2,
        tmp_path / "meeting",
        [
            (wish(tiny_base, photos, "lora", shard="on"), split),
            (wish(tiny_base, photos, "full", shard="on", steps=2), several),
        ],
    )
    assert RunDir(split).read(RunDir(split).plan_path)["plan"]["shards"] == 2
    assert_alike(lora, split)
    assert RunDir(split).samples().keys() == {0, STEPS}
    ours, theirs = (load_file(RunDir(run).lora_path) for run in (split, lora))
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in theirs)

    train(wish(tiny_base, photos, "full", steps=3), several, Reporter())
    train_forked(2, tmp_path / "again", [(wish(tiny_base, photos, "full", shard="on"), several)])
    assert_alike(full, several)
    files = [next(RunDir(run).model_path.glob("transformer/*.safetensors")) for run in (full, several)]
    exported, split_export = map(load_file, files)
    assert all(torch.allclose(split_export[name], exported[name], atol=1e-4) for name in exported)


def test_divided_heads_train_the_same_predictor_and_go_on_with_one_process(tiny_base, tmp_path):
    """Three styles in micro-batches of one: one process has less to do. The first step looks at nothing."""
    styles = style_folders(tmp_path / "styles", 4, 3)

    def wish(shard: str = "auto", steps: int = STEPS) -> Recipe:
        return predictor_recipe(
            tiny_base,
            styles,
            train={"steps": steps, "batch": 3, "ema": 0.9, "clip": 0.5, "learning_rate": 1e-3},
            instant={"group": 1, "static_steps": 1},
            limits={"micro_batch": 1, "shard": shard, "device": "cpu"},
        )

    one, split = tmp_path / "one", tmp_path / "split"
    train(wish(), one, Reporter())
    train_forked(2, tmp_path / "meeting", [(wish("on", 3), split)])
    assert RunDir(split).read(RunDir(split).plan_path)["plan"]["head_shards"] == 2
    train(wish(), split, Reporter())
    assert_alike(one, split)
    first, second = (Predictor.load(RunDir(run).predictor_path).state_dict() for run in (one, split))
    assert all(torch.allclose(second[name], first[name], rtol=1e-2, atol=1e-4) for name in first)


@pytest.mark.slow
def test_split_over_four_processes_is_whole(tiny_base, photos, tmp_path):
    runs = [(wish(tiny_base, photos, "full", shard="on"), tmp_path / "four")]
    lora = wish(tiny_base, photos, "lora", shard="on")
    lora = lora.model_copy(update={"train": lora.train.model_copy(update={"batch": 5})})
    train_forked(4, tmp_path / "meeting", [*runs, (lora, tmp_path / "lora4")])
    train(wish(tiny_base, photos, "full"), tmp_path / "one", Reporter())
    train(
        lora.model_copy(update={"limits": wish(tiny_base, photos, "lora").limits}),
        tmp_path / "lora",
        Reporter(),
    )
    assert_alike(tmp_path / "one", tmp_path / "four")
    assert_alike(tmp_path / "lora", tmp_path / "lora4")
