"""The front door: what the verbs of the command line do, as functions. Loads no torch until one is called.

``on_event`` is called with each record of ``limner.events``, in the thread that works. ``stop`` ends the work
between two pieces of it: a ``threading.Event``, or a function that says whether to stop. What is finished is
kept, ``limner.errors.Stopped`` is raised, and the same call goes on. All errors that are meant for people are
``limner.errors.LimnerError``.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from limner.arguments import CaptionKeys, RecipeKeys
from limner.errors import BadUsage
from limner.events import CacheFilled, Done, Event, OnEvent
from limner.imports import swiftly
from limner.recipe import Recipe
from limner.reporter import Reporter
from limner.results import Stop, asker_of, generate, instant, judge, reporter_of
from limner.target import RunRequest, of_recipe, request_for, template

if TYPE_CHECKING:
    from limner.captions.summary import CaptionReport
    from limner.checking.check import CheckReport
    from limner.planning.planner import PlanResult

__all__ = [
    "cache",
    "caption",
    "check",
    "generate",
    "instant",
    "judge",
    "plan",
    "preset",
    "train",
    "train_iter",
]
Target = str | Path | Recipe
"""A folder of images, a recipe.toml, a run folder, or a recipe."""


def train(
    target: Target,
    *,
    out: str | Path | None = None,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
    settings: Mapping[str, Any] | None = None,
    **keys: Unpack[RecipeKeys],
) -> Done:
    """Train a LoRA, or the whole base, or go on with a run.

    ``limner.train("photos/", base="glyph", trigger="sks cat", steps=300)`` plans, caches, trains, samples and
    exports. A run that is complete is left as it is; one that was stopped goes on where it was saved.

    Args:
        target: A folder of images, a recipe.toml, a run folder, or a recipe.
        out: The run folder; runs/<name> when left out.
        on_event: Called with each event.
        stop: Ends the run after the step that is under way; saved, so that the same call goes on.
        settings: Values of the recipe by dotted path.
        keys: Values of the recipe by short name.

    Returns:
        Where the LoRA, the report and the run are, and its losses.

    Raises:
        Stopped: ``stop``, or Ctrl-C in the main thread. The run is saved.
        LimnerError: The recipe, the images, the base or the machine do not allow it.
    """
    request = _request(target, out, settings, keys)
    reporter = reporter_of(on_event, stop)
    _introduce(request.recipe, reporter)
    with swiftly():
        from limner.runs import train as run

    return run(request.recipe, request.out, reporter)


def _introduce(recipe: Recipe, reporter: Reporter) -> None:
    """Say at once what is trained on, and where that is a toy what would do for photographs."""
    from limner.models.registry import introduction
    from limner.planning.describe_survey import better_base

    reporter.line(introduction(recipe.base, recipe.data.resolution))
    if line := better_base(recipe):
        reporter.line(line)


def train_iter(
    target: Target,
    *,
    out: str | Path | None = None,
    stop: Stop | None = None,
    settings: Mapping[str, Any] | None = None,
    **keys: Unpack[RecipeKeys],
) -> Iterator[Event]:
    """The same as an iterator over its events; leaving the loop saves the run and ends it.

    ::

        for event in limner.train_iter("photos/", steps=300):
            match event:
                case StepDone(step=step, loss=loss):
                    print(step, loss)
                case Done(lora=lora):
                    print(lora)

    Nothing runs between two events but the caller. What a stage before the first step says comes at its end;
    ``on_event`` of :func:`train` hears it at once. To end the run before the iterator is garbage, wrap it in
    ``contextlib.closing``.

    Args:
        target: As in :func:`train`, and so are the others.
        out: The run folder.
        stop: Ends the run.
        settings: Values of the recipe by dotted path.
        keys: Values of the recipe by short name.
    """
    request = _request(target, out, settings, keys)  # what is wrong with it is said before the first event
    return _events(request, stop)


def _events(request: RunRequest, stop: Stop | None) -> Iterator[Event]:
    from limner.runs import running
    from limner.training.interrupt import Interrupt

    events: deque[Event] = deque()
    _introduce(request.recipe, Reporter(events.append))
    interrupt = Interrupt(asker_of(stop))
    run = running(request.recipe, request.out, Reporter(events.append, interrupt.due), interrupt)
    try:
        is_running = True
        while is_running:
            try:
                with interrupt:  # signals are the run's only while it runs, and the caller's otherwise
                    is_running = next(run, False) is None
            finally:
                while events:
                    yield events.popleft()
    finally:
        run.close()


def cache(
    target: Target,
    *,
    out: str | Path | None = None,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
    settings: Mapping[str, Any] | None = None,
    **keys: Unpack[RecipeKeys],
) -> CacheFilled:
    """Compute latents and text embeddings ahead of training, which does it by itself otherwise.

    Args:
        target: As in :func:`train`, and so are the others.
        out: The run folder.
        on_event: Called with each event.
        stop: Ends the work; what was computed stays.
        settings: Values of the recipe by dotted path.
        keys: Values of the recipe by short name.

    Raises:
        Stopped: ``stop``, or Ctrl-C in the main thread.
        LimnerError: The recipe, the images or the base do not allow it.
    """
    request = _request(target, out, settings, keys)
    from limner.runs import cache as run

    return run(request.recipe, request.out, reporter_of(on_event, stop))


def plan(
    target: Target | None = None,
    *,
    card: str | None = None,
    price: float | None = None,
    on_event: OnEvent | None = None,
    settings: Mapping[str, Any] | None = None,
    **keys: Unpack[RecipeKeys],
) -> "PlanResult":
    """Estimate memory and time of a run, and find how it runs fastest. Fetches configs, never weights.

    ``limner.plan("photos/", base="flux-dev", vram="12GB").fits``; ``.plain()`` is the plan as JSON knows it.
    Planning may run in one thread while another trains.

    Args:
        target: As in :func:`train`; None: ten images and the preset of ``base``.
        card: A card by name, "RTX 3060", to plan for another than is here.
        price: US dollars per hour of a rented card.
        on_event: Called with each event.
        settings: Values of the recipe by dotted path.
        keys: Values of the recipe by short name.

    Returns:
        The plan; where nothing fits, ``.fits`` is false and ``.misfit`` says what would.

    Raises:
        LimnerError: The recipe, the base or the card is unknown.
    """
    if target is None:
        recipe = template({"data.images": Path("-"), **_overrides(settings, keys)})  # no folder is there
    else:
        recipe = _request(target, None, settings, keys).recipe
    from limner.planning.planner import plan as run

    return run(recipe, Reporter(on_event), card=card, price=price)


def check(
    target: Target,
    *,
    out: str | Path | None = None,
    encoder: str | None = None,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
    settings: Mapping[str, Any] | None = None,
    **keys: Unpack[RecipeKeys],
) -> "CheckReport":
    """Look for what is wrong with images and captions, as training would read them. Changes nothing.

    Args:
        target: As in :func:`train`.
        out: Folder for the page, the contact sheet and the findings; in the run folder when left out.
        encoder: A vision model, by folder or hub id, to judge variety by.
        on_event: Called with each event.
        stop: Ends the work.
        settings: Values of the recipe by dotted path.
        keys: Values of the recipe by short name.

    Raises:
        Stopped: ``stop``.
        LimnerError: No image can be used, or the recipe means nothing.
    """
    request = _request(target, None, settings, keys)
    from limner.checking.check import check as run

    folder = Path(out) if out else request.out / "check"
    return run(request.recipe, folder, reporter_of(on_event, stop), encoder=encoder)


def caption(
    folder: str | Path,
    provider: str,
    *,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
    **keys: Unpack[CaptionKeys],
) -> "CaptionReport":
    """Write captions into text files beside the images. Captions of your own stay as they are.

    Args:
        folder: The images.
        provider: claude, openai, ollama, lmstudio, vllm, llamacpp, local, or tagger.
        on_event: Called with each event.
        stop: Ends the work; captions that were written stay.
        keys: See :class:`CaptionKeys`.

    Raises:
        Stopped: ``stop``, or Ctrl-C in the main thread.
        LimnerError: The folder cannot be used, or nobody answers.
    """
    from limner.captions.caption import caption as run
    from limner.captions.providers import Options
    from limner.captions.spec import spec_of
    from limner.captions.summary import CaptionSettings

    values: dict[str, Any] = dict(keys)
    style = {"style": values.pop("style", None)}
    spec = spec_of(**style, **_some(values, "concept_type", "base", "trigger", "variants"))
    server = _some(values, "model", "url", "key_env", "timeout", "stream", "device")
    options = Options(name=provider, **server)
    settings = _some(values, "concurrency", "max_image_size", "overwrite", "budget", "dry_run")
    if "consistency" in values:
        settings["consistency"] = values.pop("consistency")
    if values:
        names = ", ".join(CaptionKeys.__annotations__)
        raise BadUsage(f"caption takes no {next(iter(values))}. It takes {names}.")
    return run(Path(folder), spec, options, CaptionSettings(**settings), reporter_of(on_event, stop))


def _some(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """Take these out of ``values``, where they are there."""
    return {name: values.pop(name) for name in names if name in values}


def preset(
    concept: str | None = None, *, settings: Mapping[str, Any] | None = None, **keys: Unpack[RecipeKeys]
) -> Recipe:
    """A recipe to start from: ``limner.preset("style", base="sdxl", settings={"data.images": "photos"})``.

    Args:
        concept: What the images share: subject, face, object, style, concept.
        settings: Values of the recipe by dotted path.
        keys: Values of the recipe by short name.

    Raises:
        BadRecipe: An unknown concept, key or value.
    """
    if concept is not None:
        keys["concept_type"] = concept
    return template(_overrides(settings, keys))


def _overrides(settings: Mapping[str, Any] | None, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted path, of both."""
    from limner.recipe import aliases

    return aliases.own({**(settings or {}), **keys}, Recipe)


def _request(
    target: Target, out: str | Path | None, settings: Mapping[str, Any] | None, keys: Mapping[str, Any]
) -> RunRequest:
    overrides, home = _overrides(settings, keys), None if out is None else Path(out)
    if isinstance(target, Recipe):
        return of_recipe(target, overrides, home)
    return request_for(Path(target), overrides, home)
