import shutil

import pytest
from PIL import Image

from limner.report.report import write_report
from limner.report.samples import chosen
from limner.report.sheet import Column
from limner.run_folder import RunDir

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def run(tmp_path):
    run = RunDir(tmp_path / "run")
    run.write_prompts(["a cat", "a dog"])
    for step in (0, 10, 20, 30):
        for index in range(2):
            path = run.sample_path(step, index)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64), (step * 8, 99, index)).save(path)
    return run


def testchosen_steps_hold_the_ends_and_the_best():
    steps = list(range(0, 1000, 10))
    shown = [Column((step,), {}) for step in steps]
    for best in (None, 0, 130, 985, 990, 500):
        steps_there = [step for column in chosen(shown, 8, best) for step in column.steps]
        assert len(steps_there) == len(set(steps_there)) == 8
        assert steps_there == sorted(steps_there)
        assert {0, 990} <= set(steps_there)
        assert best in steps_there or best not in steps
    assert chosen(shown[:2], 8, 10) == shown[:2]


def test_each_image_says_its_column(run):
    """The slider reads it."""
    html = write_report(run).read_text()
    for column in range(4):
        assert html.count(f'data-column="{column}"') == 1 + 2


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.filterwarnings("default")  # of playwright's own event loop
def test_the_slider_moves_over_steps_in_a_browser(run):
    from playwright.sync_api import sync_playwright

    write_report(run)
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        faults = []
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(run.report_path.as_uri())
        visible = "[...document.querySelectorAll('.samples img')].filter(i => i.offsetWidth).map(i => i.alt)"
        names = "document.querySelector('.slider output').textContent"
        assert page.evaluate(visible) == ["a cat, base", "a cat, step 30", "a dog, base", "a dog, step 30"]
        page.locator(".slider input").focus()
        page.keyboard.press("ArrowLeft")
        assert page.evaluate(names) == "step 20" and "a cat, step 20" in page.evaluate(visible)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.locator(".slider button").click()
        assert page.evaluate(names) == "all steps" and len(page.evaluate(visible)) == 8
        page.set_viewport_size({"width": 1280, "height": 800})
        page.reload()
        assert len(page.evaluate(visible)) == 8, "a large screen begins with all of them"
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
        assert faults == []
        still = browser.new_context(java_script_enabled=False).new_page()
        still.goto(run.report_path.as_uri())
        assert still.locator(".samples img").count() == 8 and still.locator(".slider").count() == 0
        assert all(image.is_visible() for image in still.locator(".samples img").all())
        browser.close()
