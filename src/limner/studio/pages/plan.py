"""Plan and recipe: six questions, every other setting folded, and what the plan says of them at once."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import altair
import streamlit as st

from limner.errors import LimnerError
from limner.files import human, sha256_file
from limner.models.registry import named_base, registered_bases
from limner.planning.advice import CAUSES
from limner.planning.cards import PRICES
from limner.recipe import Recipe, aliases, toml
from limner.recipe.fields import ConceptType
from limner.reporter import duration, printable
from limner.studio import loaded_base
from limner.studio.alternatives import THIS_MACHINE, card_names, card_options, changes_of, hint
from limner.studio.complaints import guarded
from limner.studio.form import Form
from limner.studio.images.image_set import ImageSet
from limner.studio.links import open_page, parameter, tell_missing
from limner.studio.pages.run import start
from limner.studio.recipes import RecipeFile, new_recipe, purpose_of
from limner.studio.text import plain
from limner.studio.uploads import save_upload
from limner.studio.verbs import ask
from limner.studio.workspace import Workspace, current, safe_name

IMPORT = "import-answer"
"""What became of a configuration of another trainer is kept under this, with the recipe's name."""
PHASES = {"load": "loading", "cache": "caching", "train": "training", "sample": "sampling"}
"""Phases of a run in their order, and in words."""
QUESTIONS = ("base", "concept_type", "data.trigger", "data.resolution", "lora.rank", "train.steps")
"""What is asked first; every other key stands under All settings."""


def page() -> None:
    """Draw it."""
    workspace = current()
    st.title("Plan and recipe")
    recipe_file = _choice(workspace)
    if recipe_file is None:
        return
    try:
        recipe = recipe_file.load()
    except LimnerError as error:
        st.error(plain(error))
        return
    left, right = st.columns([1, 1], gap="large")
    with left:
        _questions(recipe_file, recipe)
        _settings(recipe_file, recipe)
    with right:
        words = f"{loaded_base.ask_before_start()}Train"  # above the plan, which grows while it is made
        if st.button(words, icon=":material/play_arrow:", type="primary", width="stretch"):
            start(workspace, recipe_file.name)
            open_page("run", run=recipe_file.name)
        _plan(recipe_file)


def _choice(workspace: Workspace) -> RecipeFile | None:
    """The recipe of the address, one that is selection, or a new one."""
    names = [path.stem for path in workspace.recipe_files()]
    name = parameter("recipe")
    if names:
        is_missing = tell_missing(name, names)
        index = names.index(name) if name in names else 0
        name = st.selectbox("Recipe", names, index=index, key=f"recipe-choice-{name}")
        if not is_missing or name != names[index]:
            st.query_params["recipe"] = name
    with st.expander("New recipe", expanded=not names):
        _new(workspace)
    with st.expander("Import from another trainer"):
        _import(workspace)
    return RecipeFile(workspace.recipes / f"{name}.toml", workspace) if names else None


def _new(workspace: Workspace) -> None:
    folders = [workspace.named(path) for path in workspace.image_folders()]
    if not folders:
        st.info("There are no images yet. Drop some on the page Images.")
        return
    selection = parameter("images")
    index = folders.index(selection) if selection in folders else 0
    images = st.selectbox("Images", folders, index=index, key=f"new-images-{selection}")
    if images != folders[index]:
        st.query_params["images"] = images
    form, purpose = Form(workspace, "plan"), purpose_of(ImageSet(workspace, workspace.inside(images)))
    name = form.text("Name of the run", Path(images).name, name=f"new-name-{images}")
    bases = _bases()
    default = purpose.get("base", bases[0])
    base = form.select("Base", bases, default, name=f"new-base-{images}-{default}", accept_new_options=True)
    if st.button("Write the recipe", icon=":material/note_add:"):
        file = new_recipe(workspace, workspace.inside(images), name, {**purpose, "base": base})
        st.query_params["recipe"] = file.name
        st.rerun()


@guarded
def _import(workspace: Workspace) -> None:
    form = Form(workspace, "plan")
    st.caption("kohya sd-scripts, musubi, ai-toolkit, OneTrainer, SimpleTuner, DiffSynth, diffusers, fluxgym")
    upload = st.file_uploader("A configuration or a script", key="import-upload")
    if upload is not None and st.button("Import"):
        source = save_upload(workspace, upload)
        target = workspace.recipes / f"{safe_name(Path(upload.name).stem)}.toml"
        workspace.recipes.mkdir(parents=True, exist_ok=True)
        with st.spinner("Reading it ..."):
            answer = ask(["import", source, "--out", target], folder=workspace.root)
        form.put(f"{IMPORT}-{target.stem}", answer)
        st.query_params["recipe"] = target.stem
        st.rerun()
    if answer := form.value(f"{IMPORT}-{parameter('recipe')}"):
        counts = ", ".join(f"{count} {outcome}" for outcome, count in answer["counts"].items() if count)
        st.markdown(plain(f"{answer['trainer']}: {counts}"))
        st.dataframe([{key: _cell(value) for key, value in row.items()} for row in answer["rows"]])


