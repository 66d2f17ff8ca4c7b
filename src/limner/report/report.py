"""The report: one HTML file that shows a run to people and needs nothing around it.

Its one script moves the slider over steps; the page's own rules let no other run.
"""

import importlib.metadata
import os
import platform
import re
import statistics
import tomllib
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from limner.early_stopping import early_stop
from limner.errors import BadData
from limner.files import human, real_path, write_text
from limner.imports import imported
from limner.report.chart import curves, series, smooth
from limner.report.comparison import comparison
from limner.report.markup import Html, escape, image, records, table, thumbnail
from limner.report.pages import footer, render, script
from limner.report.pairs import Pairs
from limner.report.samples import SIDE, SampleGrid, left_out
from limner.report.sets import set_of_prompt, set_rows
from limner.run_folder import SHOWN_IMAGES, RunDir
from limner.status import read_status

NAMES = 1000
"""The most that one page shows; what is left out is counted on it."""
CAPTION = 500
"""Letters of one caption."""
LATEST = 4e9
"""Seconds since 1970 that a clock may show."""
PACKAGES = ("limner", "torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "pillow")
LOCAL = re.compile(r"""(["'])(?:/|~/|[A-Za-z]:[/\\]+)[^"'\n]*?([^"'/\\\n]+)[/\\]*\1""")
"""A path that starts at a root, as TOML writes it: what the machine is called is nobody's business."""


def write_report(run: RunDir) -> Path:
    """Write ``report.html``: samples, curve, images, recipe, environment, as far as the run has come.

    Args:
        run: May be half finished, empty or damaged in part; what cannot be read is said on the page.

    Returns:
        Where it is.
    """
    write_text(run.report_path, render("report.html", **script("slider.js"), **Page(run).parts()))
    return run.report_path


class Page:
    """What the report says, gathered once."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.problems: list[str] = []
        self.rows = run.metrics()
        self.text, self.recipe = self._recipe()
        self.full = self._recipe_value("train", "method") == "full"
        self.data: dict[str, Any] = self._read(run.data, {})
        self.prompts: list[str] = self._read(run.prompts, [])
        plan = self._read(lambda: run.read(run.plan_path), None)
        self.plan: dict[str, Any] = plan if isinstance(plan, dict) else {}
        self.title = str(self.recipe.get("name") or real_path(run.path).name)
        if gaps := run.missing_rows():
            steps = ", ".join(
                f"{first}" if first == last else f"{first} to {last}" for first, last in gaps[:5]
            )
            steps += f" and {len(gaps) - 5} more stretches" if len(gaps) > 5 else ""
            self.problems.append(
                f"{run.metrics_path.name} has no rows of steps {steps}: they were lost, and figures and "
                "curves leave them out. The checkpoints and the LoRA are not touched by it."
            )
        self.best = run.best() if run.best_lora() is None else run.best_lora()
        """Step with the least validation loss of those that can be used."""
        patience = self._recipe_value("train", "patience")
        self.ended = early_stop(self.rows, patience if isinstance(patience, int) else None)
        """Whether evaluations have ended the run before its last step, and why."""
        self.validation = series(self.rows, "held_out")
        self.losses = series(self.rows, "loss")

    def parts(self) -> dict[str, Any]:
        """The values of the template."""
        sections = [
            self._samples(),
            self._curve(),
            self._judgement(),
            self._comparison(),
            self._sets(),
            self._images(),
            self._making(),
        ]
        problems = [f'<p class="warn">{escape(text)}</p>' for text in self.problems]
        return {
            "title": self.title,
            "kind": "Training report" if self.full else "LoRA training report",
            "lead": Markup(self._lead()),
            "key": Markup(self._key()),
            "body": Markup("\n".join([*problems, *sections])),
            "footer": footer(),
        }

    def _read(self, reader: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return reader()
        except BadData as error:
            self.problems.append(str(error).replace(str(self.run.path), self.run.path.name))
            return otherwise

    def _recipe(self) -> tuple[str, dict[str, Any]]:
        if not self.run.recipe_path.is_file():
            return "", {}
        text = self.run.recipe_path.read_bytes().decode("utf-8", "replace")
        try:
            return text, tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            self.problems.append(f"recipe.toml cannot be read: {error}.")
            return text, {}

    def _recipe_value(self, section: str, key: str) -> Any:
        values = self.recipe.get(section)
        return values.get(key) if isinstance(values, dict) else None

    # the head ----------------------------------------------------------------------------------------------

    def _lead(self) -> Html:
        base, trigger, rank = (
            self.recipe.get("base"),
            self._recipe_value("data", "trigger"),
            self._recipe_value("lora", "rank"),
        )
        trained = "all weights trained" if self.full else f"rank {rank}" if rank else ""
        facts = [
            f"on {Path(str(base)).name}" if base else "",
            f"trigger “{trigger}”" if trigger else "",
            trained,
        ]
        return escape(" · ".join(text for text in facts if text)) or "The recipe is not there yet."

    def _key(self) -> Html:
        last_step, total_steps = (
            max((row["step"] for row in self.rows), default=0),
            self._recipe_value("train", "steps"),
        )
        is_open = isinstance(total_steps, int) and total_steps > last_step
        note = f"of {total_steps}" if is_open else "finished"
        note = f"stopped early, {note}" if is_open and self.ended else note
        facts = [("Steps", f"{last_step}", note)]
        if not last_step:
            facts = [("Steps", "0", "not started")]
        if self.losses:
            facts.append(("Training loss", f"{smooth(self.losses)[-1][1]:.4g}", "smoothed, at the end"))
        if self.validation:
            step, best = min(self.validation, key=lambda point: point[1])
            facts.append(
                (
                    "Best validation loss",
                    f"{best:.4g}",
                    f"step {step:.0f}; at first {self.validation[0][1]:.4g}",
                )
            )
        if images := len(self._entries("images")):
            left_out = len(self._entries("rejected"))
            facts.append(("Images", f"{images}", f"{left_out} left out" if left_out else "none left out"))
        if seconds := series(self.rows, "seconds"):
            durations = [value for _, value in seconds]
            facts.append(
                ("Training time", _duration(sum(durations)), f"{statistics.median(durations):.3g} s a step")
            )
        if self.run.lora_path.is_file():
            facts.append(("LoRA file", human(self.run.lora_path.stat().st_size), self.run.lora_path.name))
        if self.run.model_path.is_dir():
            size = sum(path.stat().st_size for path in self.run.model_path.rglob("*.safetensors"))
            facts.append(("Model", human(size), f"{self.run.model_path.name}/"))
        if self.best is not None:
            facts.append(("Best LoRA" if self.run.step_loras() else "Best checkpoint", f"{self.best}", ""))
        link = self._best_link("get it")
        cells = [
            f"<div><dt>{n}</dt><dd>{escape(v)}<small>{escape(s) if s else link}</small></dd></div>"
            for n, v, s in facts
        ]
        return f'<dl class="key">{"".join(cells)}</dl>'

    # the sections ------------------------------------------------------------------------------------------

    def _samples(self) -> Html:
        names = (set_of_prompt(self.data, index) for index in range(len(self.prompts)))
        prompts = [
            f"{name}: {prompt}" if name else prompt for name, prompt in zip(names, self.prompts, strict=True)
        ]
        grid = SampleGrid(self.run, prompts, Pairs.of(self.data), self.best, self._best_link)
        body, note, problems = grid.parts()
        self.problems += problems
        return _section("Samples", body, note) if body else ""

    def _best_link(self, text: str) -> Html:
        """A link to the LoRA of the best step, or to its checkpoint where a whole base is trained."""
        if self.best is None:
            return escape(text)
        lora, checkpoint = self.run.step_lora_path(self.best), self.run.checkpoint_path(self.best)
        path = (lora if lora.is_file() else checkpoint).relative_to(self.run.path)
        return f'<a href="{escape(path.as_posix())}">{escape(text)}</a>'

    def _curve(self) -> Html:
        drawing = curves(self.rows)
        if not drawing:
            return _section("Loss", '<p class="note">No losses have been measured yet.</p>')
        legend = (
            '<div class="legend"><span><i style="color:var(--ink)"></i>training, smoothed</span>'
            '<span><i style="color:var(--soft);opacity:.5"></i>training, each step</span>'
            '<span><i style="color:var(--accent)"></i>validation</span></div>'
        )
        note = "Validation loss is measured at fixed times and noise, so its points compare with each other. "
        note += "Where it rises while training loss falls, images are learned by heart."
        note += f" {self.ended.text} The LoRA is that of step {self.ended.best}." if self.ended else ""
        return _section("Loss", f'{legend}<div class="wide">{drawing}</div>', note if self.validation else "")

    def _judgement(self) -> Html:
        """Likeness, prompt-following and leak by step, where ``limner judge`` has measured them."""
        path = self.run.judge_path
        if not path.is_file():
            return ""
        judgement = imported("limner.report.judgement:judgement")
        body, note = judgement(self._read(lambda: self.run.read(path), None))
        return _section("Likeness and leak", body, note) if body else ""

    def _comparison(self) -> Html:
        """Plan beside measurement."""
        status = read_status(self.run.path)
        body = comparison(self.plan, self.rows, status.planned_bytes if status else None)
        note = "What was planned before the run, and what it took."
        return _section("Planned and measured", body, note) if body else ""

    def _sets(self) -> Html:
        rows = set_rows(self.data, self.rows)
        if not rows:
            return ""
        note = "Validation loss of each set at first, at its best and at the end."
        return _section(f"Sets ({len(rows)})", records(rows), note)

    def _entries(self, name: str) -> list[dict[str, Any]]:
        value = self.data.get(name)
        return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []

    def _images(self) -> Html:
        images, rejections = self._entries("images"), self._entries("rejected")
        if not images and not rejections:
            return _section("Images", '<p class="note">The images have not been read yet.</p>')
        parts = [f'<div class="images">{"".join(_card(entry) for entry in images[:SHOWN_IMAGES])}</div>']
        if rest := images[SHOWN_IMAGES:]:
            names = ", ".join(escape(entry.get("name", "")) for entry in rest[:NAMES])
            parts.append(f"<details><summary>{len(rest)} more</summary>{names}</details>")
        if rejections:
            rows = [
                {"image": entry.get("name", ""), "why": entry.get("reason", "")}
                for entry in rejections[:NAMES]
            ]
            note = (
                f'<p class="note">{left_out(len(rejections) - NAMES, "image")}</p>'
                if len(rejections) > NAMES
                else ""
            )
            parts.append(f"<h3>Left out ({len(rejections)})</h3>{records(rows)}{note}")
        return _section(f"Images ({len(images)})", "".join(parts))

    def _making(self) -> Html:
        timings = self._timings()
        environment = _environment()
        parts = [f"<div><h3>Environment</h3>{table(environment)}</div>"]
        if timings:
            parts.append(f"<div><h3>Timings</h3>{table(timings)}</div>")
        shared = LOCAL.sub(r"\1…/\2\1", self.text)
        recipe = _folded("Recipe", f"<pre>{escape(shared)}</pre>") if shared else ""
        plan = _folded("Plan in full", table(self.plan)) if self.plan else ""
        return _section("How it was made", f'<div class="two">{"".join(parts)}</div>{recipe}{plan}')

    def _timings(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        if clock := [value for _, value in series(self.rows, "time") if 0 < value < LATEST]:
            ends = (datetime.fromtimestamp(value) for value in (min(clock), max(clock)))
            out["from, to"] = " – ".join(f"{end:%Y-%m-%d %H:%M}" for end in ends)
        if seconds := [value for _, value in series(self.rows, "seconds")]:
            out["training steps"] = _duration(sum(seconds))
            out["median step"] = f"{statistics.median(seconds):.3g} s"
        return out


def _section(headline: Html, body: Html, note: str = "") -> Html:
    paragraph = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{headline}</h2>{paragraph}{body}</section>"


def _folded(title: str, body: Html) -> Html:
    return f"<details><summary>{title}</summary>{body}</details>"


def _card(entry: Mapping[str, Any]) -> Html:
    """One training image: picture, name, sizes, captions."""
    captions = entry.get("captions")
    texts = [str(caption) for caption in captions] if isinstance(captions, list) else []
    sizes = [entry.get("size"), *(entry.get("smaller") or [])]
    pairs = [f"{size[0]}×{size[1]}" for size in sizes if isinstance(size, list) and len(size) == 2]
    bucket = f" → {', '.join(pairs)}" if pairs else ""
    facts = f"{entry.get('width', '?')}×{entry.get('height', '?')}{bucket}"
    if entry.get("held_out") is True:
        facts += " · held out"
    name, share = str(entry.get("name", "")), entry.get("mask_share")
    images = image(thumbnail(entry.get("thumb"), SIDE), name)
    if entry.get("mask"):
        images += image(thumbnail(entry.get("mask"), SIDE), f"{name}, tinted where its mask is black")
        facts += f" · {share:.0%} of it learned" if isinstance(share, int | float) else ""
    lines = "".join(f"<span>{escape(caption[:CAPTION])}</span>" for caption in texts[:4])
    return (
        f"<figure>{images}<figcaption><b>{escape(name)}</b>"
        f"<small>{escape(facts)}</small>{lines}</figcaption></figure>"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def _environment() -> dict[str, str]:
    machine = f"{platform.system()}, {platform.machine()}, {os.cpu_count()} CPU cores"
    return {"machine": machine, "python": platform.python_version()} | {
        name: version for name in PACKAGES if (version := _version(name))
    }


@cache
def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
