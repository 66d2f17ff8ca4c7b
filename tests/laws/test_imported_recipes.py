# ruff: noqa: E501  configurations stand as people write them
"""Law: an imported recipe trains as the other program would have: the same rates, and times of the same law.

What the others do is written here by their documentation; of schedules, their own library is asked.
"""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.optimization import get_scheduler

from limner.importing import objectives
from limner.importing.book import Book
from limner.importing.importer import import_recipe
from limner.importing.options import ForeignOption
from limner.models.facts import Objective
from limner.models.rectified import draw_time, times
from limner.nn.optim import ScheduleForm, schedule
from limner.nn.rng import KeyedRng

DRAWS = 10_000
LIMIT = 1.95 * math.sqrt(2 / DRAWS)
"""Of the Kolmogorov-Smirnov statistic of two samples: the same law exceeds it once in a thousand."""
FLUX = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
"""Scheduler of FLUX.1."""

Law = Callable[[np.random.Generator], np.ndarray]


def sigmoid(draws: np.random.Generator) -> np.ndarray:
    return 1 / (1 + np.exp(-draws.standard_normal(DRAWS)))


def uniform(draws: np.random.Generator) -> np.ndarray:
    return draws.random(DRAWS)


def moved(law: Law, shift: float) -> Law:
    def times(draws: np.random.Generator) -> np.ndarray:
        time = law(draws)
        return time * shift / (1 + (shift - 1) * time)

    return times


@pytest.fixture(scope="module")
def uniforms() -> torch.Tensor:
    return KeyedRng([(0, 1, position) for position in range(DRAWS)]).uniform("time", torch.empty(DRAWS))


@pytest.mark.parametrize(
    ("settings", "law"),
    [
        ({"timestep_sampling": "uniform"}, uniform),
        ({"timestep_sampling": "sigmoid"}, sigmoid),
        ({"timestep_sampling": "shift", "discrete_flow_shift": 3.1582}, moved(sigmoid, 3.1582)),
        # sd-scripts and musubi: mu is 1.15 at the 4096 tokens of 1024 x 1024 pixels
        ({"timestep_sampling": "flux_shift"}, moved(sigmoid, math.exp(1.15))),
        ({"timestep_type": "sigmoid"}, sigmoid),
        ({"timestep_type": "linear"}, uniform),
        ({"timestep_type": "weighted"}, uniform),
        # ai-toolkit: even places between the first and the last noise, moved as its sampler moves them
        ({"timestep_type": "shift"}, moved(uniform, math.exp(1.15))),
        ({"timestep_type": "flux_shift"}, moved(uniform, math.exp(1.15))),
        # ai-toolkit: the cube of a uniform number is a place in a list that begins with pure noise
        ({"content_or_style": "content"}, lambda draws: 1 - draws.random(DRAWS) ** 3),
        ({"content_or_style": "style"}, lambda draws: 1 - (1 - draws.random(DRAWS) ** 3)),
        ({"timestep_distribution": "UNIFORM"}, uniform),
        ({"timestep_distribution": "LOGIT_NORMAL"}, sigmoid),
        ({"timestep_distribution": "LOGIT_NORMAL", "timestep_shift": 3.0}, moved(sigmoid, 3.0)),
    ],
)
def test_times_are_drawn_by_the_same_law(uniforms: torch.Tensor, settings: dict[str, Any], law: Law):
    book = Book([ForeignOption(key, value) for key, value in settings.items()])
    objectives.timesteps(book)
    assert_law(
        book.changes["train.time_density"], book.changes.get("train.time_shift", "auto"), law, uniforms
    )


