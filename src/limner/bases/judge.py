"""The judge of the embedded base: what is in a picture, in which style, and whether it is the mascot.

    python -m limner.bases.judge --art art.npz --vae out/vae --minutes 2 --device cuda --out out/judge

One small residual network with three heads. It is trained on real art only, all six styles in every look,
roughened (blur, noise, blocks, lost detail, and what the base's autoencoder leaves of them) so that it is
fair on pictures that a model made. It learns to
tell all nouns of the art apart, so that it learns what is common to the hands, and keeps those of the base.
One in ten (concept, style) pairs is kept from it, so that its own figures are those of drawings it never saw.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from limner.bases.art import nouns, read_art
from limner.bases.clock import Clock
from limner.bases.lessons import SKIP, STYLE_NAMES, Lesson, School, lessons
from limner.bases.parts import SIZES
from limner.errors import BadBase
from limner.files import atomic_write, write_json
from limner.nn.histogram import FEATURES, hand
from limner.nn.loop import Average, Fit, fit

WIDTHS = ((32, 1), (64, 2), (128, 2), (192, 1))


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, normalised before."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, channels_in), nn.GroupNorm(8, channels_out)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        identity = channels_in == channels_out and stride == 1
        self.short: nn.Module = (
            nn.Identity() if identity else nn.Conv2d(channels_in, channels_out, 1, bias=False)
        )
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, S, S) -> (B, outside, S / stride, S / stride)."""
        y = F.silu(self.norm1(x))
        y = self.conv2(F.silu(self.norm2(self.conv1(y))))
        return y + self.short(F.avg_pool2d(x, 2) if self.stride == 2 else x)


class Net(nn.Module):
    """A trunk of about a million parameters and three heads.

    The trunk answers for the noun and the mascot; the style head reads palette and edges alone (``hand``).
    """

    def __init__(self, concepts: int, styles: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTHS[0][0], 5, 2, 2)
        stages, width = [], WIDTHS[0][0]
        for number, (wide, count) in enumerate(WIDTHS):
            blocks = []
            for turn in range(count):
                blocks.append(ResidualBlock(width, wide, 2 if number and not turn else 1))
                width = wide
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.norm = nn.GroupNorm(8, width)
        self.dropout = nn.Dropout(0.3)
        self.concept = nn.Linear(2 * width, concepts)
        self.style = nn.Sequential(
            nn.LayerNorm(FEATURES),
            nn.Linear(FEATURES, 192),
            nn.SiLU(),
            nn.Dropout(0.3),
            nn.Linear(192, styles),
        )
        self.subject = nn.Linear(2 * width, 1)

    def trunk(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) in [0, 1] -> (B, 2 width): mean and largest value of each channel."""
        x = self.stem((images - 0.5) * 4)
        for stage in self.stages:
            x = stage(x)
        x = F.silu(self.norm(x))
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, S, S) in [0, 1] -> logits (B, concepts), (B, styles), (B,)."""
        features = self.dropout(self.trunk(images))
        return self.concept(features), self.style(hand(images)), self.subject(features)[:, 0]

    def go_on(self, trained: "Net") -> None:
        """Start from a trained net; nouns and styles that it does not know are learned anew."""
        state, source_state = self.state_dict(), trained.state_dict()
        for name, weight in state.items():
            weight[: len(source_state[name])] = source_state[name].to(weight)
        self.load_state_dict(state)

    def keep(self, concepts: int) -> None:
        """Forget all but the first nouns: the likeliest answer is among them from now on."""
        self.concept.weight = nn.Parameter(self.concept.weight.detach()[:concepts].clone())
        self.concept.bias = nn.Parameter(self.concept.bias.detach()[:concepts].clone())


def loss_of(net: Any, lesson: Lesson, *, subject: bool) -> Tensor:
    """Cross-entropies of the heads; nothing is asked of the subject head when there is no mascot."""
    concept, style, mascot = net(lesson.images)
    loss = F.cross_entropy(concept.float(), lesson.concept, ignore_index=SKIP, label_smoothing=0.1)
    loss = loss + F.cross_entropy(style.float(), lesson.style, ignore_index=SKIP, label_smoothing=0.05)
    if subject:
        loss = loss + 0.5 * F.binary_cross_entropy_with_logits(mascot.float(), lesson.subject)
    return loss


@torch.no_grad()
def examine(net: Any, lesson: Lesson, concepts: int) -> dict[str, float]:
    """Shares of right answers; ``concept`` among the first ``concepts`` nouns, ``subject_*`` for both."""
    net.eval()
    # .forward, so that a compiled network is not compiled once more for these shapes
    answers = [net.forward(batch) for batch in lesson.images.split(256)]
    net.train()
    concept, style, mascot = (torch.cat(weight).float() for weight in zip(*answers, strict=True))
    right = (concept[:, :concepts].argmax(1) == lesson.concept).float()
    has_concept = (lesson.concept >= 0) & (lesson.concept < concepts)
    has_style = lesson.style >= 0
    has_mascot = lesson.subject > 0.5
    has_answer = (mascot > 0).float()
    return {
        "concept": float(right[has_concept].mean()),
        "style": float((style.argmax(1) == lesson.style)[has_style].float().mean()),
        **({"subject_found": float(has_answer[has_mascot].mean())} if bool(has_mascot.any()) else {}),
        "subject_false": float(has_answer[~has_mascot].mean()),
    }