def _cell(value: Any) -> str:
    return "" if value is None else printable(str(value))


def _bases() -> list[str]:
    return list(registered_bases())


def _questions(file: RecipeFile, recipe: Recipe) -> None:
    reasons = file.reasons(recipe)
    facts = named_base(recipe.base)
    names = _bases()
    options = names if recipe.base in names else [recipe.base, *names]
    _select(file, recipe, "base", "Base", options)
    if facts:
        size = f", {human(facts.weight_bytes)} of weights" if facts.weight_bytes else ""
        gate = ", gated: accept its licence on the hub first" if facts.gate else ""
        st.caption(plain(f"{facts.purpose}; licence {facts.licence}{size}{gate}"))
    _select(file, recipe, "concept_type", "What the images share", list(get_args(ConceptType)))
    _text(file, recipe, "data.trigger", "Trigger word")
    _number(file, recipe, "data.resolution", "Resolution (pixels)", reasons)
    _number(file, recipe, "lora.rank", "LoRA rank (network_dim)", reasons)
    _number(file, recipe, "train.steps", "Steps", reasons)


def _select(file: RecipeFile, recipe: Recipe, path: str, label: str, options: list[str]) -> None:
    value = str(toml.get(recipe, path))
    key = f"{file.name}:{path}:{value}"
    selection = st.selectbox(
        label, options, index=options.index(value), key=key, accept_new_options=path == "base"
    )
    if selection and selection != value:
        _write(file, {path: selection})


def _text(file: RecipeFile, recipe: Recipe, path: str, label: str) -> None:
    value = str(toml.get(recipe, path))
    entry = st.text_input(label, value=value, key=f"{file.name}:{path}:{value}")
    if entry != value:
        _write(file, {path: entry})


def _number(file: RecipeFile, recipe: Recipe, path: str, label: str, reasons: Mapping[str, str]) -> None:
    value = toml.get(recipe, path)
    entry = st.number_input(
        label,
        value=value if isinstance(value, int) else None,
        min_value=1,
        placeholder=str(value) if value is not None else "the base's own",
        key=f"{file.name}:{path}:{value}",
        help=plain(reasons.get(path, "")) or None,
    )
    if entry != value and not (entry is None and not isinstance(value, int)):
        _write(file, {path: entry})


def _write(file: RecipeFile, changes: Mapping[str, Any]) -> None:
    """Write a change; one that means nothing is told, and the file stays as it was."""
    try:
        file.change(changes)
    except LimnerError as error:
        st.error(plain(error))
    else:
        st.rerun()


def _settings(file: RecipeFile, recipe: Recipe) -> None:
    """Every key, by table, with what it means and where its value is from."""
    if not Form(file.workspace, "plan").toggle("All settings", name="all-settings"):
        return
    reasons = file.reasons(recipe)
    tables: dict[str, list[str]] = {}
    for path in aliases.keys(Recipe):
        if path not in QUESTIONS:
            tables.setdefault(path.rpartition(".")[0] or "recipe", []).append(path)
    for table, paths in tables.items():
        with st.expander(f"[{table}]"):
            for path in paths:
                _key_field(file, recipe, path, reasons.get(path, ""))


def _key_field(file: RecipeFile, recipe: Recipe, path: str, reason: str) -> None:
    value = toml.get(recipe, path)
    text = "" if value is None else toml.write(value)
    description = " ".join((aliases.keys(Recipe)[path].description or "").split())
    note = f" Here: {reason}" if reason else ""
    entry = st.text_input(
        path.rpartition(".")[2],
        value=text,
        key=f"{file.name}:{path}:{text}",
        help=plain(description + note),
        placeholder="unset",
    )
    if entry != text:
        try:
            changes = {path: _parsed(entry)}
        except ValueError:
            st.error(
                f"{plain(path)}: {plain(entry)} is no TOML value. Texts stand in quotes, lists in brackets."
            )
            return
        _write(file, changes)


def _parsed(text: str) -> Any:
    """A TOML value as it is entry; None for nothing.

    Raises:
        ValueError: It is none.
    """
    return tomllib.loads(f"value = {text}")["value"] if text.strip() else None


@st.cache_resource
def _plans() -> dict[tuple[str, str], dict[str, Any]]:
    """Plans that were made already, by what was planned, such as the content of the recipe, and the card."""
    return {}


def plan_of(file: RecipeFile, card: str, price: float | None = None) -> dict[str, Any]:
    """The plan of a recipe for a card, rented at a price in US dollars per hour: asked once for each file.

    When another question is answered meanwhile, the plan that nobody waits for any more is ended.
    """
    key = (sha256_file(file.path), f"{card} {price}")
    plans = _plans()
    if key not in plans:
        slot = st.empty()
        options = card_options(card) + ([f"--price={price:g}"] if price is not None else [])
        try:
            plans[key] = ask(
                ["plan", file.path, *options],
                folder=file.workspace.root,
                tick=lambda: slot.info("Planning ...", icon=":material/hourglass_top:"),
            )
        finally:
            slot.empty()
    return plans[key]


