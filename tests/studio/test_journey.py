"""The studio in a real browser, on the embedded base: what a person does, and what may go wrong."""

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from limner.bases.demo_sets import folder
from limner.run_folder import RunDir
from limner.status import read_status
from limner.studio.workspace import Workspace

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on PATH: apt-get install chromium"),
]
PATIENCE = 120_000
"""Milliseconds to wait for anything: the machine may be busy."""


Serve = Callable[..., Any]


STEPS = 24
"""Of the training that is stopped and goes on."""


class Server:
    """``limner studio`` in a process of its own, which can be killed and started again."""

    def __init__(self, workspace: Path, *options: str) -> None:
        command = [sys.executable, "-m", "limner", "studio", "--workspace", str(workspace), "--no-browser"]
        log = workspace / "studio.log"
        with log.open("w") as output:
            self._process = subprocess.Popen([*command, *options], stdout=output, stderr=output)
        until(lambda: "Workspace:" in log.read_text())
        self.printed = log.read_text().split("Studio:")[1].split()[0]
        self.port = int(re.search(r":(\d+)/", self.printed)[1])  # pyright: ignore[reportOptionalSubscript]
        self.address = f"http://127.0.0.1:{self.port}"
        until(self._listens)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """End it without a word, as a power cut does."""
        self._process.kill()
        self._process.wait()


@pytest.fixture
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts a studio on the test's folder; none outlives the test."""
    servers: list[Server] = []

    def start(*options: str) -> Server:
        servers.append(Server(tmp_path, *(options or ("--demo", "--port", "0"))))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


def until(holds: Callable[[], object], seconds: float = PATIENCE / 1000) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.2)


def tab(browser: Any, address: str, width: int = 1280) -> Any:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    return page


def drop_pictures(page: Any) -> None:
    """On the page Images: the demo's ten pictures become a new folder, and one is captioned by hand."""
    page.get_by_role("button", name="New LoRA").click()
    page.get_by_role("heading", name="Images").wait_for()
    page.locator("input[type=file]").set_input_files(sorted(folder("mascot").glob("*.png")))
    page.get_by_label("Name of the new folder").fill("own")
    page.get_by_label("Name of the new folder").press("Enter")
    page.get_by_role("button", name="Add them").click()
    page.get_by_text("10 images").wait_for()
    caption = page.get_by_placeholder("no caption").first
    caption.fill("zorbix, waving")
    caption.press("Control+Enter")


def write_recipe(page: Any, *, steps: int) -> None:
    """On the page Plan: a recipe called trial, on the embedded base."""
    name = page.get_by_label("Name of the run")
    name.fill("trial")
    name.press("Enter")
    base = page.get_by_role("combobox", name="Base")
    base.click()
    base.fill("glyph")
    page.get_by_role("option", name="glyph", exact=True).click()
    page.get_by_role("button", name="Write the recipe").click()
    for label, value in (("Trigger word", "zorbix"), ("Steps", str(steps))):
        field = page.get_by_label(label, exact=True)
        field.fill(value)
        field.press("Enter")
        page.wait_for_timeout(700)
    page.get_by_text("In all").wait_for()


def test_from_pictures_to_a_lora_through_a_stop_and_a_killed_server(
    tmp_path: Path, serve: Serve, browser: Any
) -> None:
    server = serve("--port", "0")
    run = RunDir(tmp_path / "runs" / "trial")
    page = tab(browser, server.address)
    page.get_by_text("From a handful of images to a LoRA").wait_for()
    drop_pictures(page)
    sidecars = tmp_path / "images" / "own"
    until(lambda: [path.read_text().strip() for path in sidecars.glob("*.txt")] == ["zorbix, waving"])
    page.get_by_role("button", name="Plan with these images").click()
    write_recipe(page, steps=STEPS)
    page.get_by_role("button", name="Train", exact=True).click()

    # While it trains: a second tab sees the same, and a stop saves.
    page.get_by_role("button", name="Stop and save").wait_for()
    assert "run=trial" in page.url
    until(lambda: (status := read_status(run.path)) is not None and (status.step or 0) >= 2)
    other = tab(browser, page.url)
    other.get_by_role("button", name="Stop and save").click()
    page.get_by_role("button", name="Resume").wait_for()
    status = read_status(run.path)
    assert status is not None and status.state == "stopped" and run.checkpoints()

    # It goes on from there, and whether the server lives does not matter to it.
    page.reload()
    page.get_by_role("button", name="Resume").click()
    until(lambda: (status := read_status(run.path)) is not None and status.state == "running")
    server.kill()
    again = serve("--port", str(server.port))
    page.goto(f"{again.address}/run?run=trial")
    page.get_by_role("button", name="Download trial/lora.safetensors").wait_for()
    until(lambda: (status := read_status(run.path)) is not None and status.state == "done")
    steps = [row["step"] for row in run.metrics() if "loss" in row]
    assert steps == list(range(1, STEPS + 1))

    # Samples of the base and of the LoRA are there, and the file is what stock diffusers loads.
    page.get_by_text("base, step 0").first.wait_for()
    page.get_by_text(f"step {STEPS}", exact=True).first.wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download trial/lora.safetensors").click()
    file = tmp_path / "download.safetensors"
    download.value.save_as(file)
    assert file.read_bytes() == run.lora_path.read_bytes()
    _loads_in_diffusers(file)


def _loads_in_diffusers(file: Path) -> None:
    from diffusers import FluxPipeline

    from limner.bases import folders

    pipeline = FluxPipeline.from_pretrained(folders()["glyph"])
    pipeline.load_lora_weights(file)
    assert pipeline.get_active_adapters()


def test_a_failed_run_is_told_and_hostile_names_run_no_script(
    tmp_path: Path, serve: Serve, browser: Any
) -> None:
    server = serve()
    workspace = Workspace(tmp_path)
    hostile = '<img src=x onerror="window.hacked=1">'
    run = RunDir(tmp_path / "runs" / "trial")
    run.write_prompts([hostile])
    sample = run.sample_path(0, 0)
    sample.parent.mkdir(parents=True)
    shutil.copy(next((workspace.images / "mascot").glob("*.*g")), sample)
    run.recipe_path.write_text('base = "glyph"\n[data]\nimages = "nowhere"\n')
    page = tab(browser, f"{server.address}/run?run=trial")
    page.get_by_role("button", name="Start").click()
    page.get_by_text(re.compile("there is no such folder")).first.wait_for()
    page.get_by_text(hostile, exact=True).wait_for()
    assert page.evaluate("window.hacked") is None
    page.goto(f"{server.address}/run?run=<script>window.hacked=1</script>")
    page.get_by_text(re.compile("any more")).wait_for()
    assert page.evaluate("window.hacked") is None


def test_every_page_fits_a_phone(tmp_path: Path, serve: Serve, browser: Any) -> None:
    from limner.studio.pages import PAGES

    server = serve()
    page = tab(browser, server.address, width=390)
    for facts in PAGES:
        page.goto(f"{server.address}/{'' if facts.is_first else facts.name}")
        page.get_by_role("heading", level=1).wait_for()
        page.wait_for_timeout(500)
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert overflow <= 0, facts.name


def test_a_studio_for_others_wants_its_token(tmp_path: Path, serve: Serve, browser: Any) -> None:
    server = serve("--host", "0.0.0.0", "--port", "0")
    token = server.printed.partition("?token=")[2]
    page = tab(browser, server.address)
    page.get_by_text("This studio wants its token").wait_for()
    page.goto(f"{server.address}/?token={token}")
    page.get_by_text("From a handful of images to a LoRA").wait_for()
    assert "token" not in page.url
