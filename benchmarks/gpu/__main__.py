"""``python benchmarks/gpu``: the table of cells, from this folder run as a program."""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    runpy.run_module("gpu.table", run_name="__main__")
