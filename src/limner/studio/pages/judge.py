"""Judge and choose: which step and strength of a run's LoRA to use, by measure and by a blind vote."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from limner.errors import LimnerError
from limner.files import human
from limner.jobs import Job
from limner.run_folder import RunDir
from limner.studio.complaints import guarded
from limner.studio.form import Form
from limner.studio.links import link, parameter, tell_missing
from limner.studio.live import redraw_on_change, states
from limner.studio.show import ACTIVE, job_line, show_image
from limner.studio.text import plain
from limner.studio.verbs import ask
from limner.studio.votes import Cell, add_vote, cells_of, pairs, read_votes, wilson
from limner.studio.workspace import Workspace, current


def page() -> None:
    """Draw it."""
    workspace = current()
    st.title("Judge and choose")
    names = [run.path.name for run in workspace.run_folders() if run.step_loras()]
    if not names:
        st.info("There is no run with a LoRA yet. Train one first; each checkpoint keeps its LoRA.")
        link("run", "Run", icon=":material/play_circle:")
        return
    selection = parameter("run")
    is_missing = tell_missing(selection, names)
    index = names.index(selection) if selection in names else 0
    name = st.selectbox("Run", names, index=index, key=f"judge-{selection}")
    if not is_missing or name != names[index]:  # until another is chosen the address says what is missing
        st.query_params["run"] = name
    run = RunDir(workspace.inside(workspace.runs / name))
    redraw_on_change(lambda: states(_jobs(name)))
    _form(workspace, run)
    _progress(name)
    record = _record(run)
    if record:
        _table(record)
        _choice(workspace, run, record)
        _sheet(run)
        _vote(workspace, run, cells_of(record))


def _record(run: RunDir) -> Mapping[str, Any]:
    try:
        record = run.read(run.judge_path)
    except LimnerError as error:
        st.error(plain(error))
        return {}
    if record is not None and not _is_readable(record):
        st.error(
            plain(f"{run.judge_path} was written by another version of Limner, or is damaged. Judge anew.")
        )
        return {}
    return record or {}


def _is_readable(record: Any) -> bool:
    """Whether a record has what the page shows of it."""
    try:
        cells, advice = cells_of(record), record["recommendation"]
        return bool(cells) and {"step", "strength", "reason"} <= advice.keys() and bool(record["encoder"])
    except (LookupError, TypeError, ValueError, AttributeError):
        return False


def _form(workspace: Workspace, run: RunDir) -> None:
    with st.expander("What to judge", expanded=not run.judge_path.is_file()):
        form, name = Form(workspace, "judge"), run.path.name
        steps = form.several(
            "Training steps", [step for step, _ in run.step_loras()], name=f"steps-{name}", placeholder="all"
        )
        strengths = form.text("LoRA scales (strengths)", "0.4,0.6,0.8,1,1.2", name=f"strengths-{name}")
        seeds = form.number("Seeds", (1, 64), 4, name=f"seeds-{name}")
        prompts = form.area(
            "Prompts, one per line", name=f"prompts-{name}", placeholder="those of the recipe"
        )
        encoder = form.text(
            "Vision encoder: hub id or folder", name="encoder", placeholder="SigLIP 2; on glyph its judge"
        )
        if st.button("Judge", icon=":material/balance:", type="primary"):
            options = [f"--steps={','.join(map(str, steps))}"] if steps else []
            options += [f"--strengths={strengths}", f"--seeds={seeds}"]
            options += [f"--prompt={line}" for line in prompts.splitlines() if line.strip()]
            options += [f"--encoder={encoder}"] if encoder else []
            title = f"Judge {run.path.name}"
            arguments = ["judge", str(run.path), *options, "--json"]
            workspace.jobs.add(arguments, title=title, device="gpu", run=run.path, cwd=workspace.root)


def _jobs(name: str) -> list[Job]:
    """The judgings of a run, the newest last."""
    workspace = current()
    jobs = workspace.jobs_of(RunDir(workspace.runs / name))
    return [job for job in jobs if job.arguments and job.arguments[0] == "judge"]


def _progress(name: str) -> None:
    """The judging under way, or why the last one failed."""
    jobs = _jobs(name)
    for job in jobs:
        if job.state in ACTIVE or (job is jobs[-1] and job.state in ("failed", "died")):
            job_line(job)


def _table(record: Mapping[str, Any]) -> None:
    st.caption(plain(f"Encoder: {record['encoder']}. Means, with intervals of 95 % over prompts and seeds."))
    rows = []
    for cell in record["cells"]:
        measures = {key: _interval(value) for key, value in cell.items() if isinstance(value, dict)}
        step = str(cell["step"]) if cell["step"] else "base"
        rows.append({"step": step, "strength": f"{cell['strength']:g}", **measures})
    st.dataframe(rows, hide_index=True)


def _interval(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.2f} ({value['low']:.2f} to {value['high']:.2f})"


def _choice(workspace: Workspace, run: RunDir, record: Mapping[str, Any]) -> None:
    """The recommendation with its reason, and a button that makes a cell the run's LoRA."""
    advice = record["recommendation"]
    (st.success if advice["step"] is not None else st.info)(plain(advice["reason"]))
    cells = [cell for cell in cells_of(record) if cell[0]]
    labels = {_label(cell): cell for cell in cells}
    default = (advice["step"], advice["strength"])
    start = _label(default if default in cells else max(cells, key=_as_trained))
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    form = Form(workspace, "judge")
    label = form.select(
        "Make it the run's LoRA", list(labels), start, name=f"choice-{run.path.name}", column=left
    )
    if label and right.button("Choose", icon=":material/check:", width="stretch"):
        step, strength = labels[label]
        arguments = ["judge", run.path, f"--choose={step}", f"--strength={strength:g}"]
        paths = ask(arguments, folder=workspace.root)["loras"]
        record = _record(run)  # which has the choice now
        st.toast(plain(f"Written: {', '.join(workspace.named(run.path / path) for path in paths)}"))
    if current_cell := record.get("chosen"):
        st.caption(f"Chosen: {_label((current_cell['step'], current_cell['strength']))}")


