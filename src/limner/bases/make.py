"""Makes the embedded base from the art file by one command: autoencoder, denoiser, judge, into the package.

    python -m limner.bases.make --art art.npz --size gpu --device cuda --install

Sizes and minutes are those of ``parts.SIZES``; each step is a program of its own and can be run alone.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from limner.models.registry import embedded_bases

MINUTES = {"cpu": {"vae": 38, "denoiser": 72, "judge": 22}, "gpu": {"vae": 6, "denoiser": 9, "judge": 2}}
"""Of each step, by size: what the first part of the shipped base had, and what a large GPU needs."""


def step(module: str, *arguments: str) -> None:
    """Run one program of this room, and stop when it fails."""
    subprocess.run([sys.executable, "-m", f"limner.bases.{module}", *arguments], check=True)


def install(pipeline: Path, judge: Path) -> Path:
    """Put a made pipeline and its judge where the package looks for them; the demo's pictures stay."""
    folder = embedded_bases()["glyph"]
    for part in pipeline.iterdir():
        target = folder / part.name
        if target.is_dir():
            shutil.rmtree(target)
        (shutil.copytree if part.is_dir() else shutil.copy2)(part, target)
    shutil.rmtree(folder / "judge", ignore_errors=True)
    shutil.copytree(judge, folder / "judge")
    return folder


def main() -> None:
    """Read the command line and walk the steps."""
    parser = argparse.ArgumentParser(description="Make the embedded base from the art file.")
    parser.add_argument("--art", type=Path, required=True, help="made by limner.bases.art")
    parser.add_argument("--size", choices=MINUTES, default="gpu")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("build/base"))
    parser.add_argument("--batch", type=int, help="of the denoiser; the size's own when left out")
    parser.add_argument("--install", action="store_true", help="replace the base inside the package")
    args = parser.parse_args()
    minutes = MINUTES[args.size]
    shared = ["--art", str(args.art), "--size", args.size, "--device", args.device]
    small = args.size == "cpu"
    plain = ["--no-compile"] if args.device == "cpu" else []
    vae, glyph, judge = (args.out / name for name in ("vae", "glyph", "judge"))
    pace = ["--batch", "16", "--rate", "2e-3", "--decay", "0.998"] if small else []
    step("train_vae", *shared, *plain, *pace, "--minutes", str(minutes["vae"]), "--out", str(vae))
    batch = str(args.batch or (64 if small else 512))
    pace = ["--decay", "0.998", "--variants", "64"] if small else []
    pace += ["--batch", batch, "--vae", str(vae), "--minutes", str(minutes["denoiser"])]
    step("train_denoiser", *shared, *pace, "--out", str(glyph))
    pace = ["--batch", "48", "--exam", "384"] if small else []
    pace += ["--vae", str(vae)]
    step("judge", *shared, *plain, *pace, "--minutes", str(minutes["judge"]), "--out", str(judge))
    if args.install:
        sys.stderr.write(f"Installed in {install(glyph, judge)}\n")


if __name__ == "__main__":
    main()