@guarded
def _plan(file: RecipeFile) -> None:
    form = Form(file.workspace, "plan")
    cells = st.columns(2, vertical_alignment="bottom")
    card = form.select(
        "Card", card_names(), THIS_MACHINE, name="card", column=cells[0], accept_new_options=True
    )
    price = form.number(
        "US dollars per hour", (0.0, 1000.0), name="price", column=cells[1], placeholder="its usual rent"
    )
    card = card or THIS_MACHINE
    _survey(file, card)
    answer = plan_of(file, card, price)
    if not answer.get("fits"):
        st.error(plain(answer.get("why_not") or "It does not fit."))
        for text in answer.get("would_fit") or []:
            _offer(file, str(text), plain(text), {})
        return
    seconds = (answer.get("seconds") or {}).get("all")
    cells = st.columns(3)
    cells[0].metric("Per step", duration(answer["seconds_per_step"]))
    cells[1].metric("In all", duration(seconds) if seconds else "?")
    cells[2].metric("Memory", human(answer["reserved_bytes"]))
    if answer.get("cost") is not None:
        source = "" if price is not None else f", by {PRICES}"
        st.caption(plain(f"Price: {answer['cost']:.2f} US dollars for all of it on a rented card{source}."))
    if answer.get("gate"):
        st.warning(plain(answer["gate"]))
    _memory(answer)
    _alternatives(file, answer)


def _survey(file: RecipeFile, card: str) -> None:
    """Every base on that card, where somebody asks."""
    images = file.load().data.images
    key = (f"every base for {images}", card)
    if st.button("Which bases fit this card?", icon=":material/table:"):
        options = card_options(card)
        with st.spinner("Planning every base: a quarter of a minute ..."):
            _plans()[key] = ask(["plan", images, *options], folder=file.workspace.root)
    if answer := _plans().get(key):
        st.dataframe([_survey_row(row) for row in answer["bases"]], hide_index=True, height=280)


def _survey_row(row: Mapping[str, Any]) -> dict[str, str]:
    fits = row["fits"]
    return {
        "base": row["base"],
        "fits": "yes" if fits else "no",
        "per step": duration(row["seconds_per_step"]) if fits else "",
        "in all": duration(row["seconds"]) if fits and row["seconds"] else "",
        "memory": human(row["reserved_bytes"]) if fits else "",
        "to fetch": human(row["fetch_bytes"]),
        "licence": row["licence"] + (" (gated)" if row["gated"] else ""),
    }


def _memory(answer: Mapping[str, Any]) -> None:
    """Memory of each phase by cause, as stacked bars."""
    rows = [
        {"phase": PHASES.get(phase, phase), "cause": CAUSES.get(cause, cause), "GB": size / 2**30}
        for phase, causes in answer["causes"].items()
        for cause, size in causes.items()
        if size
    ]
    legend = altair.Legend(orient="bottom", columns=2, title=None)
    chart = altair.Chart(altair.Data(values=rows)).mark_bar()
    chart = chart.encode(
        x=altair.X("GB:Q", title="GB"),
        y=altair.Y("phase:N", sort=list(PHASES.values()), title=None),
        color=altair.Color("cause:N", legend=legend, sort=list(CAUSES.values())),
        order=altair.Order("cause:N"),
        tooltip=["phase:N", "cause:N", altair.Tooltip("GB:Q", format=".2f")],
    )
    st.altair_chart(chart.properties(height=altair.Step(26)))


def _alternatives(file: RecipeFile, answer: Mapping[str, Any]) -> None:
    rows = answer.get("alternatives") or []
    if rows:
        st.markdown("**Instead**")
    for row in rows:
        change = row["change"]
        speed = f"{abs(change):.0%} {'slower' if change > 0 else 'faster'}"
        fit = "" if row["fits"] else ", does not fit this card"
        line = f"{row['what']}: {speed}, {human(row['reserved_bytes'])}{fit}"
        _offer(file, row["what"], plain(line), row)


def _offer(file: RecipeFile, text: str, line: str, row: Mapping[str, Any]) -> None:
    """A proposal of the plan, with a button where a change of the recipe, or another card, does it."""
    changes, card = changes_of(text, row)
    left, right = st.columns([4, 1], vertical_alignment="center")
    left.markdown(line)
    if not changes and not card:
        left.caption(hint(text))
    if changes and right.button("Take it", key=f"take-{text}"):
        _write(file, changes)
    if card and right.button("Plan for it", key=f"take-{text}"):
        Form(file.workspace, "plan").change("card", card)
        st.rerun()
