"""Trains ``glyph-instant``, the embedded base's predictor: from 1 to 8 pictures to a LoRA in one pass.

    python -m limner.bases.make_instant --art art.npz --minutes 75 --out build/instant

Through the frozen base, by its own flow-matching loss: references of a style go into the predictor, its LoRA
into the base, and the loss is that of other nouns in the same style. Styles are drawn by program
(``styles.py``) while it trains, in a second process, and none comes back once its batch is used up. A static
LoRA is trained first, then everything. Called again with the same ``--out``, it goes on from the newest
checkpoint; with another ``--seed`` then, on styles that the part before did not have.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from limner.bases import instant_exam, instant_experts, parts
from limner.bases.art import read_art
from limner.bases.clock import Clock
from limner.bases.judge import Judge
from limner.bases.style_sets import Batch, Batches, Drawings
from limner.files import atomic_write, write_json
from limner.hyper.predictor import FILE, Predictor, PredictorConfig
from limner.hyper.targets import Target, targets_of
from limner.models import rectified
from limner.models.registry import embedded_bases, embedded_predictors
from limner.nn.layers import per_sample
from limner.nn.loop import Average, Fit, fit
from limner.nn.serialize import pack, unpack

USE = {"lora_on": "both", "guidance": 3.0, "strength": 1.0}
"""Suits what it writes: of the settings that keep most nouns, the one with most of the style."""
ENDINGS = (
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
    *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp", "proj_out"),
    *("norm1.linear", "norm1_context.linear", "norm.linear", "norm_out.linear", "x_embedder"),
)
"""Every linear layer of the transformer's blocks, their modulations, and both ends."""
RECORD = "training.json"
"""Name of the curve's file, beside the predictor."""


@dataclass(frozen=True, kw_only=True)
class InstantConfig:
    """What a person decides about the training of a predictor."""

    minutes: float
    static_minutes: float = 1.5
    """Of them, for the static LoRA alone."""
    rate: float = 2e-3
    constant_share: float = 0.6
    """Of the time at the full rate; then it falls in a line to a twentieth."""
    styles: int = 12
    """Of a step."""
    targets: int = 4
    """Pictures to paint of each style of a step."""
    repeats: int = 2
    """Steps that a set of pictures serves, each with noise and times of its own: encoding them costs a third
    of a step."""
    shift: float = 4.0
    """Of the times: ground and palette are settled in noise."""
    watch: float = 0.1
    """Share of the time between two measurements."""
    decay: float = 0.998
    """Of the moving average of the weights, which is what ships."""
    wider: float = 0.3
    """Share of styles with a finish that the exam's styles never have, held-out kinds apart."""
    cut_share: float = 0.5
    """Of the steps: what is written is cut to its first ranks, so that a cut LoRA keeps most of the style
    (nested dropout: Rippel et al., arXiv:1402.0915)."""
    seed: int = 0


class Training:
    """Predictor, optimizer, average and clock: what a checkpoint holds.

    Args:
        predictor: What is trained.
        config: How.
        folder: Of the checkpoint.
        frozen: Experts whose LoRAs are added to what it writes.
    """

    def __init__(
        self, predictor: Predictor, config: InstantConfig, folder: Path, frozen: Sequence[Predictor] = ()
    ) -> None:
        """See the class."""
        self.predictor, self.config, self.folder, self.frozen = predictor, config, folder, frozen
        self.parameters = list(predictor.parameters())
        matrices = [weight for weight in self.parameters if weight.ndim > 1]
        rest = [weight for weight in self.parameters if weight.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}],
            config.rate,
            betas=(0.9, 0.99),
        )
        for group in self.optimizer.param_groups:
            group["initial_lr"] = config.rate
        self.average = Average(self.parameters, config.decay)
        self.step, self.seconds, self.rows = 0, 0.0, list[dict[str, Any]]()
        self.first_step = 0
        """Of what the optimizer has seen: the rate rises over the hundred steps after it."""

    @classmethod
    def start(cls, before: Path, config: InstantConfig, folder: Path) -> "Training":
        """Go on from the predictor and the record in the folder ``before``; the optimizer begins anew."""
        training = cls(Predictor.load(before).train().requires_grad_(), config, folder)
        training.predictor.config = replace(training.predictor.config, nested=config.cut_share > 0, **USE)
        record = json.loads((before / RECORD).read_text(encoding="utf-8"))
        training.step, training.seconds, training.rows = record["steps"], record["seconds"], record["rows"]
        training.first_step = training.step
        return training

    @property
    def path(self) -> Path:
        """Of the checkpoint."""
        return self.folder / "checkpoint.safetensors"

    def save(self) -> None:
        """Write a checkpoint."""
        tensors, skeleton = pack(
            {
                "weights": dict(enumerate(weight.detach() for weight in self.parameters)),
                "average": dict(enumerate(self.average.shadow)),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "seconds": self.seconds,
                "rows": self.rows,
            }
        )
        facts = {"skeleton": json.dumps(skeleton)}
        atomic_write(self.path, lambda draft: save_file(tensors, draft, facts))

    def resume(self) -> None:
        """Go on from the folder's checkpoint, if it has one."""
        if not self.path.exists():
            return
        with safe_open(self.path, "pt") as content:
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            state = unpack(tensors, json.loads(content.metadata()["skeleton"]))
        with torch.no_grad():
            for number, weight in enumerate(self.parameters):
                weight.copy_(state["weights"][number])
        self.average.start([state["average"][number] for number in range(len(self.parameters))])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.rows = state["step"], state["seconds"], state["rows"]


