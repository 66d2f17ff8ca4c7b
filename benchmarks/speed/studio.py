"""How fast the studio draws with 50 runs and 500 images, and whether its server's memory stays flat.

    python -m benchmarks.speed.studio [--runs 50] [--images 500] [--reruns 200] [--out FILE.json]

A rerun is one drawing of a page by Streamlit's own test runner, without a browser. Memory is the resident set
of a real server, whose pages a real Chromium (on PATH) loads anew again and again.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil
from benchmarks.outcome import RESULTS, save, table
from PIL import Image
from playwright.sync_api import sync_playwright
from streamlit.testing.v1 import AppTest

from limner.run_folder import RunDir
from limner.status import RunStatus
from limner.studio.workspace import ENVIRONMENT

PAGES = ("home", "images", "plan", "run", "files")
LIMIT = 1.0
"""Seconds, the 95th percentile of a rerun."""


def fill(workspace: Path, runs: int, images: int) -> None:
    """Write finished runs with metrics and samples, and one folder of captioned images."""
    rng = np.random.default_rng(0)
    folder = workspace / "images" / "photos"
    folder.mkdir(parents=True)
    for number in range(images):
        pixels = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((1024, 768)).save(folder / f"{number:03}.jpg")
        (folder / f"{number:03}.txt").write_text(f"sks cat, photo {number}")
    for number in range(runs):
        run = RunDir(workspace / "runs" / f"run-{number:02}")
        run.write_prompts(["a cat", "a dog"])
        for step in (0, 500, 1000):
            for prompt in range(2):
                path = run.sample_path(step, prompt)
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / f"{(number + prompt) % images:03}.jpg", path)
        run.recipe_path.write_text(f'base = "glyph"\n[data]\nimages = "{folder}"\n')
        rows = [{"step": step, "loss": 1 / step} for step in range(1, 1001)]
        run.metrics_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        run.status_path.write_text(
            json.dumps(asdict(RunStatus(state="done", phase="", step=1000, steps=1000)))
        )


def serve(workspace: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start a studio on a free port; gives the process and its URL once it listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "limner", "studio", "--workspace", str(workspace), "--no-browser"]
    server = subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return server, f"http://127.0.0.1:{port}"
        except OSError:
            time.sleep(0.1)
    raise TimeoutError("the studio did not start within a minute")


def reruns(workspace: Path, name: str, count: int) -> list[float]:
    """Seconds that each of ``count`` drawings of a page takes, after the first."""
    os.environ[ENVIRONMENT] = str(workspace)
    script = f"from limner.studio.app import draw_alone\ndraw_alone({name!r})\n"
    app = AppTest.from_string(script, default_timeout=600).run()
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        app.run()
        seconds.append(time.perf_counter() - start)
    if app.exception:
        raise RuntimeError(app.exception[0].message)
    return seconds


def reloads(workspace: Path, count: int) -> list[float]:
    """MB of the server after each tenth of ``count`` loads of its pages."""
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    server, url = serve(workspace)
    process = psutil.Process(server.pid)
    memory = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(180_000)  # milliseconds
        for number in range(count):
            name = PAGES[number % len(PAGES)]
            page.goto(f"{url}/{'' if name == 'home' else name}")
            page.wait_for_selector("h1")
            if (number + 1) % max(count // 10, 1) == 0:
                memory.append(process.memory_info().rss / 2**20)
        browser.close()
    server.terminate()
    server.wait()
    return memory


def main() -> None:
    """Draw, count, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--reruns", type=int, default=200, help="over all pages")
    parser.add_argument("--out", type=Path, default=RESULTS / "studio.json")
    options = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as temporary:
        workspace = Path(temporary)
        fill(workspace, options.runs, options.images)
        for name in PAGES:
            seconds = reruns(workspace, name, options.reruns // len(PAGES))
            p95 = statistics.quantiles(seconds, n=20)[-1]
            rows[name] = {"median_s": statistics.median(seconds), "p95_s": p95}
        memory = reloads(workspace, options.reruns)
    print(
        table(
            ["page", "median s", "p95 s"],
            [[n, f"{r['median_s']:.2f}", f"{r['p95_s']:.2f}"] for n, r in rows.items()],
        )
    )
    print(f"server: {memory[0]:.0f} MB after a tenth of the loads, {memory[-1]:.0f} MB at the end")
    facts = {"runs": options.runs, "images": options.images, "wanted_p95_s": LIMIT, "pages": rows}
    save(options.out.stem, {**facts, "server_mb": memory}, options.out.parent)


if __name__ == "__main__":
    main()
