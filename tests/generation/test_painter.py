import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from limner.generation.painter import Painter
from limner.generation.settings import Settings
from limner.lora import file
from limner.lora.factors import Factors
from small import generated


def lora(path: Path, base: Path, seed: int) -> Path:
    """A strong LoRA of one layer of the tiny base."""
    draw = np.random.default_rng(seed)
    factors = Factors(
        torch.from_numpy(draw.normal(size=(2, 32)).astype("float32")),
        torch.from_numpy(draw.normal(size=(32, 2)).astype("float32")),
    )
    names = {"transformer_blocks.0.attn.to_q": factors}
    file.write(path, {"transformer": names}, {"ss_sd_model_name": str(base)})
    return path


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_one_worker_serves_all(tiny_base, tmp_path):
    """One process, as each start reads torch: what it answers, swaps, refuses, frees and survives."""
    one, other = (lora(tmp_path / f"{seed}.safetensors", tiny_base, seed) for seed in (1, 2))
    request = {"base": str(tiny_base), "prompt": "a cat", "seed": 3, "steps": 2, "out": tmp_path / "out"}
    with Painter(timeout=120) as painter:
        assert painter.pid is None and not painter.release()

        def image(**keys) -> np.ndarray:
            *_, answer, done = painter.ask({**request, **keys})
            assert (answer["kind"], done["kind"]) == ("image", "done"), done
            return pixels(answer["path"])

        answers = list(painter.ask({**request, "count": 2, "loras": [{"path": str(one), "strength": 0.5}]}))
        pid = painter.pid
        counts = [(a["done"], a["total"]) for a in answers if a["kind"] == "progress"]
        assert counts == [(1, 4), (2, 4), (3, 4), (4, 4)]
        first, second = (a for a in answers if a["kind"] == "image")
        assert (first["seed"], second["seed"]) == (3, 4) and "Seed: 3" in first["parameters"]
        with Image.open(first["path"]) as picture:
            assert picture.text["parameters"] == first["parameters"]  # pyright: ignore[reportAttributeAccessIssue]
        settings = Settings(steps=2, seed=3, lora_scale=0.5)
        (expected,) = generated(one, tmp_path / "verb", "a cat", base=str(tiny_base), settings=settings)
        assert np.array_equal(pixels(first["path"]), pixels(expected))
        base, swapped = image(), image(loras=[{"path": str(other)}])
        assert not np.array_equal(base, swapped) and np.array_equal(image(), base)
        lora(other, tiny_base, 1)  # a training wrote it anew
        assert np.array_equal(image(loras=[{"path": str(other)}]), image(loras=[{"path": str(one)}]))
        (failure,) = painter.ask({**request, "prompt": ""})
        assert failure["kind"] == "error" and failure["message"] == "The request has no prompt. Give one."
        (failure,) = painter.ask({**request, "base": "no-such-base"})
        assert failure["error"] == "UnknownBase" and "\n" not in failure["message"]
        assert painter.pid == pid and painter.release() and not painter.release()
        assert np.array_equal(image(), base)
        os.kill(pid, 9)
        subprocess.run([sys.executable, "-c", "import time; time.sleep(0.3)"], check=True)
        painter.timeout = 0.001
        (failure,) = painter.ask(request)
        assert failure["error"] == "WorkerLost" and "gave no answer for 0.001 s" in failure["message"]
        assert painter.pid is None
    assert painter.pid is None


def test_a_worker_that_cannot_start_is_told(tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('no torch today')")
    with Painter(environment={"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}) as painter:
        (failure,) = painter.ask({"prompt": "a"})
    assert failure["error"] == "WorkerLost"
    assert failure["message"] == "The worker ended with status 1: no torch today. Ask again to start another."


def test_the_client_loads_no_torch():
    code = "import sys, limner.generation.painter; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
