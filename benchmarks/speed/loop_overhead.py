"""What Limner's loop costs beside a bare one: same model, tensors, optimizer and clipping, in one process.

    python -m benchmarks.speed.loop_overhead [--base glyph] [--batches 1 4] [--pairs 30] [--block 4]
                                             [--threads 2]

One side is the verb ``train`` as it is: order, cached values, draws by place, losses, clipping, checks,
metrics and progress. The other is the loop that one writes by hand: pick rows, draw, forward, backward, clip,
step. The verb tells its progress after every step; there the bare loop takes its turn, so blocks of both lie
next to each other in time. Each of Limner's blocks is compared with the mean of the bare blocks around it.
Reported: the median over blocks of that ratio, of wall time and of the process's CPU time, which other
processes on the machine disturb less. Saving, sampling and the validation loss are no part of it.
"""

import argparse
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from benchmarks.outcome import save, table
from benchmarks.speed.decode import photo
from torch import Tensor, nn

from limner.assembly.resolve import Resolved, resolve
from limner.models.latents import grid, patchify, tokens
from limner.nn.layers import lora
from limner.recipe import toml
from limner.recipe.schema import Recipe
from limner.reporter import Bar, PlainText, Reporter
from limner.runs import train
from limner.training.cache import Store, fill_cache
from limner.training.model import TrainableModel

LIMIT = 0.03
"""Largest overhead, as a share of the bare loop's time."""
WARM_UP = 8
"""Steps of each side before the first measured one."""
IMAGES = 10
RATE = 1e-4


@dataclass
class Turns(Reporter):
    """Limner's progress, which lets the bare loop run between two of its steps and keeps both times."""

    bare: Callable[[], None]
    block: int
    told: Reporter = field(default_factory=lambda: Reporter(PlainText(io.StringIO())))
    spent: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: {"limner": [], "bare": []})
    """(wall, CPU) seconds of each block of a side."""
    _steps: int = 0
    _since: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        """Tell nobody."""
        super().__init__()

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Any]:
        """Take turns while training; count everything else in silence."""
        with self.told.progress(label, total) as progress_bar:
            if label != "Training":
                yield progress_bar
                return
            for _ in range(WARM_UP):
                self.bare()
            yield _Between(self, progress_bar)

    def stepped(self) -> None:
        """One of Limner's steps is over, up to its row in the metrics, which is written next."""
        self._steps += 1
        if (self._steps - WARM_UP) % self.block or self._steps < WARM_UP:
            return
        if self._steps > WARM_UP:
            self.spent["limner"].append(_since(self._since))
        start = _now()
        for _ in range(self.block):
            self.bare()
        self.spent["bare"].append(_since(start))
        self._since = _now()


@dataclass
class _Between:
    turns: Turns
    counted: Bar

    def advance(self, n: int = 1, note: str = "") -> None:
        self.counted.advance(n, note)
        self.turns.stepped()


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(start: tuple[float, float]) -> tuple[float, float]:
    wall, cpu = _now()
    return wall - start[0], cpu - start[1]


def bare_loop(resolved: Resolved, store: Store) -> Callable[[], None]:
    """One step of a loop written by hand, over the values that Limner trains on, with a model of its own."""
    trainable = TrainableModel(resolved, store)
    model: Any = trainable.models["transformer"]
    lora.dropping(model, enabled=True)
    weights = lora.trained(model)
    optimizer = torch.optim.AdamW(weights, RATE, fused=True)
    rows = [store.row(number) for number in range(len(resolved.views))]
    values = {name: torch.cat([row[name] for row in rows]).to(resolved.device) for name in rows[0]}
    batch, device = resolved.recipe.train.batch, resolved.device

    def step() -> None:
        rows_drawn = torch.randint(len(rows), (batch,), device=device)
        loss = _loss(model, {name: value[rows_drawn] for name, value in values.items()})
        loss.backward()
        nn.utils.clip_grad_norm_(weights, resolved.recipe.train.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())

    losses: list[float] = []
    return step