@dataclass(frozen=True)
class JudgeConfig:
    """Minutes, pictures per step, peak learning rate, nouns to be asked, bf16 or fp32."""

    minutes: float
    batch: int
    rate: float
    concepts: int
    device: torch.device
    precision: torch.dtype = torch.bfloat16


def train(net: Net, school: School, exams: dict[str, Lesson], config: JudgeConfig) -> list[dict[str, Any]]:
    """Train in place until the clock is over; ``net`` ends with its averaged weights."""
    parameters = list(net.parameters())
    fused = config.device.type == "cuda"
    optimizer = torch.optim.AdamW(parameters, config.rate, betas=(0.9, 0.99), weight_decay=0.05, fused=fused)
    for group in optimizer.param_groups:
        group["initial_lr"] = config.rate
    average = Average(parameters, 0.998)
    subject = school.mascots is not None

    def losses(step: int) -> Iterator[Tensor]:
        lesson = school.lesson(step)
        with torch.autocast(config.device.type, torch.bfloat16, enabled=config.precision == torch.bfloat16):
            loss = loss_of(net, lesson, subject=subject)
        yield loss

    for warm in losses(0):
        warm.backward()  # compiles, before the clock starts
        optimizer.zero_grad(set_to_none=True)
    clock = Clock(config.minutes * 60)
    loop = Fit(
        parameters=parameters,
        optimizer=optimizer,
        rate=lambda step: min(1.0, (step + 1) / 100) * clock.cosine(0.2),
        clip=1.0,
        average=average,
    )
    rows: list[dict[str, Any]] = []
    next_share = 0.2
    school._lessons.clear()
    for step in fit(loop, losses, start=0, steps=10**9):
        if clock.share() < next_share and not clock.over():
            continue
        next_share += 0.2
        average.swap()
        figures = {name: examine(net, exam, config.concepts) for name, exam in exams.items()}
        average.swap()
        rows.append({"step": step.number, "seconds": clock.seconds(), "loss": step.loss, **figures})
        sys.stderr.write(json.dumps(rows[-1]) + "\n")
        if clock.over():
            break
    average.swap()
    return rows