def rate_at(share: float, config: InstantConfig) -> float:
    """Multiplier of the learning rate when that share of the time is over."""
    late = max(0.0, (share - config.constant_share) / (1 - config.constant_share))
    return 1.0 - 0.95 * min(1.0, late)


def train(
    training: Training,
    models: Mapping[str, Any],
    batches: Dataset[Batch],
    watch: Callable[[Training], dict[str, Any]],
) -> None:
    """Train until the time is over; afterwards the predictor holds the averaged weights.

    Args:
        training: What is trained, perhaps resumed.
        models: The frozen base's parts, the transformer with :class:`PerSample` layers at the targets.
        batches: The data.
        watch: Called with ``training`` now and then while the predictor holds the average; its row goes
            into the record.
    """
    config, clock = training.config, Clock(training.config.minutes * 60)
    clock.start -= training.seconds
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(training.step // config.repeats, 10**7),
        num_workers=1,
        prefetch_factor=6,
    )
    loop = Fit(
        parameters=training.parameters,
        optimizer=training.optimizer,
        rate=lambda step: min(1.0, (step + 1 - training.first_step) / 100) * rate_at(clock.share(), config),
        clip=1.0,
        average=training.average,
    )
    losses = _losses(training, models, iter(loader), clock)
    recent, saved = [], time.monotonic()
    next_watch = config.watch * (1 + int(clock.share() / config.watch))
    for step in fit(loop, losses, start=training.step, steps=10**7):
        training.step, training.seconds = step.number, clock.seconds()
        recent.append(step.loss)
        if clock.share() >= next_watch or clock.over():
            next_watch += config.watch
            training.average.swap()
            row = {"step": step.number, "seconds": clock.seconds(), "seed": config.seed}
            row["train_loss"] = sum(recent) / len(recent)
            training.rows.append(row | watch(training))
            training.average.swap()
            recent.clear()
        if time.monotonic() - saved > 150 or clock.over():
            saved = time.monotonic()
            training.save()
        if clock.over():
            break
    training.average.swap()


def _losses(
    training: Training, models: Mapping[str, Any], batches: Iterator[Batch], clock: Clock
) -> Callable[[int], Iterator[Tensor]]:
    config, predictor = training.config, training.predictor
    number, batch = training.step // config.repeats, next(batches)

    def losses(step: int) -> Iterator[Tensor]:
        nonlocal number, batch
        if step // config.repeats != number:
            number, batch = step // config.repeats, next(batches)
        draw = torch.Generator().manual_seed(config.seed * 10**8 + step)
        times = rectified.shifted(torch.rand(len(batch.latents), generator=draw), config.shift)
        noise = torch.randn(batch.latents.shape, generator=draw)
        alone = clock.seconds() < config.static_minutes * 60
        if alone:
            pairs = predictor.static(len(batch.references))
        else:
            pairs = instant_experts.written((predictor, *training.frozen), models["vae"], batch.references)
        if torch.rand((), generator=draw) < config.cut_share:
            rank = int(torch.randint(1, predictor.config.rank, (), generator=draw))
            pairs = {name: (down[:, :rank], up[..., :rank]) for name, (down, up) in pairs.items()}
        per_sample.bind(models["transformer"], pairs)
        yield instant_exam.losses(models, batch.latents, noise, times, batch.text).mean()

    return losses


def frozen_parts(base: Path, endings: Sequence[str]) -> tuple[dict[str, Any], tuple[Target, ...]]:
    """The base's parts, ready to take LoRAs of several styles at once, and their targets."""
    models = parts.load_pipeline(base)
    for model in models.values():
        if isinstance(model, nn.Module):
            model.eval().requires_grad_(requires_grad=False)
    targets = targets_of(models["transformer"], endings)
    per_sample.attach(models["transformer"], [target.name for target in targets])
    return models, targets