def _loss(model: Any, values: dict[str, Tensor]) -> Tensor:
    latent = values["latent_mean"] + (values["latent_logvar"] / 2).exp() * torch.randn_like(
        values["latent_mean"]
    )
    noise, time = torch.randn_like(latent), torch.sigmoid(torch.randn(len(latent), device=latent.device))
    time_factor = time[:, None, None, None]
    pred = model(
        hidden_states=tokens(patchify((1 - time_factor) * latent + time_factor * noise)),
        encoder_hidden_states=values["context"],
        pooled_projections=values["pooled"],
        timestep=time,
        guidance=torch.ones_like(time) if model.config.guidance_embeds else None,
        img_ids=nn.functional.pad(grid(latent.shape[-2] // 2, latent.shape[-1] // 2, latent.device), (1, 0)),
        txt_ids=torch.zeros(values["context"].shape[1], 3, device=latent.device),
        return_dict=False,
    )[0]
    return nn.functional.mse_loss(pred.float(), tokens(patchify(noise - latent)).float())


def recipe(base: str, batch: int, steps: int, work: Path) -> Recipe:
    """A run of ``steps`` steps that saves and looks only at its end."""
    text = f"""
base = {json.dumps(base)}
[data]
images = "images"
trigger = "sks"
cache = "cache"
[train]
steps = {steps}
batch = {batch}
learning_rate = {RATE}
save_every = {steps}
[sample]
every = -1
[limits]
compute_dtype = "fp32"
"""
    return toml.parse(text, work)


def measure(base: str, batch: int, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Both sides in turns at one batch size."""
    wish = recipe(base, batch, WARM_UP + options.pairs * options.block, work)
    resolved = resolve(wish)
    turns = Turns(bare_loop(resolved, fill_cache(resolved, Reporter())[0]), options.block)
    train(wish, work / f"run-{batch}", turns)
    return {"batch": batch, **summary(turns, options.block)}


def summary(turns: Turns, block: int) -> dict[str, Any]:
    """Medians over the blocks; each of Limner's stands between two of the other side's."""
    limner_times, other = turns.spent["limner"], turns.spent["bare"]
    bare_times = [
        tuple((a + b) / 2 for a, b in zip(*pair, strict=True)) for pair in zip(other, other[1:], strict=False)
    ]
    wall = [limner_time[0] / two[0] - 1 for limner_time, two in zip(limner_times, bare_times, strict=True)]
    cpu = [limner_time[1] / two[1] - 1 for limner_time, two in zip(limner_times, bare_times, strict=True)]
    return {
        "blocks": len(limner_times),
        "limner_ms": statistics.median(limner_time[0] for limner_time in limner_times) / block * 1e3,
        "bare_ms": statistics.median(limner_time[0] for limner_time in other) / block * 1e3,
        "overhead_wall": statistics.median(wall),
        "overhead_wall_quartiles": statistics.quantiles(wall, n=4)[::2],
        "overhead_cpu": statistics.median(cpu),
        "overhead_cpu_quartiles": statistics.quantiles(cpu, n=4)[::2],
    }


def shown(row: dict[str, Any]) -> list[str]:
    """A row of the table."""
    low, high = row["overhead_cpu_quartiles"]
    left, right = row["overhead_wall_quartiles"]
    return [
        f"batch {row['batch']}",
        f"{row['bare_ms']:.1f}",
        f"{row['limner_ms']:.1f}",
        f"{row['overhead_wall']:+.1%} ({left:+.1%} .. {right:+.1%})",
        f"{row['overhead_cpu']:+.1%} ({low:+.1%} .. {high:+.1%})",
    ]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="glyph", help="a registered name or a folder in diffusers layout")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--block", type=int, default=4, help="steps of one side before the other's turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="loop_overhead", help="of the JSON file in benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        (work / "images").mkdir()
        for index in range(IMAGES):
            photo(index, 256, 256).save(work / "images" / f"{index}.png")
        rows = []
        for batch in options.batches:
            print(f"batch {batch} ..", file=sys.stderr, flush=True)
            rows.append(measure(options.base, batch, options, work))
    print(
        table(["", "bare, ms", "limner, ms", "overhead, wall", "overhead, CPU time"], list(map(shown, rows)))
    )
    worst = max(row["overhead_wall"] for row in rows)
    print(f"wanted at most {LIMIT:.0%}: {'reached' if worst <= LIMIT else 'missed'}, worst {worst:+.1%}")
    print(save(options.name, {"settings": vars(options), "wanted": LIMIT, "rows": rows}))


if __name__ == "__main__":
    main()
