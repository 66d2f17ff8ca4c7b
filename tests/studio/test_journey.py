"""The studio in a real browser, on the embedded base: what a person does, and what may go wrong."""

import os
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
from limner.recipe import toml
from limner.run_folder import RunDir
from limner.status import RunStatus, read_status
from limner.studio.workspace import Workspace

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on PATH: apt-get install chromium"),
]
PATIENCE = 120_000
"""Milliseconds to wait for anything: the machine may be busy."""
DESK, PHONE = 1280, 390
WIDTHS = (DESK, PHONE)
"""Of the window, in pixels."""
SCREENSHOTS = Path(
    os.environ.get("LIMNER_SCREENSHOTS") or Path(__file__).parents[2] / "build" / "screenshots"
)
"""Where each page is kept as it was seen: ``images-1280-light.png``."""
UNFINISHED = "[data-testid=stStatusWidget], [data-testid=stSkeleton], [data-testid=stSpinner]"
"""What Streamlit shows while a page is being drawn."""
TALLEST = 3000
"""Pixels of a page that a screenshot shows."""


Serve = Callable[..., Any]


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


def tab(browser: Any, address: str, width: int = DESK) -> Any:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    return page


def seen_again(page: Any, text: str) -> None:
    """A reload shows the same, and nothing is wider than the window, be it of a computer or of a phone."""
    page.reload()
    page.get_by_text(text).first.wait_for()
    start = page.viewport_size["width"]
    for width in WIDTHS:
        resize(page, width)
        fits(page)
        keep(page)
    resize(page, start)


def resize(page: Any, width: int, height: int = 900) -> None:
    page.set_viewport_size({"width": width, "height": height})


def keep(page: Any, scheme: str = "light") -> None:
    """Keep a screenshot of the whole page for people to look at."""
    width = page.viewport_size["width"]
    page.wait_for_function(f"!document.querySelector({UNFINISHED!r})")
    height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    resize(page, width, min(max(height, 900), TALLEST))
    name = page.url.partition("?")[0].rpartition("/")[2] or "home"
    page.screenshot(path=SCREENSHOTS / f"{name}-{width}-{scheme}.png")


def fits(page: Any) -> bool:
    """Wait until nothing is wider than the window."""
    until(lambda: page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0, 5)
    return True


def fill(page: Any, label: str, text: str) -> None:
    field = page.get_by_label(label, exact=True)
    field.fill(text)
    field.press("Control+Enter" if field.evaluate("node => node.tagName") == "TEXTAREA" else "Enter")


def drop_pictures(page: Any, folder_path: Path) -> None:
    """On the page Images: the demo's ten pictures become a new folder, and one is captioned by hand."""
    page.get_by_role("button", name="New LoRA").click()
    page.get_by_role("heading", name="Images").wait_for()
    page.locator("input[type=file]").set_input_files(sorted(folder("mascot").glob("*.png")))
    fill(page, "Name of the new folder", "own")
    page.get_by_role("button", name="Add them").click()
    page.get_by_text("10 images").wait_for()
    caption = page.get_by_placeholder("no caption").first
    caption.fill("zorbix, waving")
    caption.press("Control+Enter")
    until(lambda: [path.read_text().strip() for path in folder_path.glob("*.txt")] == ["zorbix, waving"])
    fill(page, "Trigger word", "zorbix")
    kept = folder_path.parents[1] / ".limner" / "images"
    until(lambda: any('"zorbix"' in path.read_text() for path in kept.glob("*.json")))
    seen_again(page, "10 images, 1 with captions")


def write_recipe(page: Any, file: Path, *, steps: int) -> None:
    """On the page Plan: a recipe called trial; base and trigger come from the page Images."""
    page.get_by_role("button", name="Plan with these images").click()
    fill(page, "Name of the run", "trial")
    page.get_by_role("button", name="Write the recipe").click()
    page.get_by_label("Steps", exact=True).wait_for()
    fill(page, "Steps", str(steps))
    until(lambda: toml.load(file).train.steps == steps)
    recipe = toml.load(file)
    assert (recipe.base, recipe.data.trigger) == ("glyph", "zorbix")
    seen_again(page, "In all")


def status_of(run: RunDir) -> RunStatus:
    """What a run says of itself, once it says something."""
    until(lambda: read_status(run.path) is not None)
    status = read_status(run.path)
    assert status is not None
    return status


def stop_and_resume(browser: Any, page: Any, run: RunDir) -> None:
    """On the page Run: a phone sees the same, and a stop from there saves; then it goes on."""
    page.get_by_role("button", name="Stop and save").wait_for()
    assert "run=trial" in page.url
    other = tab(browser, page.url, PHONE)  # before it trains, which may be over when a slow tab has opened
    button = other.get_by_role("button", name="Stop and save")
    button.wait_for()
    until(lambda: (status_of(run).step or 0) >= 2)
    button.click()
    page.get_by_role("button", name="Resume").wait_for()
    assert status_of(run).state == "stopped" and run.checkpoints()
    other.close()
    page.reload()
    page.get_by_role("button", name="Resume").click()
    until(lambda: status_of(run).state == "running")


