import base64
import hashlib
import io
import json
import re
import time
from html.parser import HTMLParser

import pytest
from PIL import Image

from limner.report.pages import script
from limner.report.report import write_report
from limner.report.samples import COLUMNS
from limner.run_folder import SHOWN_IMAGES, RunDir

EVIL = """</title></script><script>alert(1)</script><img src=x onerror="alert(2)">'"&{{ title }}{% raw %}"""
RECIPE = """
base = "/home/anna/models/flux"
name = "Marmalade"
[data]
images = '/home/anna/photos/'
trigger = "sks cat"
[lora]
rank = 16
[train]
steps = 40
"""


class Seen(HTMLParser):
    """What a browser would build: tags, attributes, text."""

    void = ("meta", "img", "line", "rect", "polyline", "polygon")

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.text, self.stack = [], [], "", []
        self.feed(html)
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.extend(attrs)
        if tag not in self.void:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.extend(attrs)

    def handle_data(self, data):
        self.text += data


def the_script(run):
    """Only ours is there, and only it may run: the page's rules name its digest."""
    html = run.report_path.read_text("utf-8")
    ours = script("slider.js")
    assert html.lower().count("<script") == 1 and f"<script>{ours['script']}</script>" in html
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    digest = base64.b64encode(hashlib.sha256(ours["script"].encode()).digest()).decode()
    assert policy.endswith(f"script-src 'sha256-{digest}'") and "unsafe-inline'; script" in policy


def seen(run):
    return Seen(write_report(run).read_text("utf-8"))


def thumb(size=(60, 40)):
    out = io.BytesIO()
    Image.new("RGB", size, (200, 60, 20)).save(out, "JPEG")
    return base64.b64encode(out.getvalue()).decode()


def put(run, name, text):
    path = run.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def paint(run, *steps, prompts=2):
    for step in steps:
        for index in range(prompts):
            path = run.sample_path(step, index)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64), (step % 256, index, 0)).save(path)


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path / "cat")


@pytest.fixture
def whole(run):
    put(run, "recipe.toml", RECIPE)
    images = [
        {
            "name": "a.jpg",
            "width": 4032,
            "height": 3024,
            "size": [64, 48],
            "captions": ["a cat"],
            "thumb": thumb(),
            "mask": thumb(),
            "mask_share": 0.25,
        }
    ]
    images.append(
        {"name": "b.jpg", "width": 64, "height": 64, "size": None, "captions": [], "held_out": True}
    )
    rejected = [{"name": "scan.tiff", "reason": "Too small. Use a larger one."}]
    put(run, "data.json", json.dumps({"images": images, "rejected": rejected}))
    run.write_prompts(["sks cat on a boat", "pizza"])
    paint(run, 0, 20, 40)
    for step in range(1, 41):
        row = {"step": step, "loss": 1 / step, "seconds": 0.5, "time": 1.8e9 + step}
        run.log(row | ({"held_out": 0.25} if step == 20 else {"held_out": 0.75} if step == 40 else {}))
    put(run, "lora.safetensors", b"x" * 1_200_000)
    for step in (20, 40):
        put(run, f"checkpoints/step-{step:06d}.safetensors", "")
    return run


def test_a_whole_run_is_told_whole(whole):
    page = seen(whole)
    for words in (
        "Marmalade",
        "on flux",
        "trigger “sks cat”",
        "rank 16",
        "40finished",
        "0.25step 20",
        "20.0 s",
        "1.2 MB",
    ):
        assert words in page.text
    for words in (
        "sks cat on a boat",
        "step 20 best kept",
        "best 0.25 at step 20",
        "4032×3024 → 64×48 · 25% of it learned",
        "held out",
    ):
        assert words in page.text
    for words in (
        "Left out (1)",
        "Too small. Use a larger one.",
        "python",
        "torch",
        "0.5 s",
    ):
        assert words in page.text
    assert page.tags.count("img") == 6 + 2, "an image with its mask"
    assert page.text.count("Environment") == 1


