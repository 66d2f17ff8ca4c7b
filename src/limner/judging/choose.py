"""``limner judge --choose``: the LoRA of a step, at a strength, becomes the run's, for all of its tools."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from limner.errors import BadLora, BadUsage
from limner.files import write_json
from limner.judging.request import lora_run
from limner.lora import embeddings, file
from limner.lora.adapters import Dora, Loha, Lokr, LokrRows, WeightDelta
from limner.lora.factors import Factors
from limner.lora.operations import STALE
from limner.lora.saving import save
from limner.lora.tools import DIFFUSERS, tool_named
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from limner.run_folder import RunDir, step_of
from limner.training.export import CHOSEN_OF, CHOSEN_STRENGTH, exported_steps, main_tool
from limner.training.export_embedding import write_embedding

BY_JUDGE = "recommended"


def choose(target: Path, step: int | str, strength: float | None, reporter: Reporter) -> list[Path]:
    """Write ``lora.safetensors`` and the files for other tools anew, from the LoRA of a step.

    The strength is multiplied into the weights, so that every tool shows it at its own strength of 1; the
    file's metadata says so. Training leaves the choice as it is until the run goes on.

    Args:
        target: A run folder, or what a run was made from.
        step: A number, "best" by validation loss, "last", or "recommended" by ``judge.json``.
        strength: Above 0; None: as recommended, else 1.
        reporter: Where to tell what was written.

    Returns:
        The files.

    Raises:
        BadUsage: There is no such step, or nothing is recommended.
        BadLora: A DoRA at another strength than 1, which no file can hold; or a tool cannot read the file.
        RunBusy: The run is being trained.
    """
    run, recipe = lora_run(target)
    if step == BY_JUDGE:
        step, advice = _recommended(run)
        strength = advice if strength is None else strength
    strength = 1.0 if strength is None else strength
    if not 0 < strength <= 10:
        raise BadUsage(f"--strength is {strength:g}; it must be above 0 and at most 10.")
    source = run.step_lora(step)
    content = file.read(source)
    components = {name: scaled(adapter, strength) for name, adapter in content.components.items()}
    number = step_of(source) or 0
    last = exported_steps(run.lora_path) or run.step_loras()[0][0]
    header = {key: value for key, value in content.metadata.items() if key not in STALE}
    header |= {CHOSEN_STRENGTH: f"{strength:g}", CHOSEN_OF: str(last)}
    family = content.family
    main = main_tool(recipe, family) if family else DIFFUSERS
    files = {run.lora_path: main}
    files |= {
        run.lora_path_for(name): tool_named(name) for name in recipe.export.for_ if name != DIFFUSERS.name
    }
    with run.lock():
        for path, tool in files.items():
            error = save(path, components, header, torch.float32, tool, family)
            reporter.line(f"LoRA: {path.name} of step {number} at {strength:g}, read back within {error:.1e}")
        _choose_words(run, recipe, number, last)
        _note(run, number, strength)
    return list(files)


def _choose_words(run: RunDir, recipe: Recipe, step: int, last: int) -> None:
    """Take the token vectors of the same step, where there are some."""
    if recipe.trains_words:
        embedding = embeddings.read(run.step_embedding_path(step))
        write_embedding(run, replace(embedding, metadata={**embedding.metadata, CHOSEN_OF: str(last)}))


def scaled(adapter: Mapping[str, WeightDelta], strength: float) -> dict[str, WeightDelta]:
    """The changes of modules at a strength, of the same kinds and ranks.

    Raises:
        BadLora: One is a DoRA, whose norms do not scale, and the strength is not 1.
    """
    if strength == 1:
        return dict(adapter)
    wholes: dict[int, Lokr] = {}  # rows of one matrix stay rows of one matrix

    def one(change: WeightDelta) -> WeightDelta:
        match change:
            case Factors():
                return Factors(change.down, change.up * strength)
            case Loha():
                return replace(change, w1_a=change.w1_a * strength)
            case Lokr():
                return replace(change, w1=(change.w1[0] * strength, *change.w1[1:]))
            case LokrRows():
                whole = change.whole
                rows = wholes.setdefault(
                    id(whole), replace(whole, w1=(whole.w1[0] * strength, *whole.w1[1:]))
                )
                return replace(change, whole=rows)
            case Dora():
                raise BadLora(
                    f"A DoRA at strength {strength:g} cannot be written as a file. Choose it with --strength "
                    "1, and set the strength where it is loaded."
                )

    return {module: one(change) for module, change in adapter.items()}


def _recommended(run: RunDir) -> tuple[int, float]:
    """(step, strength) of ``judge.json``.

    Raises:
        BadUsage: The run was not judged, or the judge could not tell.
    """
    record = run.read(run.judge_path)
    if not isinstance(record, Mapping):
        raise BadUsage(f"{run.path} was not judged yet. Judge it first: limner judge {run.path}")
    advice = record.get("recommendation") or {}
    if not isinstance(advice.get("step"), int):
        raise BadUsage(
            f"The judge could not tell which step of {run.path} is best. Name one: --choose STEP, or ask for "
            f"more images: limner judge {run.path} --seeds 8"
        )
    return advice["step"], float(advice["strength"])


def _note(run: RunDir, step: int, strength: float) -> None:
    """Say in ``judge.json``, where there is one, what was chosen."""
    record = run.read(run.judge_path)
    if isinstance(record, dict):
        write_json(run.judge_path, {**record, "chosen": {"step": step, "strength": strength}})