class Judge:
    """Answers about pictures. Images are (N, side, side, 3) uint8, of the side that it was trained at."""

    def __init__(
        self, net: Net, concept_names: Sequence[str], style_names: Sequence[str], *, side: int, sure: bool
    ) -> None:
        """``sure`` says that the subject head was trained."""
        self.net = net.eval()
        self.concept_names, self.style_names = tuple(concept_names), tuple(style_names)
        self.side, self.sure = side, sure

    @classmethod
    def load(cls, folder: Path | None = None, device: str = "cpu") -> "Judge":
        """Read a saved judge; by default the one beside the embedded base.

        Raises:
            BadBase: The folder holds no judge.
        """
        folder = Path(str(resources.files("limner.bases"))) / "glyph" / "judge" if folder is None else folder
        try:
            facts = json.loads((folder / "judge.json").read_text(encoding="utf-8"))
            weights = load_file(folder / "judge.safetensors")
            net = Net(len(facts["concepts"]), len(facts["styles"]))
            net.load_state_dict({name: weight.float() for name, weight in weights.items()})
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise BadBase(
                f"{folder} holds no judge ({error}). Make one: python -m limner.bases.judge --help."
            ) from error
        return cls(
            net.to(device), facts["concepts"], facts["styles"], side=facts["side"], sure=facts["subject"]
        )

    def save(self, folder: Path, record: dict[str, Any]) -> None:
        """Write bf16 weights, names of the classes, and the ``record`` of the training."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            name: weight.detach().to("cpu", torch.bfloat16).contiguous()
            for name, weight in self.net.state_dict().items()
        }
        atomic_write(folder / "judge.safetensors", lambda draft: save_file(weights, draft))
        facts = {
            "concepts": self.concept_names,
            "styles": self.style_names,
            "side": self.side,
            "subject": self.sure,
        }
        write_json(folder / "judge.json", {**facts, **record})

    def _answers(self, images: np.ndarray, head: int) -> Tensor:
        return self._computed(images, lambda batch: self.net(batch)[head])

    @torch.no_grad()
    def _computed(self, images: np.ndarray, compute: Callable[[Tensor], Tensor]) -> Tensor:
        if images.ndim != 4 or images.shape[1:] != (self.side, self.side, 3) or images.dtype != np.uint8:
            raise BadBase(
                f"The judge got {images.dtype} {images.shape}, reads (N, {self.side}, {self.side}, 3) uint8. "
                "Resize them."
            )
        device = self.net.concept.weight.device
        tensor_images = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
        return torch.cat([compute(batch.float() / 255) for batch in tensor_images.split(256)])

    def features(self, images: np.ndarray, *, of_style: bool) -> np.ndarray:
        """What pictures are like, (N, 192) or (N, 384) float32 of length 1.

        Args:
            images: See the class.
            of_style: By the hand, as the style head reads palette and edges; else by what is drawn, as the
                trunk sees it.
        """

        def style(batch: Tensor) -> Tensor:
            return self.net.style[1](self.net.style[0](hand(batch)))

        return F.normalize(self._computed(images, style if of_style else self.net.trunk), dim=1).cpu().numpy()

    def concepts(self, images: np.ndarray) -> np.ndarray:
        """(N, C) probabilities of ``concept_names``."""
        return self._answers(images, 0).softmax(1).cpu().numpy()

    def styles(self, images: np.ndarray) -> np.ndarray:
        """(N, S) probabilities of ``style_names``."""
        return self._answers(images, 1).softmax(1).cpu().numpy()

    def subject(self, images: np.ndarray) -> np.ndarray:
        """(N,) probabilities that the mascot is shown.

        Raises:
            BadBase: The judge was trained without the mascot.
        """
        if not self.sure:
            raise BadBase(
                "This judge never saw the mascot. Train it where limner.bases.mascot can be imported."
            )
        return self._answers(images, 2).sigmoid().cpu().numpy()


def stack(images: Sequence[Image.Image], side: int) -> np.ndarray:
    """(N, side, side, 3) uint8, as the judge reads them."""
    thumbnails = [image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS) for image in images]
    return np.stack([np.asarray(image) for image in thumbnails])


def style_scores(judge: Judge, images: np.ndarray, nouns: Sequence[str], style: str) -> dict[str, float]:
    """Shares of images (N) told as ``style``, and told as their nouns (N), by the likeliest answer."""
    if style not in judge.style_names or not set(nouns) <= set(judge.concept_names):
        unknown = sorted({style} - set(judge.style_names) | set(nouns) - set(judge.concept_names))
        raise BadBase(f"The judge does not know {', '.join(unknown[:5])}. Ask for names in its judge.json.")
    if not len(images) == len(nouns) > 0:
        raise BadBase(f"{len(images)} images and {len(nouns)} nouns: give one noun for each image.")
    style_hits = judge.styles(images).argmax(1) == judge.style_names.index(style)
    noun_numbers = np.array([judge.concept_names.index(noun) for noun in nouns])
    return {
        "style": float(style_hits.mean()),
        "concept": float((judge.concepts(images).argmax(1) == noun_numbers).mean()),
    }


def subject_score(judge: Judge, images: np.ndarray) -> float:
    """Share of images that show the mascot."""
    return float((judge.subject(images) > 0.5).mean())


def main() -> None:
    """Train, examine, save."""
    parser = argparse.ArgumentParser(description="Train the judge of the embedded base.")
    parser.add_argument("--art", type=Path, required=True)
    parser.add_argument("--vae", type=Path, required=True, help="folder of the base's autoencoder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="folder of a judge to go on from")
    parser.add_argument("--size", choices=SIZES, default="gpu")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--exam", type=int, default=2048, help="pictures per exam")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--fp32", action="store_true", help="for CPUs without bf16 instructions")
    parser.add_argument("--no-compile", dest="compiled", action="store_false")
    args = parser.parse_args()
    torch.manual_seed(0)
    size, device = SIZES[args.size], torch.device(args.device)
    precision = torch.float32 if args.fp32 else torch.bfloat16
    config = JudgeConfig(args.minutes, args.batch, args.rate, size.concepts, device, precision)
    vae: Any = AutoencoderKL.from_pretrained(args.vae).eval()
    school, exams = lessons(
        read_art(args.art),
        size.concepts,
        batch=config.batch,
        side=size.side,
        device=device,
        exam=args.exam,
        vae=vae.to(device),
    )
    names = list(nouns())
    net = Net(len(names), len(STYLE_NAMES))
    if args.init:
        net.go_on(Judge.load(args.init).net)
    net = net.to(device)
    if args.compiled:
        net.compile(dynamic=False)
    rows = train(net, school, exams, config)
    name = torch.cuda.get_device_name() if config.device.type == "cuda" else "cpu"
    net.keep(size.concepts)
    judge = Judge(net, names[: size.concepts], STYLE_NAMES, side=size.side, sure=school.mascots is not None)
    judge.save(args.out, {"device": name, "batch": config.batch, "rows": rows, "figures": rows[-1]})


if __name__ == "__main__":
    main()