def test_nothing_is_loaded_or_run(whole):
    page = seen(whole)
    assert not {"link", "iframe", "object", "form", "base"} & set(page.tags)
    the_script(whole)
    assert all(value.startswith("data:image/") for name, value in page.attributes if name == "src")
    assert all(value.startswith("checkpoints/step-") for name, value in page.attributes if name == "href")
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert any(
        name == "content" and value.startswith("default-src 'none'; ") for name, value in page.attributes
    )
    assert not re.search(r"https?://|url\((?!#)|@import", whole.report_path.read_text())


def test_plan_and_measurement_stand_side_by_side(whole):
    put(whole, "plan.json", json.dumps({"seconds_per_step": 0.4, "device": {"kind": "cuda"}}))
    page = seen(whole)
    assert "Planned and measured" in page.text and "0.5 s (+25%)" in page.text


def test_what_was_judged_is_a_curve(whole):
    interval = {"mean": 0.5, "low": 0.4, "high": 0.6}
    cells = [{"step": step, "strength": float(step > 0), "leak": interval} for step in (0, 20, 40)]
    put(whole, "judge.json", json.dumps({"encoder": "SigLIP", "cells": cells}))
    page = seen(whole)
    assert "Likeness and leak" in page.text and "Measured by SigLIP." in page.text
    put(whole, "judge.json", "{")
    assert "judge.json cannot be read" in seen(whole).text


def test_it_follows_the_theme_of_the_reader(whole):
    assert "prefers-color-scheme: dark" in write_report(whole).read_text()


def test_where_things_lie_on_this_machine_stays_here(whole, tmp_path):
    html = write_report(whole).read_text()
    assert "anna" not in html
    assert str(tmp_path) not in html
    assert "…/photos" in html


def test_a_full_fine_tune_is_not_told_as_a_lora(whole):
    put(whole, "recipe.toml", RECIPE + 'method = "full"\n')
    page = seen(whole)
    assert "all weights trained" in page.text and "rank" not in page.text.partition("How it was made")[0]
    assert "LoRA training report" not in page.text


def test_an_empty_run_has_a_report(run):
    page = seen(run)
    for words in ("cat", "not started", "No losses", "images have not been read", "recipe is not there"):
        assert words in page.text
    assert "img" not in page.tags


def test_a_run_half_way_says_so(run):
    put(run, "recipe.toml", RECIPE)
    for step in (1, 2, 3):
        run.log({"step": step, "loss": 0.5})
    page = seen(run)
    assert "3of 40" in page.text
    assert "svg" in page.tags
    assert "Samples" not in page.text


def test_hostile_text_stays_text(whole):
    put(
        whole,
        "recipe.toml",
        f"name = {json.dumps(EVIL)}\nbase = {json.dumps(EVIL)}\n[data]\ntrigger = {json.dumps(EVIL)}",
    )
    entry = {
        "name": EVIL,
        "width": EVIL,
        "height": EVIL,
        "size": [EVIL, EVIL],
        "captions": [EVIL],
        "thumb": EVIL,
        "mask": EVIL,
        "mask_share": EVIL,
    }
    put(whole, "data.json", json.dumps({"images": [entry], "rejected": [{"name": EVIL, "reason": EVIL}]}))
    put(whole, "plan.json", json.dumps({EVIL: {EVIL: EVIL}}))
    whole.write_prompts([EVIL, EVIL])
    whole.log({"step": 41, "note": EVIL, "loss": 0.1, EVIL: 1})
    page = seen(whole)
    assert "b onerror" not in page.tags
    the_script(whole)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert all(value.startswith("data:image/") for name, value in page.attributes if name == "src")
    assert page.text.count("alert(1)") > 8
    assert "{{ title }}{% raw %}" in page.text  # and is no part of the template


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 10**5, b"null", b"7", b'{"images": 3, "rejected": [1]}']
)
@pytest.mark.parametrize(
    "name", ["data.json", "plan.json", "samples/prompts.json", "recipe.toml", "metrics.jsonl"]
)
def test_damaged_files_never_cost_the_report(whole, name, content):
    put(whole, name, content)
    page = seen(whole)
    assert "How it was made" in page.text
    if name.endswith("n") and content in (b"", b"{"):
        assert f"{name.split('/')[-1]} cannot be read" in page.text