def main() -> None:
    """Read the command line, train, save the predictor."""
    args = _parser().parse_args()
    torch.manual_seed(args.seed)
    expert = args.expert != "style"
    if expert and args.install:
        raise SystemExit("--install puts a Style into the package, which has no place for other experts.")
    config = _config(args)
    models, targets = frozen_parts(args.base, ENDINGS)
    facts = json.loads((args.base / "limner.json").read_text(encoding="utf-8"))
    art = read_art(args.art)
    drawings = Drawings(art, facts["concepts"], facts["resolution"])
    if expert:
        training = expert_training(args, config, models["vae"])
        sizes = instant_experts.EXPERTS[args.expert]
        batches = instant_experts.OwnBatches(drawings, models, sizes, seed=config.seed)
    else:
        start = PredictorConfig(base=facts["name"], targets=targets, nested=config.cut_share > 0)
        training = style_training(args, config, start)
        batches = Batches(
            drawings,
            models,
            styles=config.styles,
            targets=config.targets,
            seed=config.seed,
            wider=config.wider,
        )
    training.resume()
    styles = instant_exam.exam(art, drawings, models, new=3 if expert else 6, kinds=0 if expert else 1)
    judge = Judge.load()

    def watch(training: Training) -> dict[str, Any]:
        if expert:
            row = instant_experts.measure(models, (training.predictor.eval(), *training.frozen), styles)
        else:
            row = instant_exam.measure(models, training.predictor.eval(), styles, judge)
        sys.stderr.write(json.dumps({"step": training.step, "seconds": training.seconds, **row}) + "\n")
        sys.stderr.flush()
        _write(training)
        return row

    args.out.mkdir(parents=True, exist_ok=True)
    train(training, models, batches, watch)
    _write(training)
    if args.install:
        sys.stderr.write(f"Installed in {install(args.out)}\n")


def _config(args: argparse.Namespace) -> InstantConfig:
    """As the command line says; only Style has a static part to begin with, and ranks in their order."""
    config = InstantConfig(
        minutes=args.minutes,
        static_minutes=args.static_minutes,
        rate=args.rate,
        repeats=args.repeats,
        shift=args.shift,
        cut_share=args.cut_share,
        seed=args.seed,
    )
    if args.expert == "style":
        return config
    return replace(config, static_minutes=0.0, cut_share=0.0, watch=0.34)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Train the embedded base's predictor of LoRAs.")
    parser.add_argument("--art", type=Path, required=True, help="made by limner.bases.art")
    parser.add_argument("--base", type=Path, default=embedded_bases()["glyph"])
    parser.add_argument("--out", type=Path, default=Path("build/instant"))
    parser.add_argument("--expert", choices=("style", *instant_experts.EXPERTS), default="style")
    parser.add_argument("--minutes", type=float, default=75.0)
    parser.add_argument("--static-minutes", type=float, default=2.0)
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate")
    parser.add_argument("--repeats", type=int, default=2, help="steps that a batch serves")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shift", type=float, default=4.0, help="of the times of the noise")
    parser.add_argument("--cut-share", type=float, default=0.5, help="steps that see the first ranks alone")
    parser.add_argument("--start", type=Path, help="the folder of a predictor to go on from")
    parser.add_argument("--coarse", type=Path, help="for --expert fine: the frozen first expert's folder")
    parser.add_argument("--install", action="store_true", help="replace the predictor inside the package")
    return parser


def style_training(args: argparse.Namespace, config: InstantConfig, sizes: PredictorConfig) -> Training:
    """Of Style, new or from ``--start`` on."""
    if args.start:
        return Training.start(args.start, config, args.out)
    return Training(Predictor(replace(sizes, **USE)), config, args.out)


def expert_training(args: argparse.Namespace, config: InstantConfig, vae: Any) -> Training:
    """Of Coarse, which begins as Style, or of Fine beside a frozen Coarse; or of either from itself on.

    ``--start`` is the Style to begin with, that of the package if none is named, or an expert to go on from.
    """
    if args.expert == "fine" and args.coarse is None:
        raise SystemExit("--expert fine learns beside a frozen Coarse: name its folder with --coarse.")
    frozen = (Predictor.load(args.coarse),) if args.expert == "fine" else ()
    start = Predictor.load(args.start or embedded_predictors()["glyph"])
    if start.config.detail:
        return Training(start.train().requires_grad_(), config, args.out, frozen)
    sizes = instant_experts.config_of(start.config, instant_experts.EXPERTS[args.expert], vae)
    begin = instant_experts.untrained if frozen else instant_experts.grown
    return Training(begin(start, sizes), config, args.out, frozen)


def install(out: Path) -> Path:
    """Put a trained predictor and its record where the package looks for them; the model card stays."""
    folder = embedded_bases()["glyph"].with_name("glyph-instant")
    folder.mkdir(exist_ok=True)
    for name in (FILE, RECORD):
        shutil.copy2(out / name, folder / name)
    return folder


def _write(training: Training) -> None:
    record = {"steps": training.step, "seconds": training.seconds, "config": vars(training.config)}
    training.predictor.save(training.folder / FILE, record)
    write_json(training.folder / RECORD, {**record, "rows": training.rows})


if __name__ == "__main__":
    main()
