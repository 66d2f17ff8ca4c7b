"""How much memory a published predictor of 16 GB and its encoders of 16 GB take, beside what is written.

    python -m benchmarks.memory.instant_memory

A file with the true layout of Qwen-Image-i2L Coarse, all zeros: it is sparse and takes no room on the disk,
but every byte of it is read and multiplied; and the two encoders of the published models, alike. One pass
over one picture through each, while a thread reads the process's resident memory: anonymous (what has to
fit) apart from mapped pages of the file (which the system takes back when others need them).
"""

import json
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from benchmarks.outcome import save
from PIL import Image

from limner.hyper import vision
from limner.hyper.published import STACKS, PublishedPredictor
from limner.hyper.targets import Target
from limner.models.bundled import known
from limner.models.loading import skeleton
from limner.models.registry import family_of
from limner.prediction import PUBLISHED_ENCODERS

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
        figures = predictor_figures(Path(folder) / "coarse.safetensors", targets)
        figures["encoders"] = {name: encoder_figures(name, Path(folder)) for name in PUBLISHED_ENCODERS}
    print(json.dumps(figures, indent=1))  # noqa: T201
    save("instant_memory", figures)


def predictor_figures(path: Path, targets: dict[str, Target]) -> dict[str, Any]:
    """Write the file and pass once."""
    layout = dict(shapes(targets))
    size = write_zeros(path, layout)
    if sum(math.prod(shape) for shape in layout.values()) != WEIGHTS:
        raise SystemExit(f"The file has not the {WEIGHTS} weights of the published model.")
    with watched() as figures:
        pairs = PublishedPredictor(path, targets).predict(
            torch.zeros(WIDTH), torch.zeros(TOKENS, STATE_WIDTH)
        )
    byte_count = sum(4 * side.numel() for pair in pairs.values() for side in pair)
    figures["anonymous_bytes_over_before_and_lora"] = (
        figures["anonymous_bytes_at_most"] - figures["anonymous_bytes_before"] - byte_count
    )
    return {"file_bytes": size, "layers": len(pairs), "lora_bytes_in_float32": byte_count} | figures


def encoder_figures(name: str, folder: Path) -> dict[str, Any]:
    """Write an encoder's folder and look at one picture through it."""
    model = vision.skeleton(name)
    (folder / name).mkdir()
    model.config.save_pretrained(folder / name)
    layout = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    size = write_zeros(folder / name / "model.safetensors", layout)
    Image.new("RGB", (512, 512), "navy").save(folder / "picture.png")
    images = vision.ReferenceImages([folder / "picture.png"], str(folder))
    with watched() as figures:
        vector = images.vectors([name])[name]
    return {"file_bytes": size, "numbers": vector.shape[1]} | figures


@contextmanager
def watched() -> Iterator[dict[str, Any]]:
    """Figures of a block, filled when it ends: resident bytes before and at most, and seconds."""
    figures: dict[str, Any] = {"anonymous_bytes_before": resident()["RssAnon"]}
    peak, over = dict.fromkeys(("RssAnon", "RssFile"), 0), threading.Event()
    thread = threading.Thread(target=_watch, args=(peak, over))
    thread.start()
    start = time.perf_counter()
    yield figures
    figures["seconds"] = round(time.perf_counter() - start, 1)
    over.set()
    thread.join()
    figures["anonymous_bytes_at_most"] = peak["RssAnon"]
    figures["mapped_bytes_at_most"] = peak["RssFile"]


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


def write_zeros(path: Path, layout: Mapping[str, tuple[int, ...]]) -> int:
    """A bf16 safetensors file of zeros; returns its size in bytes."""
    entries, end = {}, 0
    for name, shape in layout.items():
        begin, end = end, end + 2 * math.prod(shape)
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
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
