"""How soon a training can start: CPU seconds of processes that import what it needs, and of one that trains.

``python -m benchmarks.speed.floor``

Four programs, in turns, after one unmeasured turn each: one that imports torch; one that takes a step of
torch's AdamW as well, which imports torch's compiler (``torch._dynamo``, with ``torch.distributed.fsdp`` and
sympy); one that imports the classes of FLUX.1 from diffusers and transformers, which bring that compiler and
peft; and ``limner train`` of one step on the embedded base, from an empty cache to the report. None of them
looks for garbage while it imports, as Limner does not. CPU seconds stand still while other programs have the
cores, so that they say more on a shared machine than those of a clock.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.outcome import save, table
from benchmarks.watched import as_installed

from limner.bases.demo_sets import folder

LIBRARIES = {
    "import torch": "import torch",
    "and a step of torch's AdamW": (
        "import torch\n"
        "weight = torch.nn.Parameter(torch.zeros(1))\n"
        "weight.grad = torch.zeros(1)\n"
        "torch.optim.AdamW([weight]).step()"
    ),
    "import the models of FLUX.1": (
        "from diffusers import AutoencoderKL, FluxTransformer2DModel\n"
        "from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast"
    ),
}
TRAINING = "limner train, one step"


def commands(work: Path) -> dict[str, list[str]]:
    """The programs by name."""
    imports = {
        name: [sys.executable, "-c", f"import gc\ngc.disable()\n{code}"] for name, code in LIBRARIES.items()
    }
    keys = [
        "--trigger",
        "zorbix",
        "--steps",
        "1",
        "--sample-every",
        "-1",
        "--set",
        f"data.cache={work / 'cache'}",
    ]
    training = [
        sys.executable,
        "-m",
        "limner",
        "train",
        str(folder("mascot")),
        *keys,
        "--out",
        str(work / "run"),
    ]
    return {**imports, TRAINING: training}


def cpu_seconds(command: list[str]) -> float:
    """Of a process that runs to its end, user and system.

    Raises:
        RuntimeError: It fails.
    """
    environment = {**as_installed(), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} .. ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def measure(rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each program, one a round."""
    seconds: dict[str, list[float]] = {name: [] for name in (*LIBRARIES, TRAINING)}
    for turn in range(rounds + 1):
        with tempfile.TemporaryDirectory() as work:
            for name, command in commands(Path(work)).items():
                duration = cpu_seconds(command)
                seconds[name] += [duration] if turn else []
    return seconds


def main() -> None:
    """Measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    seconds = measure(parser.parse_args().rounds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [[name, f"{medians[name]:.2f}", f"{min(values):.2f}"] for name, values in seconds.items()]
    print(table(["CPU seconds", "median", "least"], rows))
    print(save("floor", {"medians": medians, "rounds": seconds}))


if __name__ == "__main__":
    main()
