"""What a person named becomes: a recipe, and the run folder it belongs to."""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from limner.errors import BadRecipe, BadUsage
from limner.files import real_path, user_path
from limner.run_folder import RUNS

FORBIDDEN = re.compile(r'[/\\:*?"<>|\x00-\x1f]+')
"""What the name of a recipe may not have, as some system does not take it in the name of a file."""


@dataclass(frozen=True)
class RunRequest:
    """A recipe with absolute paths, and where its run lives."""

    recipe: Any
    """``limner.recipe.Recipe``; not named here, so that ``--help`` need not load it."""
    out: Path
    sources: Mapping[str, str]
    """Where a preset's values are from, by dotted path; empty for a recipe that was read."""


@dataclass(frozen=True)
class GenerationTarget:
    """What to generate with, and what."""

    paths: tuple[Path, ...]
    """A run folder or a LoRA file; or LoRA files of several steps of a run."""
    prompts: tuple[Any, ...]
    """``limner.recipe.toml.PromptLine``, at least one."""
    folder: Path
    """Where the images go unless the person says otherwise."""


def overrides_from(options: Mapping[str, Any]) -> dict[str, Any]:
    """The values that the ``RECIPE`` options name, by dotted path. ``--set`` wins over a short name.

    Raises:
        BadRecipe: An assignment of ``--set`` without "=", or an unknown key.
        BadUsage: A resolution is no number.
    """
    from limner.recipe.toml import settings

    short = {key: value for key, value in options.items() if value is not None and key != "set"}
    if isinstance(sides := short.get("data.resolution"), str):
        short["data.resolution"] = _sides(sides)
    return short | settings(options["set"] or [])