def judge_and_choose(page: Any, run: RunDir) -> None:
    """On the page Judge: each kept step is measured at two strengths, and one of them becomes the LoRA."""
    page.get_by_role("button", name="Judge and choose").click()
    fill(page, "LoRA scales (strengths)", "0.5,1")
    fill(page, "Seeds", "1")
    fill(page, "Prompts, one per line", "zorbix cat")
    page.get_by_role("button", name="Judge", exact=True).click()
    page.get_by_text("Make it the run's LoRA").wait_for()
    seen_again(page, "The grid: checkpoint x strength")
    page.get_by_role("button", name="Choose").click()
    page.get_by_text(re.compile("Chosen: step")).wait_for()
    assert run.read(run.judge_path)["chosen"]["step"] in dict(run.step_loras())


def generate(page: Any, outputs: Path) -> None:
    """On the page Generate: the base and the LoRA, side by side, with what made them."""
    fill(page, "Prompt", "zorbix in the snow")
    fill(page, "Steps", "4")
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("Before | after").wait_for()
    assert len(list(outputs.glob("zorbix-in-the-snow*.png"))) == 2
    seen_again(page, "Before | after")
    assert page.get_by_label("Prompt", exact=True).input_value() == "zorbix in the snow"


def test_from_pictures_to_a_lora_through_a_stop_and_a_killed_server(
    tmp_path: Path, serve: Serve, browser: Any
) -> None:
    """At a desk, and from the killed server on, on a phone; each page fits both."""
    server, steps = serve("--port", "0"), 30
    run = RunDir(tmp_path / "runs" / "trial")
    page = tab(browser, server.address)
    page.get_by_text("From a handful of images to a LoRA").wait_for()
    seen_again(page, "From a handful of images to a LoRA")
    drop_pictures(page, tmp_path / "images" / "own")
    write_recipe(page, tmp_path / "recipes" / "trial.toml", steps=steps)
    page.get_by_role("button", name="Train", exact=True).click()
    stop_and_resume(browser, page, run)

    # Whether the server lives does not matter to the training.
    server.kill()
    again = serve("--port", str(server.port))
    resize(page, PHONE)
    page.goto(f"{again.address}/run?run=trial")
    page.get_by_role("button", name="Download trial/lora.safetensors").wait_for()
    until(lambda: status_of(run).state == "done")
    assert [row["step"] for row in run.metrics() if "loss" in row] == list(range(1, steps + 1))
    page.get_by_text("base, step 0").first.wait_for()
    page.get_by_text(f"step {steps}", exact=True).first.wait_for()
    seen_again(page, "base, step 0")

    judge_and_choose(page, run)
    page.goto(f"{again.address}/generate?run=trial")
    generate(page, tmp_path / "outputs")
    page.goto(f"{again.address}/run?run=trial")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download trial/lora.safetensors").click()
    file = tmp_path / "download.safetensors"
    download.value.save_as(file)
    assert file.read_bytes() == run.lora_path.read_bytes()
    _loads_in_diffusers(file)


def _loads_in_diffusers(file: Path) -> None:
    from diffusers import FluxPipeline

    from limner.models.registry import embedded_bases

    pipeline = FluxPipeline.from_pretrained(embedded_bases()["glyph"])
    pipeline.load_lora_weights(str(file))
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
    seen_again(page, "there is no such folder")
    assert page.evaluate("window.hacked") is None
    page.goto(f"{server.address}/run?run=<script>window.hacked=1</script>")
    page.get_by_text(re.compile("any more")).wait_for()
    assert page.evaluate("window.hacked") is None


def test_every_page_fits_a_phone(tmp_path: Path, serve: Serve, browser: Any) -> None:
    from limner.studio.pages import PAGES

    server = serve()
    page = tab(browser, server.address, width=PHONE)
    page.emulate_media(color_scheme="dark")
    for facts in PAGES:
        page.goto(f"{server.address}/{'' if facts.is_first else facts.name}")
        page.get_by_role("heading", level=1).wait_for()
        assert fits(page), facts.name
        keep(page, "dark")


def test_a_studio_for_others_wants_its_token(tmp_path: Path, serve: Serve, browser: Any) -> None:
    server = serve("--host", "0.0.0.0", "--port", "0")
    token = server.printed.partition("?token=")[2]
    page = tab(browser, server.address)
    page.get_by_text("This studio wants its token").wait_for()
    page.goto(f"{server.address}/?token={token}")
    page.get_by_text("From a handful of images to a LoRA").wait_for()
    assert "token" not in page.url
