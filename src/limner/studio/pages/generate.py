"""Generate: a prompt becomes images, with LoRAs or without; before and after; grids; the history."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st
from PIL import Image

from limner.errors import LimnerError
from limner.jobs import Job
from limner.recipe.toml import load, with_trigger
from limner.run_folder import STRENGTH, RunDir
from limner.studio import loaded_base
from limner.studio.complaints import guarded
from limner.studio.form import Form
from limner.studio.links import link, page_number, parameter, tell_missing
from limner.studio.live import redraw_on_change, states
from limner.studio.show import ACTIVE, job_line, show_image
from limner.studio.text import plain
from limner.studio.workspace import Workspace, current
from limner.studio.xy_grid import GRID, Axes, axes_of, default_axes, fill_form, record_of, settings_of

SCALE = (-2.0, 2.0, 0.05)
"""Least and most strength of a LoRA, and the distance of two marks of the slider."""
HISTORY = 12
"""Images of a page of what was made so far."""
WIPE = 512
"""Pixels of the longer side of a comparison."""


def page() -> None:
    """Draw it."""
    workspace = current()
    st.title("Generate")
    targets = _targets(workspace)
    if not targets:
        st.info("There is no LoRA yet. Train one, or make one on the page Instant.")
        link("plan", "Plan and recipe", icon=":material/tune:")
        link("instant", "Instant", icon=":material/bolt:")
        return
    left, right = st.columns([2, 3], gap="large")
    with left:
        _form(workspace, targets)
    target = targets[_index(targets)]
    with right:
        _newest(workspace, target)
    _history(workspace, target)


def _targets(workspace: Workspace) -> list[str]:
    """Runs with a LoRA, and LoRA files that were made without one."""
    runs = [run.path for run in workspace.run_folders() if run.lora_path.is_file()]
    files = [path for path in workspace.lora_files() if path.parent == workspace.loras]
    return [workspace.named(path) for path in (*runs, *files)]


def _index(targets: Sequence[str]) -> int:
    """The target that the address names, by run or by file."""
    names = (f"runs/{parameter('run')}", parameter("lora"))
    return next((targets.index(name) for name in names if name in targets), 0)


def _target(targets: list[str]) -> str:
    """The LoRA that the address names, or one that is chosen."""
    index = _index(targets)
    tell_missing(f"runs/{parameter('run')}" if parameter("run") else parameter("lora"), targets)
    target = st.selectbox("LoRA", targets, index=index, key=f"target-{index}")
    if target != targets[index]:
        st.query_params.pop("run", None)
        st.query_params["lora"] = target
    return target


def _form(workspace: Workspace, targets: list[str]) -> None:
    form = Form(workspace, "generate")
    target = _target(targets)
    path = workspace.inside(target)
    prompt = form.area("Prompt", _first_prompt(RunDir(path)), name=f"prompt-{target}")
    negative = form.text("Negative prompt", name="negative")
    strength = form.slider("LoRA scale (strength)", SCALE, 1.0, name=f"strength-{target}")
    additions = form.several(
        "Further LoRAs", [name for name in targets if name != target], name=f"further-{target}"
    )
    strengths = {
        name: form.slider(f"Strength of {plain(name)}", SCALE, 1.0, name=f"add-{name}") for name in additions
    }
    sampling = _sampling(form)
    with_base = form.toggle("Before and after: the base alone beside it", default=True, name="with-base")
    stays_loaded = form.toggle(
        "Keep the base loaded", default=True, name="stays-loaded", help="The next image begins at once."
    )
    is_pressed = st.button("Generate", icon=":material/brush:", type="primary", width="stretch")
    axes = axes_of(form, target, RunDir(path))
    if not (is_pressed or axes):
        return
    if not prompt.strip():
        st.error("Write a prompt first: what the image shall show. [trigger] stands for the trigger word.")
        return
    if not axes and stays_loaded and loaded_base.gpu_is_free(workspace):
        request = {
            "run": str(path),
            "loras": [{"path": str(workspace.inside(name)), "strength": v} for name, v in strengths.items()],
            "prompt": with_trigger(prompt, _trigger(RunDir(path))),
            "negative": negative or None,
            **sampling,
            "out": str(workspace.outputs),
        }
        _generate_now(request, (0.0, strength) if with_base else (strength,))
        return
    axes = axes or Axes(f"0,{strength:g}" if with_base else f"{strength:g}", "")
    values = {"--prompt": prompt, "--negative-prompt": negative, **_flags(sampling)}
    words = _words({**values, "--lora-scale": axes.strengths, "--step": axes.steps})
    words += [f"--lora={workspace.inside(name)}:{value:g}" for name, value in strengths.items()]
    generate(workspace, path, words)


def _flags(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """How to sample, by the verb's flags."""
    names = {"count": "images-per-prompt"}
    return {f"--{names.get(key, key)}": value for key, value in sampling.items()}