@pytest.mark.parametrize(
    "value", [None, 5, "x", [], {}, [None], {"images": [{}]}, {"images": [{"captions": 5, "size": 7}]}]
)
def test_data_of_any_shape_make_a_page(run, value):
    put(run, "data.json", json.dumps(value))
    assert "How it was made" in seen(run).text


def test_recipes_of_any_shape_make_a_page(run):
    for text in ("data = 5\ntrain = []\nname = 3", "[train]\nsteps = 'many'", "name = ['a']"):
        put(run, "recipe.toml", text)
        assert "How it was made" in seen(run).text


def test_a_damaged_sample_is_named(whole):
    whole.sample_path(20, 1).write_bytes(b"\x89PNG torn")
    page = seen(whole)
    assert "step-000020/01.png cannot be read" in page.text
    assert page.tags.count("img") == 7


def test_the_page_is_bounded_and_says_what_it_leaves_out(whole):
    paint(whole, *range(50, 80), prompts=1)
    entry = {"name": "n", "width": 9, "height": 9, "captions": ["c" * 2000] * 5, "thumb": thumb((900, 900))}
    put(whole, "data.json", json.dumps({"images": [entry] * 400, "rejected": []}))
    start = time.process_time()
    page = seen(whole)
    assert time.process_time() - start < 8
    assert page.tags.count("img") <= COLUMNS * 2 + SHOWN_IMAGES
    assert "25 more sampled steps not shown" in page.text
    assert f"{400 - SHOWN_IMAGES} more" in page.text


def test_runs_of_unequal_lengths_end_side_by_side_and_leave_no_blank_cells(run):
    run.write_prompts(["one", "two"])
    paint(run, 0)
    paint(run, 240, prompts=1)
    paint(run, 280)
    run.sample_path(280, 0).unlink()
    page = seen(run)
    assert page.tags.count("img") == 4 and "no picture" not in page.text
    assert "step 240, 280" in page.text and "not shown" not in page.text


def test_writing_again_replaces_it(run):
    put(run, "recipe.toml", 'name = "first"')
    first = write_report(run).read_text()
    put(run, "recipe.toml", 'name = "second"')
    second = write_report(run).read_text()
    assert "first" in first and "second" in second and "first" not in second
    assert sorted(path.name for path in run.path.iterdir()) == ["recipe.toml", "report.html"]


def test_the_best_step_is_a_link_to_its_lora(whole):
    """Of the LoRAs, which all stay; a full fine-tune has checkpoints alone."""
    links = [value for name, value in seen(whole).attributes if name == "href"]
    assert links == ["checkpoints/step-000020.safetensors"] * 2
    for step in (20, 40):
        put(whole, f"loras/step-{step:06d}.safetensors", "")
    whole.checkpoint_path(20).unlink()
    page = seen(whole)
    assert [value for name, value in page.attributes if name == "href"] == [
        "loras/step-000020.safetensors"
    ] * 2
    assert "Best LoRA" in page.text


def test_rows_that_are_lost_are_named(tmp_path):
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    run.recipe_path.write_text(RECIPE)
    assert run.missing_rows() == []
    for step in (1, 2, 5):
        run.log({"step": step, "loss": 0.5})
    checkpoint = run.checkpoint_path(8)
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"")
    assert run.missing_rows() == [(3, 4), (6, 8)]
    page = write_report(run).read_text()
    assert "metrics.jsonl has no rows of steps 3 to 4, 6 to 8: they were lost" in page
    for step in (3, 4, 6, 7, 8):
        run.log({"step": step, "loss": 0.5})
    assert run.missing_rows() == [] and "has no rows" not in write_report(run).read_text()
