"""Limner against diffusers' own FLUX LoRA example, run unmodified: start, speed, memory, what was learned.

``python -m benchmarks.speed.diffusers_flux --script PATH --base FOLDER --images FOLDER``

``--script`` is ``examples/dreambooth/train_dreambooth_lora_flux.py`` of the diffusers repository, which is
not part of this one. ``--base`` is a FLUX.1 pipeline in diffusers layout, ``--images`` a folder of images,
each with a caption beside it (.txt). Every fifth image is kept for the validation loss. Both sides train on
the same files with the same rank, targets, batch, steps, rate and noise levels, as whole processes, in
turns (ABAB..), after one unmeasured turn each. Limner's cache starts empty in every turn. Each round has a
seed of its own, the same for both sides, and the validation loss is the mean over the rounds: one seed's luck
is as large as what is compared. Two cases: one prompt for all images, and a caption per image (the example
then reads its folder with ``datasets``: ``pip install -e .[bench]``). Beside them, in every round, a process
that does nothing but import the models that both need: neither can start sooner. Compiled modules are kept
from turn to turn, as where both are installed, whatever PYTHONDONTWRITEBYTECODE says.
"""

import argparse
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.outcome import medians, save, table
from benchmarks.watched import Watch, as_installed, metrics_file, progress_bar, run

FOLDER = Path(__file__).resolve().parents[1]
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
TARGETS = [
    f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj")
]
TARGETS += ["attn.to_add_out", "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"]
"""What the example trains unless told otherwise; Limner is told to train the same."""
LIMITS = {"first_step": 0.70, "step": 1.0, "wall": 0.75, "peak_bytes": 1.0, "held_out": 1.0}
"""Limner's figure as a share of the example's: the bars of this benchmark."""
IMPORTS = """
import gc

gc.disable()
from diffusers import AutoencoderKL, FluxTransformer2DModel
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast
"""
LABELS = {
    "first_step": ("command to first step, s", 1.0, 2),
    "step": ("seconds per step", 1.0, 4),
    "wall": ("whole time, s", 1.0, 2),
    "peak_bytes": ("peak memory, MB", 1e-6, 0),
    "held_out": ("validation loss", 1.0, 4),
}


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--script", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--resolution", type=int, help="unset: what the base was made for, else 512")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--prompt", default="a picture", help="the one prompt of the first case")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--cases", nargs="+", choices=["one prompt", "captions"], default=["one prompt", "captions"]
    )
    parser.add_argument(
        "--sides", nargs="+", choices=["limner", "diffusers"], default=["limner", "diffusers"]
    )
    parser.add_argument(
        "--peer-arguments", nargs="*", default=[], metavar="NAME=VALUE", help="without the dashes"
    )
    parser.add_argument("--name", default="diffusers_flux", help="of the JSON file in benchmarks/results")
    parser.add_argument("--keep", type=Path, help="keep all folders and logs of the runs here")
    args = parser.parse_args()
    if not args.script.is_file():
        parser.error(
            f"{args.script} is not a file; fetch examples/dreambooth/{args.script.name} of diffusers"
        )
    if "captions" in args.cases and "diffusers" in args.sides and find_spec("datasets") is None:
        parser.error("the example needs `datasets` for a caption per image: pip install -e .[bench]")
    args.resolution = args.resolution or facts_of(args.base)["resolution"]
    return args