def _words(values: Mapping[str, Any]) -> list[str]:
    """Flags and values as a command has them; what is empty is the verb's own."""
    return [f"{flag}={value}" for flag, value in values.items() if value not in (None, "")]


def send_to_grid(workspace: Workspace, target: str, record: Mapping[str, Any]) -> None:
    """Make the XY grid of an image: what made it goes into the form, and the grid into the queue.

    Args:
        workspace: Where.
        target: The LoRA that is chosen on the page.
        record: What the image was made from.
    """
    fill_form(workspace, target, record)
    run = RunDir(workspace.inside(target))
    axes = default_axes(run)
    values = {"--prompt": record["prompt"], "--negative-prompt": record.get("negative_prompt")}
    values |= {**_flags(settings_of(record)), "--lora-scale": axes.strengths, "--step": axes.steps}
    generate(workspace, run.path, _words(values))


def _sampling(form: Form) -> dict[str, Any]:
    """How to sample: what is empty is the base's own."""
    cells = [*st.columns(3), *st.columns(3, vertical_alignment="bottom")]
    sides = {"step": 16, "placeholder": "as trained"}
    return {
        "count": form.number("Images", (1, 64), 1, name="count", column=cells[0]),
        "seed": form.number("Seed", (0, 2**31 - 1), 0, name="seed", column=cells[1]),
        "steps": form.number("Steps", (1, 1000), name="steps", column=cells[2], placeholder="20"),
        "guidance": form.number(
            "Guidance (CFG)", (0.0, 100.0), name="guidance", column=cells[3], placeholder="the base's"
        ),
        "width": form.number("Width", (16, 8192), name="width", column=cells[4], **sides),
        "height": form.number("Height", (16, 8192), name="height", column=cells[5], **sides),
    }


def _trigger(run: RunDir) -> str:
    """What ``[trigger]`` in a prompt stands for; empty where there is no run."""
    try:
        return load(run.recipe_path).data.trigger if run.recipe_path.is_file() else ""
    except LimnerError:
        return ""


def _generate_now(request: dict[str, Any], strengths: Sequence[float]) -> None:
    """Have the loaded base make the images, and keep their paths in the address."""
    bar = st.progress(0.0, text="Loading the base ..." if not loaded_base.is_loaded() else "Generating ...")
    paths: list[str] = []
    for strength in strengths:
        for answer in loaded_base.generate({**request, "strength": strength}):
            match answer["kind"]:
                case "progress" if answer["total"]:
                    bar.progress(answer["done"] / answer["total"], text="Generating ...")
                case "line":
                    bar.progress(0.0, text=plain(answer["text"]))
                case "image":
                    paths.append(Path(answer["path"]).name)
                case "error":
                    st.error(plain(answer["message"]))
                    return
    bar.empty()
    st.query_params.pop("job", None)
    st.query_params["images"] = paths


def generate(workspace: Workspace, target: Path, options: Sequence[str]) -> Job:
    """Queue the generation; while a training has the GPU it waits for it, and says so."""
    out = workspace.outputs
    arguments = ["generate", str(target), *options, "--out", str(out), "--json"]
    title = f"Generate with {workspace.named(target)}"
    job = workspace.jobs.add(arguments, title=title, device="gpu", cwd=workspace.root)
    st.query_params["job"] = str(job.number)
    return job