def _sides(text: str) -> tuple[int, ...]:
    """What ``--resolution`` holds: ``_sides("512,768") == (512, 768)``."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise BadUsage(
            f"--resolution is {text!r}; write a number of pixels, or several with commas between them."
        ) from None


def request_for(target: Path, overrides: Mapping[str, Any], out: Path | None) -> RunRequest:
    """Make a recipe of a folder of images, a recipe file or a run folder, with changes on top.

    Args:
        target: What the person named. A folder that holds a ``recipe.toml`` stands for that recipe.
        overrides: Values by dotted path. Relative paths among them start at the working directory.
        out: The run folder, or ``None`` for the one that belongs to the target.

    Raises:
        BadUsage: There is nothing at ``target``, it is a picture, an archive, a base, another program's
            config, a run without its recipe, its own run folder holds a run on other images, or the run
            folder lies among the images.
        BadRecipe: The recipe or a change means nothing.
        BadData: The folder cannot be read.
    """
    from limner.recipe.toml import change, placed, prompts
    from limner.run_folder import RunDir

    _refuse_other_kinds(target)
    file = RunDir(target).recipe_path if target.is_dir() else target
    if target.is_dir() and not file.is_file() and (_is_run(target) or os.path.lexists(file)):
        raise BadUsage(f"{target} is a run folder that has lost its recipe. Put a recipe at {file}.")
    if file.is_file():
        recipe, sources = change(_recipe_at(file), overrides), {}
        home = out or _home(file, recipe)
        if home not in (out, file.parent):
            _free(home, _roots(recipe)[0])
    else:
        recipe, sources = _from_images(target, overrides)
        home = out or _free(outside(RUNS / recipe.name, [target]), target)
    recipe = placed(recipe, Path.cwd())
    for folder in _roots(recipe):
        _refuse_inside(home, folder)
    prompts(recipe)  # a missing prompt file should be told before an hour of caching
    return RunRequest(recipe, home, sources)


def unplaced(recipe: Any, file: Path, words: Mapping[str, Any]) -> Any:
    """The placed recipe for a new ``file``: what a person wrote as a relative path is one from its folder.

    Args:
        recipe: With absolute paths.
        file: Where it will stand.
        words: Dotted path -> what the person wrote.
    """
    from limner.recipe.toml import NAMES, PATHS, change, get

    changes: dict[str, Any] = {}
    for key in (*PATHS, *NAMES):
        word, path = words.get(key), get(recipe, key)
        if not isinstance(word, str | Path) or isinstance(path, tuple) or user_path(word).is_absolute():
            continue
        if path and Path(path).is_absolute():
            with suppress(ValueError):  # another drive of Windows
                short = Path(os.path.relpath(path, real_path(file).parent)).as_posix()
                changes[key] = Path(short) if key in PATHS else short if short[0] == "." else f"./{short}"
    return change(recipe, changes)


def _refuse_other_kinds(target: Path) -> None:
    from limner.data.formats import ARCHIVES, SUFFIXES
    from limner.models.registry import index_path

    if not target.exists():
        raise BadUsage(f"There is no {target}. Name a folder of images, a recipe.toml, or a run folder.")
    if target.is_file() and target.suffix.lower() in SUFFIXES:
        raise BadUsage(f"{target} is a picture. Name the folder that it lies in: {target.parent}")
    if target.is_file() and (remedy := ARCHIVES.get(target.suffix.lower())):
        raise BadUsage(f"{target} is an archive, which is not read. {remedy}.")
    if index_path(target).is_file():
        raise BadUsage(
            f"{target} is a base. Name a folder of images or a run, and the base by --base {target}"
        )


def _recipe_at(file: Path) -> Any:
    """The recipe in a file.

    Raises:
        BadRecipe: It is none.
        BadUsage: It is a config of another program.
    """
    from limner.recipe.foreign import config_name, remedy
    from limner.recipe.toml import load

    try:
        return load(file)
    except BadRecipe as error:
        if name := config_name(file):
            raise BadUsage(f"{file} is {name}. {remedy(name, file)}") from error
        raise


def of_recipe(recipe: Any, overrides: Mapping[str, Any], out: Path | None) -> RunRequest:
    """The same of a recipe that is there already. Relative paths in it start at the working directory.

    Raises:
        BadUsage: Its run folder holds a run on other images, or lies among the images.
        BadRecipe: A change means nothing.
    """
    from limner.recipe.toml import change, placed, prompts

    recipe = placed(change(recipe, overrides) if overrides else recipe, Path.cwd())
    roots = _roots(recipe)
    home = out or _free(outside(RUNS / recipe.name, roots), roots[0])
    for folder in _roots(recipe):
        _refuse_inside(home, folder)
    prompts(recipe)
    return RunRequest(recipe, home, {})


def template(overrides: Mapping[str, Any], images: int = 10) -> Any:
    """The preset of a base and a concept, for so many images, with changes on top: a ``Recipe``."""
    from limner.models.presets import concessions, preset, preset_name, ways
    from limner.recipe import Recipe
    from limner.recipe.toml import change

    base, concept = overrides.get("base", Recipe().base), overrides.get("concept_type", Recipe().concept_type)
    start = preset(concept, preset_name(base), images, *ways(overrides))
    return change(start, {"base": base, **concessions(overrides), **overrides})


def _roots(recipe: Any) -> tuple[Path, ...]:
    """The folders of images that a run trains on; of pairs first those of its second phase."""
    pairs = recipe.pairs
    return (*(pair.after for pair in pairs), *(pair.before for pair in pairs)) or recipe.data.roots


def _refuse_inside(home: Path, images: Path) -> None:
    if real_path(RUNS).is_relative_to(real_path(images)):
        _refuse_runs(images)
    if real_path(home).is_relative_to(real_path(images)):
        _refuse_runs(images)
        raise BadUsage(
            f"The run folder {home} lies in the folder of images {images}, so that its samples would be "
            "trained on. Choose another with --out."
        )


def _refuse_runs(images: Path) -> None:
    """Raise where a folder of images has runs in it, or a folder ``runs``: their samples would be trained."""
    folders = [images, images / RUNS] if (images / RUNS).is_dir() else [images]
    if runs := sorted(
        path for folder in folders for path in folder.iterdir() if path.is_dir() and _is_run(path)
    ):
        raise BadUsage(f"{images} holds runs, and is no folder of images. Name one of them: {runs[0]}")


def outside(home: Path, images: Sequence[Path]) -> Path:
    """The run folder ``home``, or, where that lies among the images, the like beside their folder."""
    inner = [folder for folder in map(real_path, images) if real_path(home).is_relative_to(folder)]
    if not inner:
        return home
    outer = Path(os.path.relpath(min(inner, key=lambda folder: len(folder.parts)).parent)) / RUNS / home.name
    return home if any(real_path(outer).is_relative_to(folder) for folder in inner) else outer


def _from_images(folder: Path, overrides: Mapping[str, Any]) -> tuple[Any, dict[str, str]]:
    from limner.data.listing import listed
    from limner.models.presets import choices, concessions, preset, preset_name, ways
    from limner.recipe import Recipe
    from limner.recipe.toml import change

    base = overrides.get("base", Recipe().base)
    concept = overrides.get("concept_type", Recipe().concept_type)
    family = preset_name(base)
    # an empty folder is told by whoever reads it, with the reasons
    images = max(len(listed(folder, keep=True).images), 1)
    values = {"data.images": folder, "name": folder_name(folder), "base": base}
    start = (concept, family, images, *ways(overrides))
    sources = {path: choice.source for path, choice in choices(*start).items()}
    if not overrides.get("data.trigger"):
        values["sample.prompts"] = ()  # prompts about a trigger mean nothing without one
    values |= {**concessions(overrides), **overrides}
    recipe = change(preset(*start), values)
    return recipe, {path: source for path, source in sources.items() if path not in values}


def folder_name(folder: Path) -> str:
    """The name of a folder, as a run and its LoRA are called."""
    return FORBIDDEN.sub("-", real_path(folder).name).lstrip(".")[:100] or "lora"


def home_of(target: Path) -> Path | None:
    """The run folder of a target, where that need not be read: None for a ``recipe.toml`` that is of no run.

    It is named after the folder of images or the recipe file; a recipe in a run folder belongs there.
    """
    from limner.run_folder import RunDir

    file = RunDir(target).recipe_path if target.is_dir() else target
    if target.is_dir() and not file.is_file():
        return outside(RUNS / folder_name(target), [target])
    if file.name == "recipe.toml":
        return file.parent if _is_run(file.parent) else None
    return RUNS / file.stem


def _home(file: Path, recipe: Any) -> Path:
    """The run folder of a recipe file, which has been read."""
    roots = _roots(recipe)
    home = home_of(file) or RUNS / folder_name(roots[0])
    return home if home == file.parent else outside(home, roots)


def _is_run(folder: Path) -> bool:
    """Whether a folder has what a run leaves. One file alone may be anybody's: a ``lock``, a ``model/``."""
    from limner.run_folder import RunDir

    run = RunDir(folder)
    marks = (
        run.metrics_path,
        run.checkpoints_path,
        run.index_path,
        run.lora_path,
        run.model_path,
        run.plan_path,
    )
    marks += (
        run.recipe_path,
        run.data_path,
        run.status_path,
        run.prompts_path,
        run.report_path,
        folder / "lock",
    )
    return bool(run.checkpoints()) or sum(mark.exists() for mark in marks) > 1