def _as_trained(cell: Cell) -> tuple[int, float]:
    """The larger, the nearer to the LoRA as it is: the last step at strength 1."""
    return cell[0], -abs(cell[1] - 1)


def _label(cell: Cell) -> str:
    return f"step {cell[0]}, strength {cell[1]:g}" if cell[0] else "base"


def _sheet(run: RunDir) -> None:
    if run.judge_sheet_path.is_file():
        with st.expander("The grid: checkpoint x strength", expanded=True):
            st.image(run.judge_sheet_path, width="stretch")
            st.download_button(
                f"Download the sheet, {human(run.judge_sheet_path.stat().st_size)}",
                lambda: run.judge_sheet_path.open("rb"),
                file_name=f"{run.path.name}-sheet.jpg",
                on_click="ignore",
            )


def _vote(workspace: Workspace, run: RunDir, cells: list[Cell]) -> None:
    """A blind vote between two cells."""
    if len(cells) < 2:
        return
    st.subheader("Blind vote")
    labels = {_label(cell): cell for cell in cells}
    left, right = st.columns(2)
    form, names = Form(workspace, "judge"), list(labels)
    first = labels[form.select("Between", names, names[-1], name=f"first-{run.path.name}", column=left)]
    second = labels[form.select("and", names, names[0], name=f"second-{run.path.name}", column=right)]
    if first == second:
        st.caption("Choose two different ones.")
        return
    _ballot(run, first, second)


@st.fragment
@guarded
def _ballot(run: RunDir, first: Cell, second: Cell) -> None:
    votes = read_votes(run, first, second)
    pair = next((pair for pair in pairs(run, first, second) if pair.key not in votes), None)
    if pair is not None:
        st.caption("Which is better? What they are is not shown.")
        for cell, path, is_left in zip(st.columns(2), (pair.left, pair.right), (True, False), strict=True):
            with cell:
                show_image(path)
                label = "Left" if is_left else "Right"
                if st.button(label, key=f"vote-{label}", width="stretch"):
                    add_vote(run, first, second, pair.key, for_first=is_left != pair.swapped)
                    st.rerun()
    if votes:
        wins = sum(votes.values())
        low, high = wilson(wins, len(votes))
        words = "cannot be told apart yet" if low <= 0.5 <= high else "are told apart"
        st.markdown(
            f"{plain(_label(first))} was preferred in **{wins} of {len(votes)}** "
            f"({low:.0%} to {high:.0%}): they {words}."
        )