TOOLKIT = """
job: extension
config:
  process:
    - {type: sd_trainer, network: {type: lora, linear: 4}, train: {noise_scheduler: flowmatch, lr: 1e-4},
       model: {name_or_path: black-forest-labs/FLUX.1-dev, is_flux: true}}
"""
DIFFUSERS = "accelerate launch train_dreambooth_lora_flux.py --pretrained_model_name_or_path=black-forest-labs/FLUX.1-dev"
SILENT = {
    # its scheduler holds the steps of sampling, which are moved by resolution only when it samples
    "diffusers.sh": (f"{DIFFUSERS} --rank=4", uniform),
    "weighted.sh": (f"{DIFFUSERS} --weighting_scheme=logit_normal", sigmoid),
    "toolkit.yaml": (TOOLKIT, sigmoid),
    "kohya.sh": (
        "accelerate launch flux_train_network.py --pretrained_model_name_or_path flux1-dev.safetensors --network_dim 4",
        moved(uniform, 3.0),
    ),
    "simple.json": (
        '{"model_family": "flux", "pretrained_model_name_or_path": "black-forest-labs/FLUX.1-dev"}',
        moved(sigmoid, 3.0),
    ),
    "one.json": (
        '{"training_method": "LORA", "model_type": "FLUX_DEV_1", "base_model_name": "black-forest-labs/FLUX.1-dev"}',
        uniform,
    ),
    "diffsynth.sh": (
        "accelerate launch examples/flux/model_training/train.py "
        '--model_id_with_origin_paths "black-forest-labs/FLUX.1-dev:flux1-dev.safetensors" --lora_rank 4',
        moved(uniform, 3.0),
    ),
    # musubi-tuner: timestep_sampling is sigma, discrete_flow_shift 1
    "musubi-kontext.sh": (
        "accelerate launch flux_kontext_train_network.py --dit flux1-kontext-dev.safetensors --network_dim 4",
        uniform,
    ),
    "musubi-qwen.sh": ("python qwen_image_train_network.py --dit qwen_image_bf16.safetensors", uniform),
    "musubi-shift.sh": (
        "python zimage_train_network.py --dit z_image_bf16.safetensors --timestep_sampling shift",
        sigmoid,
    ),
    "musubi-sigma.sh": (
        "python flux_2_train_network.py --dit flux-2-klein-base-4b.safetensors --discrete_flow_shift 2.5",
        moved(uniform, 2.5),
    ),
    "kohya-shift.sh": (
        "python flux_train_network.py --pretrained_model_name_or_path flux1-dev.safetensors --timestep_sampling shift",
        moved(sigmoid, 3.0),
    ),
    "kohya-sd3.sh": (
        "python sd3_train_network.py --pretrained_model_name_or_path stabilityai/stable-diffusion-3.5-medium",
        uniform,
    ),
    "diffsynth-qwen.sh": (
        "python examples/qwen_image/model_training/train.py --model_id_with_origin_paths Qwen/Qwen-Image:a --lora_rank 4",
        moved(uniform, math.exp(0.8)),
    ),
    "diffsynth-z.sh": (
        "python examples/z_image/model_training/train.py --model_id_with_origin_paths Tongyi-MAI/Z-Image:a --lora_rank 4",
        moved(uniform, 3.0),
    ),
    "toolkit-qwen.yaml": (
        TOOLKIT.replace("black-forest-labs/FLUX.1-dev, is_flux: true", "Qwen/Qwen-Image"),
        sigmoid,
    ),
}
"""Configurations that leave timesteps to the trainer -> its law, from its own source."""


@pytest.mark.parametrize("name", SILENT)
def test_where_a_file_is_silent_times_are_those_of_its_trainer(
    uniforms: torch.Tensor, tmp_path: Path, name: str
):
    text, law = SILENT[name]
    (tmp_path / name).write_text(text)
    train = import_recipe(tmp_path / name).recipe.train
    assert_law(train.time_density, train.time_shift, law, uniforms)


def assert_law(density: str, shift: float | str, law: Law, uniforms: torch.Tensor) -> None:
    objective = Objective(time_density=density, time_shift=None if isinstance(shift, str) else shift)
    source: Any = SimpleNamespace(config=lambda name: FLUX)
    constants = {name: value for name, value in times(source, objective).items() if name != "loss_form"}
    latent = torch.zeros(1, 1, 128, 128).expand(DRAWS, 16, 128, 128)  # of 1024 pixels; no memory is taken
    draw: Any = SimpleNamespace(uniform=lambda name, like: uniforms)
    ours = np.sort(draw_time.function(latent, draw=draw, **constants).numpy())
    theirs = np.sort(law(np.random.default_rng(0)))
    assert distance(ours, theirs) < LIMIT
    assert distance(ours, np.sort(theirs**1.2)) > LIMIT, "another law would be told apart"


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """The Kolmogorov-Smirnov statistic of two sorted samples."""
    places = np.concatenate([one, other])
    shares = [np.searchsorted(sample, places, side="right") / len(sample) for sample in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("constant", {}),
        ("constant_with_warmup", {"lr_warmup_steps": 100}),
        ("linear", {"lr_warmup_steps": 50}),
        ("cosine", {}),
        ("cosine", {"lr_warmup_steps": 100}),
        ("cosine_with_restarts", {"lr_scheduler_num_cycles": 3, "lr_warmup_steps": 40}),
        ("polynomial", {"lr_scheduler_power": 2.0}),
    ],
)
def test_the_learning_rate_is_the_same_at_20_places(tmp_path: Path, name: str, options: dict[str, Any]):
    """During the warm-up ours is a step ahead: its first step is taken at 1/warmup, theirs at 0, in vain."""
    lines = {"network_dim": 4, "max_train_steps": 1000, "lr_scheduler": name, **options}
    path = tmp_path / "kohya.toml"
    path.write_text("".join(f"{key} = {value!r}\n" for key, value in lines.items()))
    train = import_recipe(path).recipe.train
    form = ScheduleForm(train.schedule_cycles, train.schedule_power)
    ours = schedule(train.schedule, train.warmup, train.steps, form)
    warmup = options.get("lr_warmup_steps", 0)
    peer = get_scheduler(
        name,
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0),
        num_warmup_steps=warmup,
        num_training_steps=1000,
        num_cycles=options.get("lr_scheduler_num_cycles", 1),
        power=options.get("lr_scheduler_power", 1.0),
    )
    theirs = peer.lr_lambdas[0]
    assert train.steps == 1000
    for step in range(0, 1000, 50):
        expected = theirs(step + 1 if step < warmup else step)
        assert ours(step) == pytest.approx(expected, abs=1e-6), step  # the polynomial of theirs ends at 1e-7
