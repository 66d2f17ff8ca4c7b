"""Captions by a model: who, what it costs, the job, its summary, and the table in which they are reviewed."""

from typing import Any

import streamlit as st

from limner.captions.catalog import PROVIDERS
from limner.captions.price import dollars
from limner.captions.spec import STYLES
from limner.errors import LimnerError
from limner.jobs import Job
from limner.reporter import counted
from limner.studio.complaints import complain
from limner.studio.form import Form
from limner.studio.images.checks import jobs_of
from limner.studio.images.image_set import ImageSet, SetSettings
from limner.studio.images.progress_view import follow
from limner.studio.images.review_view import draw_review
from limner.studio.text import plain
from limner.studio.verbs import ask

KEY_VARIABLE = "LIMNER_CAPTION_KEY"
"""Environment variable of the job's process alone, in which a key that was typed stands."""
OWN_STYLE = "the base's own"
ON_GPU = ("local",)
"""Captioners that compute here, in the process of the job."""


def draw_captioning(images: ImageSet, settings: SetSettings) -> None:
    """Draw it."""
    jobs = jobs_of(images, "caption")
    is_busy = follow(jobs)
    arguments, key, name = _form(images, settings)
    st.caption("Captions of yours are never touched. Nothing is sent before the price was shown.")
    left, right, _ = st.columns([2, 2, 3])
    if left.button("Show the price", icon=":material/payments:", width="stretch", disabled=is_busy):
        _ask_price(images, arguments)
    answer = st.session_state.get("caption-price")
    is_priced = answer is not None and answer[0] == arguments
    is_ready = is_priced and bool(answer and answer[1]["remaining"])
    label = "Write captions"
    if right.button(
        label, icon=":material/edit_note:", type="primary", width="stretch", disabled=is_busy or not is_ready
    ):
        _start(images, arguments, key, name)
    if is_priced and answer:
        _price(answer[1])
    if jobs and not is_busy:
        _summary(jobs[-1])
    draw_review(images)


def _form(images: ImageSet, settings: SetSettings) -> tuple[list[str], str, str]:
    """The arguments of the verb, the key that was typed, and the captioner."""
    form, names = Form(images.workspace, "captions"), list(PROVIDERS)
    cells = st.columns([4, 2, 3])
    name = form.select(
        "Captioner",
        names,
        names[0],
        name="with",
        column=cells[0],
        format_func=lambda key: f"{key}: {PROVIDERS[key].title}",
    )
    record = PROVIDERS[name]
    model = form.text("Model", name=f"model-{name}", column=cells[1], placeholder="a usual one").strip()
    url, key = "", ""
    if record.extra == "caption":
        note = record.url or "its maker's"
        url = form.text("Server", name=f"url-{name}", column=cells[2], placeholder=note).strip()
        if not record.is_local:
            key = st.text_input(
                "API key",
                type="password",
                key=f"caption-key-{name}",
                help="It stays in this session's memory and goes to the job's process alone; to no file. "
                "Empty: the environment that the studio was started in.",
            ).strip()
    arguments = ["caption", str(images.folder), f"--with={name}", f"--concept-type={settings.concept_type}"]
    arguments += [f"--base={settings.base}"]
    options = {"--model": model, "--url": url, "--trigger": settings.trigger}
    arguments += [f"{flag}={value}" for flag, value in options.items() if value]
    arguments += [f"--key-env={KEY_VARIABLE}"] if key else []
    return arguments + _more(form), key, name


def _more(form: Form) -> list[str]:
    """What is rarely changed."""
    with st.expander("More"):
        cells = st.columns(3)
        style = form.select("Style", [OWN_STYLE, *STYLES], OWN_STYLE, name="style", column=cells[0])
        variants = form.number("Captions per image", (1, 8), 1, name="variants", column=cells[1])
        budget = form.number(
            "Spend at most (US dollars)", (0.01, 1e6), name="budget", column=cells[2], placeholder="no limit"
        )
        overwrite = form.checkbox("Write generated captions again; never yours", name="overwrite")
        is_set = form.checkbox("Make the captions of the set agree", default=True, name="consistency")
    arguments = [f"--style={style}"] if style != OWN_STYLE else []
    arguments += [f"--variants={variants}"] if variants != 1 else []
    arguments += [f"--budget={budget}"] if budget else []
    arguments += ["--overwrite"] if overwrite else []
    return arguments + ([] if is_set else ["--no-consistency"])


def _ask_price(images: ImageSet, arguments: list[str]) -> None:
    try:
        with st.spinner("Counting; nothing is sent ..."):
            answer = ask([*arguments, "--dry-run"], folder=images.workspace.root)
    except LimnerError as error:
        st.session_state.pop("caption-price", None)
        complain(error)
    else:
        st.session_state["caption-price"] = (arguments, answer)
    st.rerun()


def _price(answer: dict[str, Any]) -> None:
    """What would be sent where, and what that costs."""
    remaining = int(answer["remaining"])
    yours = f" {answer['by_hand']} are yours, and stay." if answer["by_hand"] else ""
    if not remaining:
        st.success(plain(f"There is nothing to write: all images have captions.{yours}"))
        return
    destination = answer["destination"]
    if not destination:
        words = f"{counted(remaining, 'image')}, here: nothing leaves this machine."
    else:
        estimate = answer["estimate"]
        price = "unknown" if estimate is None else dollars(float(estimate))
        words = f"{counted(remaining, 'image')} to {destination} ({answer['model']}). Price: {price}."
    st.info(plain(words + yours))


def _start(images: ImageSet, arguments: list[str], key: str, name: str) -> None:
    try:
        images.workspace.jobs.add(
            [*arguments, "--events"],
            title=f"Caption {images.name} with {name}",
            device="gpu" if name in ON_GPU else "cpu",
            secrets={KEY_VARIABLE: key} if key else None,
            cwd=images.workspace.root,
        )
    except LimnerError as error:
        complain(error)
    else:
        st.session_state.pop("caption-price", None)
    st.rerun()


def _summary(job: Job) -> None:
    """What the last job did, and what it says of the set."""
    report = job.result()
    if report is None or "images" not in report:
        if job.state in ("failed", "died"):
            st.error(plain(job.line or "The captioner ended without a word."))
        return
    with st.container(border=True):
        failures = report.get("failures") or []
        parts = [f"{report['new_captions'] + report['recovered_captions']} written"]
        parts += [f"{report['existing_captions']} kept"] * bool(report["existing_captions"])
        parts += [f"{report['by_hand']} yours"] * bool(report["by_hand"])
        parts += [f"{report['remaining']} not asked about"] * bool(report["remaining"])
        parts += [f"{len(failures)} without"] * bool(failures)
        if report["cost"] is not None:
            parts.append(f"price {dollars(float(report['cost']))}")
        st.markdown(f":material/summarize: **The last time**: {plain(', '.join(parts))}")
        for row in failures[:20]:
            st.caption(plain(f"{row['file']}: {row['reason']}"))
        if report["revisions"]:
            agreement = "; ".join(
                f"{use} for {', '.join(rest)}" for use, rest in report["words"].items() if rest
            )
            words = f"Agreement of the set: {report['revisions']} looked over together"
            st.markdown(plain(words + (f"; {agreement}" if agreement else "")))
        for line in report["findings"]:
            st.markdown(f":orange[:material/info:] {plain(line)}")
