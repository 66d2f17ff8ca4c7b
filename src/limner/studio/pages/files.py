"""Files: what a LoRA is, and the same for another tool, at another rank, merged, extracted, baked in."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import streamlit as st

from limner.files import human
from limner.models.registry import registered_bases
from limner.recipe.fields import Tool
from limner.studio.links import parameter
from limner.studio.publish_view import draw_publish
from limner.studio.text import plain
from limner.studio.uploads import save_lora
from limner.studio.verbs import ask
from limner.studio.workspace import Workspace, current, safe_name

TOOLS = get_args(Tool)
"""Names of the programs that files are written for."""


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
    index = names.index(selection) if selection in names else 0
    name = st.selectbox("LoRA", names, index=index, key=f"lora-{selection}")
    st.query_params["lora"] = name
    lora = workspace.inside(name)
    labels = ("Info", "Convert", "Resize", "Merge", "Extract", "Merge into a base", "Publish")
    tabs = st.tabs(labels)
    for tab, draw in zip(
        tabs, (_info, _convert, _resize, _merge, _extract, _merge_into_base, draw_publish), strict=True
    ):
        with tab:
            draw(workspace, lora)


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
    cells[3].metric("Numbers", facts["dtype"])
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
    tool = st.selectbox("For", TOOLS, key="convert-to")
    leaves_out = st.checkbox("Leave out what the tool cannot read", key="convert-leave-out")
    name = st.text_input("Name", value=f"{_title(lora)}-{tool}", key=f"convert-{lora}-{tool}")
    if st.button("Convert", type="primary"):
        options = ["--leave-out"] if leaves_out else []
        arguments = ["convert", lora, "--to", tool, *options, "--out", _out(workspace, name)]
        _write(workspace, arguments, "Writing, and reading it back by the tool's rules ...")


def _resize(workspace: Workspace, lora: Path) -> None:
    rank = st.number_input("LoRA rank (network_dim)", min_value=1, value=8, key="resize-rank")
    name = st.text_input("Name", value=f"{_title(lora)}-rank{rank}", key=f"resize-{lora}-{rank}")
    if st.button("Resize", type="primary"):
        arguments = ["resize", lora, "--rank", str(rank), "--out", _out(workspace, name)]
        _write(workspace, arguments, "Finding the nearest of that rank ...")


def _merge(workspace: Workspace, lora: Path) -> None:
    names = [workspace.named(path) for path in workspace.lora_files() if path != lora]
    additions = st.multiselect("Merge with", names, key=f"merge-{lora}")
    loras = [workspace.named(lora), *additions]
    weights = [
        st.slider(f"Strength of {plain(name)}", -2.0, 2.0, 1.0, 0.05, key=f"merge-{name}") for name in loras
    ]
    name = st.text_input("Name", value=f"{_title(lora)}-merged", key=f"merge-name-{lora}")
    if st.button("Merge", type="primary", disabled=not additions):
        options = [word for weight in weights for word in ("--weight", f"{weight:g}")]
        paths = [workspace.inside(name) for name in loras]
        _write(workspace, ["merge", *paths, *options, "--out", _out(workspace, name)], "Merging ...")


def _extract(workspace: Workspace, lora: Path) -> None:
    del lora
    st.caption("A fine-tune's difference to its base, as a LoRA.")
    base = st.selectbox("Base", list(registered_bases()), accept_new_options=True, key="extract-base")
    finetune = st.text_input("Fine-tune: a file or folder in the workspace", key="extract-tuned")
    rank = st.number_input("LoRA rank (network_dim)", min_value=1, value=32, key="extract-rank")
    name = st.text_input("Name", value="extracted", key="extract-name")
    if st.button("Extract", type="primary", disabled=not (base and finetune)):
        arguments = ["extract", str(base), workspace.inside(finetune), "--rank", str(rank)]
        _write(workspace, [*arguments, "--out", _out(workspace, name)], "Extracting ...")


def _merge_into_base(workspace: Workspace, lora: Path) -> None:
    st.caption("A base with the LoRA in it for good, for programs that read no LoRA.")
    base = st.text_input("Base: a file or folder in the workspace", key="into-base")
    weight = st.slider("Strength", -2.0, 2.0, 1.0, 0.05, key="into-weight")
    name = st.text_input("Name of the new file or folder", key="into-name")
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