def _free(home: Path, images: Path) -> Path:
    """``home``, unless it holds a run on other images: two folders of one name must not share a run."""
    from limner.recipe.toml import load
    from limner.run_folder import RunDir

    file = RunDir(home).recipe_path
    if file.is_file():
        run_images = _roots(load(file))[0]
        generated = real_path(run_images).is_relative_to(real_path(home))  # by the base, before training
        if not generated and real_path(run_images) != real_path(images):
            raise BadUsage(
                f"{home} holds a run on {run_images}. Choose another folder with --out, "
                f"or go on with that run: limner train {home} --set data.images={images}"
            )
    return home


def subject_of(
    target: Path, texts: Sequence[str], file: Path | None = None, steps: Sequence[int | str] = ()
) -> GenerationTarget:
    """What to generate with, what to generate, and where the images go.

    Args:
        target: A run folder, what a run was made from, one of its checkpoints, or a LoRA file.
        texts: Prompts; a run has its own where there are none.
        file: A file with more of them.
        steps: Of a run, numbers, "best" or "last": the LoRAs to use. None: the newest.

    Raises:
        BadUsage: There is no run, no prompt, or no LoRA of a step.
        BadRecipe: The file cannot be read.
    """
    from limner.recipe.prompt_file import PromptLine, prompt_lines
    from limner.recipe.toml import for_triggers, load, prompts
    from limner.run_folder import RunDir, run_of, step_of

    lines = [PromptLine(text) for text in texts]
    lines += prompt_lines(file, "--prompt-file", "--prompt") if file else []
    run, step = run_of(target), step_of(target)
    if run and step is not None:  # a checkpoint, or the LoRA beside it
        target, steps = run.path, (step, *steps)
    if target.suffix == ".safetensors":
        if steps:
            raise BadUsage(
                f"--step is {steps[0]}, and {target} is a LoRA file of one step. Name its run folder."
            )
        if not lines:
            raise BadUsage('A LoRA file brings no prompts. Say what to generate: --prompt "..".')
        return GenerationTarget((target,), tuple(lines), target.parent / f"{target.stem}-pictures")
    run = RunDir(request_for(target, {}, None).out)
    if not run.recipe_path.is_file():
        raise BadUsage(f"{run.path} holds no run. Train it first: limner train {target}")
    recipe = load(run.recipe_path)  # as it was trained, not as the target would be trained today
    triggers = recipe.data.triggers
    defaults = prompts(recipe) or triggers
    lines = lines or _prompt_lines(defaults, recipe.sample.control)
    if not lines:
        raise BadUsage(
            f'The recipe of {target} has neither prompts nor a trigger. Say what to generate: --prompt "..".'
        )
    lines = [replace(line, prompt=prompt) for line in lines for prompt in for_triggers(line.prompt, triggers)]
    paths = tuple(dict.fromkeys(run.step_lora(step) for step in steps)) or (run.path,)
    return GenerationTarget(paths, tuple(lines), run.path / "pictures")


def _prompt_lines(texts: Sequence[str], controls: Sequence[Path]) -> list[Any]:
    """Prompts of a recipe, each with the control images that the recipe names for it."""
    from limner.recipe.prompt_file import PromptLine

    count = len(controls) // max(1, len(texts))
    starts = range(0, count * len(texts), count) if count else [0] * len(texts)
    return [
        PromptLine(text, controls=tuple(controls[start : start + count]) or None)
        for text, start in zip(texts, starts, strict=True)
    ]
