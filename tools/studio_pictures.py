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

from limner.recipe import toml

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
WIDTH = 1280
HEIGHTS = {"images": 1000, "run": 1400, "generate": 1100}
SPINNERS = "[data-testid=stStatusWidget], [data-testid=stSkeleton], [data-testid=stSpinner]"
"""What Streamlit shows while a page is being drawn."""
WAIT = 4000
"""Milliseconds between that and the last line of a chart."""
PATIENCE = 180_000
"""Milliseconds to wait for a page at most."""


def wait_for(port: int) -> None:
    """Wait until the studio listens.

    Raises:
        TimeoutError: It does not within its time.
    """
    end = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise TimeoutError("the studio did not start")


def main() -> None:
    """Start a studio, and take the pages."""
    workspace, run = sys.argv[1:3]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "limner", "studio", "--workspace", workspace, "--no-browser"]
    server = subprocess.Popen([*command, "--port", str(port)])
    images = toml.load(Path(workspace) / "runs" / run / "recipe.toml").data.images
    pages = {"images": f"images=images/{images.name}", "run": f"run={run}", "generate": f"run={run}"}
    outputs = (Path(workspace) / "outputs").glob("*.png")
    pictures = sorted(outputs, key=lambda path: path.stem.rpartition("-seed")[::-1])[:2]
    pages["generate"] += "".join(f"&images={path.name}" for path in pictures)
    wait_for(port)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, query in pages.items():
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHTS[name]})
            page.set_default_timeout(PATIENCE)
            page.goto(f"http://127.0.0.1:{port}/{name}?{query}")
            page.wait_for_selector("h1")
            page.wait_for_timeout(WAIT)
            page.wait_for_function(f"!document.querySelector({SPINNERS!r})")
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
