"""Files: what a LoRA is, and the same for another tool, at another rank, merged, extracted, baked in."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import streamlit as st

from limner.files import human
from limner.models.registry import registered_bases
from limner.recipe.fields import Tool
from limner.studio.form import Form
from limner.studio.links import parameter, tell_missing
from limner.studio.publish_view import draw_publish
from limner.studio.text import plain
from limner.studio.uploads import save_lora
from limner.studio.verbs import ask
from limner.studio.workspace import Workspace, current, safe_name

TOOLS = get_args(Tool)
"""Names of the programs that files are written for."""
RANKS = (1, 4096)
SCALE = (-2.0, 2.0, 0.05)
"""Least and most strength, and the distance of two marks of the slider."""


def page() -> None:
    """Draw it."""
    workspace = current()
    st.title("Files")
    _add(workspace)
    names = [workspace.named(path) for path in workspace.lora_files()]
    if not names:
        st.info("There is no LoRA yet. Train one, make one on the page Instant, or add a file above.")
        return
    selection = parameter("lora")
    is_missing = tell_missing(selection, names)
    index = names.index(selection) if selection in names else 0
    name = st.selectbox("LoRA", names, index=index, key=f"lora-{selection}")
    if not is_missing or name != names[index]:  # until another is chosen the address says what is missing
        st.query_params["lora"] = name
    lora = workspace.inside(name)
    labels = ("Info", "Convert", "Resize", "Merge", "Extract", "Merge into a base", "Publish")
    tabs = st.tabs(labels, default=_tab(labels), key="files-tab", on_change="rerun")
    views = (_info, _convert, _resize, _merge, _extract, _merge_into_base, draw_publish)
    for label, tab, draw in zip(labels, tabs, views, strict=True):
        if tab.open:  # the others ask verbs, too, which takes their time
            st.query_params["view"] = label
            with tab:
                draw(workspace, lora)


def _tab(labels: Sequence[str]) -> str:
    """The part of the page that the address names."""
    return parameter("view") if parameter("view") in labels else labels[0]


def _add(workspace: Workspace) -> None:
    with st.expander("Add a LoRA file of any tool"):
        upload = st.file_uploader("A .safetensors file", type="safetensors", key="lora-upload")
        if upload is not None and st.button("Add"):
            path = save_lora(workspace, upload)
            st.query_params["lora"] = workspace.named(path)
            st.rerun()


@st.cache_data(show_spinner="Reading the file ...", max_entries=50)
def _facts(path: str, mtime: int, workspace: str) -> dict[str, Any]:
    del mtime  # a file that was written anew is read anew
    return ask(["lora", "info", path], folder=Path(workspace))


def _info(workspace: Workspace, lora: Path) -> None:
    facts = _facts(str(lora), lora.stat().st_mtime_ns, str(workspace.root))
    cells = st.columns(4)
    cells[0].metric("Family", facts["family"] or "unknown")
    cells[1].metric("Written as", facts["form"])
    cells[2].metric("Size", human(facts["bytes"]))
    cells[3].metric("dtype", facts["dtype"])
    if facts["triggers"]:
        st.markdown(f"Trigger: **{plain(', '.join(facts['triggers']))}**")
    for problem in facts["problems"]:
        st.warning(plain(problem))
    rows = [_component(row) for row in facts["components"]]
    st.dataframe(rows, hide_index=True)
    st.markdown("**Who loads it**")
    for tool, words in facts["loads"].items():
        icon = ":material/check:" if words == "yes" else ":material/close:"
        st.markdown(f"{icon} {plain(tool)}: {plain(words)}")
    if facts["training"]:
        st.markdown("**How it was trained**")
        st.table({plain(key): plain(value) for key, value in facts["training"].items()})


def _component(row: Mapping[str, Any]) -> dict[str, str]:
    ranks = ", ".join(f"{rank} ({count})" for rank, count in row["ranks"].items())
    return {
        "component": row["name"],
        "layers": str(row["modules"]),
        "kind": ", ".join(row["kinds"]),
        "ranks (layers)": ranks,
        "norm": f"{row['norm']:.3g}",
    }


def _form(workspace: Workspace, lora: Path) -> tuple[Form, str]:
    """The fields of the page, and how a LoRA is called in their names."""
    return Form(workspace, "files"), workspace.named(lora)


def _out(workspace: Workspace, name: str) -> Path:
    """Where a new file goes: into ``loras/``."""
    workspace.loras.mkdir(parents=True, exist_ok=True)
    return workspace.inside(workspace.loras / f"{safe_name(name.removesuffix('.safetensors'))}.safetensors")


def _write(workspace: Workspace, arguments: Sequence[str | Path], words: str) -> None:
    """Run a verb that writes a file, and say what came of it."""
    with st.spinner(words):
        report = ask(["lora", *arguments], folder=workspace.root)
    if "modules" not in report:  # a base with the LoRA in it
        st.success(plain(f"{report['weights']} weights changed ({report['family']})"))
        return
    st.success(
        plain(
            f"{report['path']}: {report['modules']} modules for {report['tool']}, read back within "
            f"{report['error']:.1e}"
        ),
        icon=":material/check_circle:",
    )
    losses = sorted(report.get("losses") or [], key=lambda loss: -loss["relative"])
    if losses:
        st.caption(plain(f"Lost of a module's change: {losses[0]['relative']:.1%} at most"))
    for line in (report.get("left_out") or [])[:8]:
        st.caption(plain(f"Not in the file: {line}"))


def _convert(workspace: Workspace, lora: Path) -> None:
    form, file = _form(workspace, lora)
    tool = form.select("For", TOOLS, TOOLS[0], name="convert-to")
    leaves_out = form.checkbox("Leave out what the tool cannot read", name="convert-leave-out")
    name = form.text("Name", f"{_title(lora)}-{tool}", name=f"convert-{file}-{tool}")
    if st.button("Convert", type="primary"):
        options = ["--leave-out"] if leaves_out else []
        arguments = ["convert", lora, "--to", tool, *options, "--out", _out(workspace, name)]
        _write(workspace, arguments, "Writing, and reading it back by the tool's rules ...")


def _resize(workspace: Workspace, lora: Path) -> None:
    form, file = _form(workspace, lora)
    rank = form.number("LoRA rank (network_dim)", RANKS, 8, name="resize-rank")
    name = form.text("Name", f"{_title(lora)}-rank{rank}", name=f"resize-{file}-{rank}")
    if st.button("Resize", type="primary"):
        arguments = ["resize", lora, "--rank", str(rank), "--out", _out(workspace, name)]
        _write(workspace, arguments, "Finding the nearest of that rank ...")


def _merge(workspace: Workspace, lora: Path) -> None:
    names = [workspace.named(path) for path in workspace.lora_files() if path != lora]
    form, file = _form(workspace, lora)
    additions = form.several("Merge with", names, name=f"merge-with-{file}")
    loras = [file, *additions]
    weights = [form.slider(f"Strength of {plain(name)}", SCALE, 1.0, name=f"merge-{name}") for name in loras]
    name = form.text("Name", f"{_title(lora)}-merged", name=f"merge-name-{file}")
    if st.button("Merge", type="primary", disabled=not additions):
        options = [word for weight in weights for word in ("--weight", f"{weight:g}")]
        paths = [workspace.inside(name) for name in loras]
        _write(workspace, ["merge", *paths, *options, "--out", _out(workspace, name)], "Merging ...")


def _extract(workspace: Workspace, lora: Path) -> None:
    st.caption("A fine-tune's difference to its base, as a LoRA.")
    form, _ = _form(workspace, lora)
    bases = list(registered_bases())
    base = form.select("Base", bases, bases[0], name="extract-base", accept_new_options=True)
    finetune = form.text("Fine-tune: a file or folder in the workspace", name="extract-tuned")
    rank = form.number("LoRA rank (network_dim)", RANKS, 32, name="extract-rank")
    name = form.text("Name", "extracted", name="extract-name")
    if st.button("Extract", type="primary", disabled=not (base and finetune)):
        arguments = ["extract", str(base), workspace.inside(finetune), "--rank", str(rank)]
        _write(workspace, [*arguments, "--out", _out(workspace, name)], "Extracting ...")


def _merge_into_base(workspace: Workspace, lora: Path) -> None:
    st.caption("A base with the LoRA in it for good, for programs that read no LoRA.")
    form, _ = _form(workspace, lora)
    base = form.text("Base: a file or folder in the workspace", name="into-base")
    weight = form.slider("Strength", SCALE, 1.0, name="into-weight")
    name = form.text("Name of the new file or folder", name="into-name")
    if st.button("Merge into the base", type="primary", disabled=not (base and name)):
        source = workspace.inside(base)
        suffix = source.suffix if source.is_file() else ""
        target = workspace.inside(workspace.root / "bases" / f"{safe_name(name)}{suffix}")
        target.parent.mkdir(parents=True, exist_ok=True)
        options = ["--base", source, "--weight", f"{weight:g}", "--out", target]
        _write(workspace, ["merge-into-base", lora, *options], "Writing the base ...")


def _title(lora: Path) -> str:
    """What a LoRA is called: its file, or the run that it is of."""
    return lora.parent.name if lora.stem == "lora" else lora.stem
