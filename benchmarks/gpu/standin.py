"""Runs a program of another project unchanged, with a clock on its optimizer and a cap on its memory.

``python -m gpu.standin PROGRAM [ARGUMENTS]``. What is added is two hooks, none of which the program sees:
torch's own after each optimizer step (``gpu.clock``) and torchvision's stand-in where torchvision is missing.
"""

import runpy
import sys
from pathlib import Path

import torchvision_standin
from gpu.clock import from_environment


def main() -> None:
    """Run the program that the arguments name."""
    clock = from_environment()
    torchvision_standin.install()
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")
    clock.write()  # it ended by itself: fewer steps than were asked for


if __name__ == "__main__":
    main()