def _first_prompt(run: RunDir) -> str:
    try:
        return next(iter(run.prompts()), "").partition(STRENGTH)[0]
    except LimnerError:
        return ""


def _face(workspace: Workspace, number: str) -> object:
    """What there is to see of a job: its state, and what it waits for."""
    job = _job(workspace, number)
    return job and (job.state, states(_trainings(workspace, job)))


def _job(workspace: Workspace, number: str) -> Job | None:
    return next((job for job in workspace.jobs.all() if str(job.number) == number), None)


def _newest(workspace: Workspace, target: str) -> None:
    """The job that the address names: its progress, then its images."""
    number = parameter("job")
    redraw_on_change(lambda: _face(workspace, number))
    job = _job(workspace, number)
    if job is None:
        names = [Path(name).name for name in st.query_params.get_all("images")]
        _show_images([workspace.outputs / name for name in names], target)
        return
    if job.state in ACTIVE and (trainings := _trainings(workspace, job)):
        st.info(plain(f"It waits for the GPU, which {trainings[0].title} has. Stop that, or wait."))
    if job.state != "done":
        job_line(job)
        return
    paths = [workspace.root / name for name in (job.result() or {}).get("images", [])]
    _show_images(paths, target)


@st.fragment
@guarded
def _show_images(paths: Sequence[Path], target: str) -> None:
    paths = [path for path in paths if path.is_file()]
    if not paths:
        st.caption("The images come here.")
    if len(paths) == 2:
        _wipe(paths[0], paths[1])
    for path in paths:
        _image(path, "new", target)


def _trainings(workspace: Workspace, job: Job) -> list[Job]:
    """Jobs before this one that have the GPU."""
    return [
        rival
        for rival in workspace.jobs.all()
        if rival.number < job.number and rival.device == "gpu" and rival.state in ACTIVE
    ]


def _wipe(before: Path, after: Path) -> None:
    """Two images of one seed as one, with the border where a slider stands."""
    share = st.slider("Before | after", 0, 100, 50, key=f"wipe-{after.name}")
    first, second = Image.open(before).convert("RGB"), Image.open(after).convert("RGB")
    if first.size != second.size:
        return
    border = round(first.width * share / 100)
    second.paste(first.crop((0, 0, border, first.height)), (0, 0))
    scale = max(1, WIPE // max(second.size))
    st.image(second.resize((second.width * scale, second.height * scale)), width="stretch")


def _image(path: Path, key: str, target: str) -> None:
    show_image(path)
    with st.expander(plain(path.name)):
        text = parameters(path)
        if text:
            st.code(text, language=None, wrap_lines=True)
        st.download_button(
            "Download",
            lambda: path.open("rb"),
            file_name=path.name,
            key=f"{key}-{path}",
            icon=":material/download:",
            width="stretch",
            on_click="ignore",
        )
        record = record_of(path)
        help_line = "Its prompt, seed and settings, with the LoRA that is chosen above"
        if record and st.button(
            "Send to XY grid", icon=GRID, key=f"grid-{key}-{path}", help=help_line, width="stretch"
        ):
            send_to_grid(current(), target, record)
            st.rerun()


def parameters(path: Path) -> str:
    """What made an image: AUTOMATIC1111's ``parameters`` of its metadata; empty where it has none."""
    try:
        with Image.open(path) as image:
            return str(image.info.get("parameters", ""))
    except (OSError, ValueError, SyntaxError):
        return ""


def _history(workspace: Workspace, target: str) -> None:
    paths = outputs(workspace)
    if not paths:
        return
    st.subheader(f"Made so far ({len(paths)})")
    pages = -(-len(paths) // HISTORY)
    number = page_number(pages)
    with st.grid(min_column_width=200):
        for path in paths[(number - 1) * HISTORY : number * HISTORY]:
            with st.container(border=True):
                _image(path, "old", target)


def outputs(workspace: Workspace) -> list[Path]:
    """Images that were generated here, the newest first."""
    if not workspace.outputs.is_dir():
        return []
    return sorted(workspace.outputs.glob("*.png"), key=lambda path: path.stat().st_mtime, reverse=True)
