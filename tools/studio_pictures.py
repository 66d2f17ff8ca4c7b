"""Pictures of the studio for README: docs/pictures/studio-*.jpg.

    python tools/studio_pictures.py WORKSPACE RUN

The workspace is one in which a run was trained and images were generated; Chromium must be on PATH.
"""

import io
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
WIDTH = 1280
HEIGHTS = {"images": 1000, "run": 1400, "generate": 1100}
WAIT = 8000
"""Milliseconds until everything is drawn."""


def main() -> None:
    """Start a studio, and take the pages."""
    workspace, run = sys.argv[1:3]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "limner", "studio", "--workspace", workspace, "--no-browser"]
    server = subprocess.Popen([*command, "--port", str(port)])
    images = next(path for path in sorted((Path(workspace) / "images").iterdir()) if path.is_dir())
    pages = {"images": f"images=images/{images.name}", "run": f"run={run}", "generate": f"run={run}"}
    outputs = (Path(workspace) / "outputs").glob("*.png")
    pictures = sorted(outputs, key=lambda path: path.stem.rpartition("-seed")[::-1])[:2]
    pages["generate"] += "".join(f"&images={path.name}" for path in pictures)
    time.sleep(10)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, query in pages.items():
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHTS[name]})
            page.goto(f"http://127.0.0.1:{port}/{name}?{query}")
            page.wait_for_selector("h1")
            page.wait_for_timeout(WAIT)
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            picture.resize((960, 960 * HEIGHTS[name] // WIDTH), Image.Resampling.LANCZOS).save(
                PICTURES / f"studio-{name}.jpg", quality=82
            )
        browser.close()
    server.terminate()
    server.wait()


if __name__ == "__main__":
    main()