def captioned(folder: Path) -> list[tuple[Path, str]]:
    """The images of a folder, sorted, each with the text beside it."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    return [(path, path.with_suffix(".txt").read_text(encoding="utf-8").strip()) for path in paths]


def lay(folder: Path, images: Sequence[tuple[Path, str]], *, with_captions: bool) -> Path:
    """Copy images to a folder; ``written`` adds captions in the imagefolder layout, which both read."""
    folder.mkdir(parents=True)
    for path, _ in images:
        shutil.copy(path, folder)
    if with_captions:
        rows = [json.dumps({"file_name": path.name, "text": text}) for path, text in images]
        (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def facts_of(base: Path) -> dict[str, Any]:
    """What a base says of itself, and Limner goes by: text length, resolution, shift of noise levels."""
    facts_file = base / "limner.json"
    facts = json.loads(facts_file.read_text(encoding="utf-8")) if facts_file.exists() else {}
    takes_guidance = json.loads((base / "transformer" / "config.json").read_text())["guidance_embeds"]
    levels = json.loads((base / "scheduler" / "scheduler_config.json").read_text())
    return {
        "text_length": facts.get("text_length", 512 if takes_guidance else 256),
        "resolution": facts.get("resolution", 512),
        "shift": 1.0 if levels.get("use_dynamic_shifting") else float(levels.get("shift", 1.0)),
    }


def peer_command(args: argparse.Namespace, case: str, images: Path, out: Path, seed: int) -> list[str]:
    """The example with everything that both sides share said outright."""
    options: dict[str, Any] = {
        "pretrained_model_name_or_path": args.base,
        "instance_prompt": args.prompt,
        "output_dir": out,
        "cache_dir": out.parent / "downloads",
        "resolution": args.resolution,
        "train_batch_size": args.batch,
        "max_train_steps": args.steps,
        "rank": args.rank,
        "lora_alpha": args.rank,
        "learning_rate": args.learning_rate,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "guidance_scale": 1,
        "max_sequence_length": facts_of(args.base)["text_length"],
        "seed": seed,
        "mixed_precision": {"fp32": "no", "bf16": "bf16"}[args.precision],
    }
    if case == "captions":
        options |= {"dataset_name": images, "image_column": "image", "caption_column": "text"}
    else:
        options["instance_data_dir"] = images
    words = [f"--{name}={value}" for name, value in options.items()]
    extra = [f"--{text}" for text in args.peer_arguments]
    return [
        sys.executable,
        str(FOLDER / "torchvision_standin.py"),
        str(args.script),
        *words,
        "--center_crop",
        *extra,
    ]


def limner_command(args: argparse.Namespace, case: str, images: Path, out: Path, seed: int) -> list[str]:
    """A recipe that says the same, and the command that runs it."""
    caption = "" if case == "captions" else f"default_caption = {json.dumps(args.prompt)}"
    text = f"""
base = {json.dumps(str(args.base.resolve()))}
seed = {seed}
[data]
images = {json.dumps(str(images))}
cache = {json.dumps(str(out.parent / "cache"))}
resolution = {args.resolution}
min_side = 1
validation_count = 0
{caption}
[lora]
rank = {args.rank}
targets = {json.dumps(TARGETS)}
[train]
steps = {args.steps}
batch = {args.batch}
learning_rate = {args.learning_rate}
time_density = "uniform"
time_shift = {facts_of(args.base)["shift"]}
[sample]
every = -1
[limits]
compute_dtype = "{args.precision}"
"""
    recipe = out.parent / "recipe.toml"
    recipe.write_text(text, encoding="utf-8")
    return [str(Path(sys.executable).with_name("limner")), "train", str(recipe), "--out", str(out)]


def turn(args: argparse.Namespace, side: str, case: str, images: Path, work: Path) -> tuple[Watch, Path]:
    """One whole run of one side in ``work`` (``side-round``): what was seen, and its LoRA file."""
    seed = args.seed + int(work.name.rpartition("-")[2])
    work.mkdir(parents=True)
    log, out = work / "log.txt", work / "out"
    offline = {"HF_HUB_OFFLINE": "1"}
    if side == "limner":
        eye = metrics_file(out / "metrics.jsonl", log)
        return run(
            limner_command(args, case, images, out, seed), eye, log=log, environment=offline
        ), out / "lora.safetensors"
    eye = progress_bar(log, "Steps:")
    run_watch = run(peer_command(args, case, images, out, seed), eye, log=log, environment=offline)
    return run_watch, out / "pytorch_lora_weights.safetensors"


def importing() -> float:
    """Seconds of a process that imports the models of FLUX.1 and ends."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True, capture_output=True, env=as_installed())
    return time.monotonic() - start


