"""How much memory a published predictor of 16 GB takes, beside what it writes.

    python -m benchmarks.memory.instant_memory

A file with the true layout of Qwen-Image-i2L Coarse, all zeros: it is sparse and takes no room on the disk,
but every byte of it is read and multiplied. One pass over one picture, while a thread reads the process's
resident memory: anonymous (what has to fit) apart from mapped pages of the file (which the system takes back
when others need them).
"""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from benchmarks.outcome import save

from limner.hyper.published import STACKS, PublishedPredictor
from limner.hyper.targets import Target
from limner.models.bundled import known
from limner.models.loading import skeleton
from limner.models.registry import family_of

DEPTH, WIDTH, NARROW, RANK = 60, 5632, 128, 4
TOKENS, STATE_WIDTH, MIDDLE = 71, 3584, 1024
WEIGHTS = 7_927_234_560


def main() -> None:
    """Write the file, pass once, save the figures."""
    source, family = known("qwen-image"), family_of("QwenImagePipeline")
    model = skeleton(family, source, family.denoiser, dtype=torch.bfloat16)
    targets = {
        name: Target(name, layer.in_features, layer.out_features)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }
    with TemporaryDirectory() as folder:
        path = Path(folder) / "coarse.safetensors"
        size = write_zeros(path, dict(shapes(targets)))
        before, peak = resident(), dict.fromkeys(("RssAnon", "RssFile"), 0)
        over = threading.Event()
        thread = threading.Thread(target=_watch, args=(peak, over))
        thread.start()
        start = time.perf_counter()
        pairs = PublishedPredictor(path, targets).predict(
            torch.zeros(WIDTH), torch.zeros(TOKENS, STATE_WIDTH)
        )
        seconds = time.perf_counter() - start
        over.set()
        thread.join()
    written = sum(4 * side.numel() for pair in pairs.values() for side in pair)
    figures: dict[str, Any] = {
        "file_bytes": size,
        "layers": len(pairs),
        "lora_bytes_in_float32": written,
        "anonymous_bytes_before": before["RssAnon"],
        "anonymous_bytes_at_most": peak["RssAnon"],
        "anonymous_bytes_over_before_and_lora": peak["RssAnon"] - before["RssAnon"] - written,
        "mapped_bytes_at_most": peak["RssFile"],
        "seconds": round(seconds, 1),
    }
    print(json.dumps(figures, indent=1))  # noqa: T201
    save("instant_memory", figures)


def shapes(targets: dict[str, Target]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Names and shapes of the file's tensors."""
    (stack,) = STACKS["qwen-image"]
    for number in range(DEPTH * len(stack.groups)):
        stem = f"blocks.{number}"
        for place, layer in enumerate(stack.groups[number // DEPTH]):
            target = targets[f"{stack.prefix}.{number % DEPTH}.{layer}"]
            for side, rows in (("a", target.inputs), ("b", target.outputs)):
                yield f"{stem}.layers.{place}.proj_{side}.proj_in.weight", (NARROW, WIDTH)
                yield f"{stem}.layers.{place}.proj_{side}.proj_out.weight", (RANK * rows, NARROW)
        yield f"{stem}.proj_residual.proj_in.weight", (MIDDLE, STATE_WIDTH)
        yield f"{stem}.proj_residual.proj_out.weight", (NARROW, TOKENS * MIDDLE)


def write_zeros(path: Path, layout: dict[str, tuple[int, int]]) -> int:
    """A bf16 safetensors file of zeros; returns its size in bytes."""
    entries, end = {}, 0
    for name, shape in layout.items():
        begin, end = end, end + 2 * shape[0] * shape[1]
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    if end != 2 * WEIGHTS:
        raise SystemExit(f"{end // 2} weights, and the published model has {WEIGHTS}.")
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
        return file.seek(0, 2)


def resident() -> dict[str, int]:
    """Bytes of this process that are in memory: anonymous, and pages of files."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0][:-1]: 1024 * int(words[1]) for words in lines if words[0] in ("RssAnon:", "RssFile:")}


def _watch(peak: dict[str, int], over: threading.Event) -> None:
    while not over.wait(0.01):
        for name, value in resident().items():
            peak[name] = max(peak[name], value)


if __name__ == "__main__":
    main()