def measure(args: argparse.Namespace, case: str, work: Path) -> dict[str, Any]:
    """All turns of one case: rows and medians by side, and the mean of the losses of their files."""
    images = captioned(args.images)
    held_out, run_watch = images[4::5], [pair for i, pair in enumerate(images) if i % 5 != 4]
    with_captions = case == "captions"
    folder = lay(work / "images", run_watch, with_captions=with_captions)
    held_out_folder = lay(
        work / "held_out",
        [(p, text if with_captions else args.prompt) for p, text in held_out],
        with_captions=True,
    )
    rows: dict[str, list[dict[str, float]]] = {side: [] for side in args.sides}
    files: dict[str, list[Path]] = {side: [] for side in args.sides}
    imports: list[float] = []
    for round_ in range(args.rounds + 1):
        for side in args.sides:
            watch, file = turn(args, side, case, folder, work / f"{side}-{round_}")
            note = "warm-up" if round_ == 0 else f"round {round_}"
            print(f"{case}, {note}, {side}: {watch.wall:.1f} s", file=sys.stderr, flush=True)
            if round_:
                rows[side].append(watch.columns())
                files[side].append(file)
        imports += [importing()] if round_ else []
    length = facts_of(args.base)["text_length"]
    out = work / "loss.json"
    command = [
        sys.executable,
        FOLDER / "quality" / "held_out.py",
        "--base",
        args.base,
        "--images",
        held_out_folder,
        "--out",
        out,
    ]
    command += ["--resolution", args.resolution, "--text-length", length]
    command += [file for side in args.sides for file in files[side]]
    subprocess.run([str(part) for part in command], check=True)
    base, *after = json.loads(out.read_text())
    for row, seen_after in zip((row for side in args.sides for row in rows[side]), after, strict=True):
        row |= {"held_out": seen_after["loss"], "parameters": seen_after["parameters"]}
    middle = {side: medians(rows[side]) for side in args.sides}
    for side in args.sides:
        middle[side]["held_out"] = statistics.mean(row["held_out"] for row in rows[side])
    sizes = {"images": len(run_watch), "held_out_images": len(held_out), "base_loss": base["loss"]}
    alone = statistics.median(imports)
    return {"case": case, **sizes, "medians": middle, "imports_alone": alone, "rows": rows}


def shown(result: dict[str, Any]) -> list[list[str]]:
    """The table's rows of one case."""
    lines = []
    for key, (label, scale, digits) in LABELS.items():
        values = {side: figures[key] for side, figures in result["medians"].items()}
        ratio = values["limner"] / values["diffusers"] if len(values) == 2 else None
        cells = [
            f"{values[side] * scale:.{digits}f}" if side in values else "-"
            for side in ("limner", "diffusers")
        ]
        lines.append(
            [f"{result['case']}: {label}", *cells, f"{ratio:.2f}" if ratio else "-", f"{LIMITS[key]:.2f}"]
        )
    return lines


def main() -> None:
    """Measure, print the table and write the JSON."""
    args = arguments()
    work = args.keep or Path(tempfile.mkdtemp())
    results = [measure(args, case, work / case.replace(" ", "-")) for case in args.cases]
    if args.keep is None:
        shutil.rmtree(work)
    rows = [row for result in results for row in shown(result)]
    print(table(["", "limner", "diffusers", "ratio", "wanted at most"], rows))
    for result in results:
        counts = {side: int(figures["parameters"]) for side, figures in result["medians"].items()}
        print(f"{result['case']}: importing the models alone takes {result['imports_alone']:.2f} s")
        print(f"{result['case']}: base's loss {result['base_loss']:.4f}; trained parameters {counts}")
    keys = ("resolution", "steps", "batch", "rank", "learning_rate", "precision", "rounds", "peer_arguments")
    facts = {
        "script": {
            "name": args.script.name,
            "sha256": hashlib.sha256(args.script.read_bytes()).hexdigest(),
        },
        "settings": {key: vars(args)[key] for key in keys},
        "spread": {
            result["case"]: {
                side: statistics.pstdev(r["wall"] for r in rows) for side, rows in result["rows"].items()
            }
            for result in results
        },
        "cases": results,
    }
    print(save(args.name, facts))


if __name__ == "__main__":
    main()
