"""Export: the LoRA file that other tools load, re-read by their rules before it counts as written."""

from pathlib import Path

import torch

from limner.assembly.assemble import Assembled
from limner.assembly.resolve import Resolved
from limner.errors import BadLora, BadRecipe
from limner.lora import diffusers_loader, file
from limner.lora.factors import Factors
from limner.lora.metadata import LoraMetadata, SamplingHints, header_entries
from limner.lora.saving import save
from limner.lora.tools import DIFFUSERS, encode_for, tool_named
from limner.models.scheduler import prediction_metadata
from limner.nn.layers import lora
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.training.initial import recorded
from limner.training.model import TrainableModel


def export(model: TrainableModel, run: RunDir, reporter: Reporter) -> Path:
    """Write ``lora.safetensors`` and check it as stock diffusers would read it; then those for other tools.

    Raises:
        BadLora: A file does not hold, key by key, what was trained, or a tool could not read a part of it.
    """
    components = model.adapters()
    header = header_entries(about(model.resolved), components) | recorded(run)
    pipeline = model.resolved.family.pipeline

    draft = run.lora_path.with_name(".draft.safetensors")  # one that a kill leaves is overwritten next time
    try:
        file.write(draft, components, header)
        if advice := diffusers_loader.verify(draft, components, pipeline).advice():
            reporter.line(f"LoRA: {advice}")
        draft.replace(run.lora_path)
    finally:
        draft.unlink(missing_ok=True)
    for tool in model.resolved.recipe.export.for_:
        if tool != DIFFUSERS.name:
            path = run.lora_path_for(tool)
            error = save(path, components, header, torch.float32, tool_named(tool), pipeline)
            reporter.line(f"LoRA: {path.name} for {tool}, read back within {error:.1e}")
    return run.lora_path


class LoRAFile:
    """A LoRA file for each tool that the recipe names. See ``training.outputs``."""

    def require_possible(self, resolved: Resolved, meta: Assembled) -> None:
        """Raise ``BadRecipe`` unless every tool of ``export.for`` can hold what will be trained."""
        require_exportable(resolved, meta)

    def paths(self, run: RunDir) -> dict[str, Path | None]:
        """The file that stock diffusers loads."""
        return {"lora": run.lora_path, "model": None}

    def complete(self, run: RunDir, recipe: Recipe) -> bool:
        """Whether every file is there, of as many steps as the recipe asks for."""
        return exported(run, recipe)

    def write(self, model: TrainableModel, run: RunDir, reporter: Reporter) -> Path:
        """Write the files."""
        return export(model, run, reporter)


def require_exportable(resolved: Resolved, meta: Assembled) -> None:
    """Find out before training whether every tool of ``export.for`` can hold what will be trained.

    Args:
        resolved: The run.
        meta: Its models without weights, adapters attached.

    Raises:
        BadRecipe: One cannot.
    """
    blank = {
        component: {name: _blank(pair.weight) for name, pair in lora.attached(meta.models[component]).items()}
        for component in resolved.first_layers
    }
    for tool in resolved.recipe.export.for_:
        try:
            encode_for(blank, resolved.family.pipeline, tool_named(tool))
        except BadLora as error:
            reason = str(error).partition(" Leave such modules out")[0].removesuffix(".")
            raise BadRecipe(
                f'export.for names "{tool}", and: {reason}. Train others with lora.targets or '
                f'lora.text_encoders, or remove "{tool}".'
            ) from error


def _blank(weight: torch.Tensor) -> Factors:
    """A change of rank 1 that is zero."""
    up = torch.zeros(weight.shape[0], 1, *[1] * (weight.dim() - 2))
    return Factors(torch.zeros(1, *weight.shape[1:]), up)


def _hints(recipe: Recipe) -> SamplingHints:
    """A scale is for the branches that it was set for; with the LoRA on both, the base's own will do."""
    if recipe.sample.lora_on == "both":
        return SamplingHints()
    return SamplingHints(lora_on=recipe.sample.lora_on, guidance=recipe.sample.guidance)


def exported(run: RunDir, recipe: Recipe) -> bool:
    """Whether every file that a recipe asks for is there, of as many steps as it asks for."""
    tool_paths = [run.lora_path_for(tool) for tool in recipe.export.for_ if tool != DIFFUSERS.name]
    return all(exported_steps(path) == recipe.train.steps for path in (run.lora_path, *tool_paths))


def exported_steps(path: Path) -> int | None:
    """How many steps an exported file was trained for; None when there is none, or not one of ours."""
    try:
        return int(file.read(path).metadata["ss_steps"])
    except (BadLora, LookupError, ValueError):
        return None


def about(resolved: Resolved) -> LoraMetadata:
    """What the file says of itself: what a person needs to use it, no captions, no paths."""
    recipe = resolved.recipe
    architecture, version = resolved.family.model_spec(resolved.source)
    prediction, dark = prediction_metadata(resolved.family, resolved.source, resolved.objective)
    return LoraMetadata(
        title=recipe.name,
        architecture=f"{architecture}/lora",
        base=resolved.source.name,
        base_version=version,
        trigger=recipe.data.trigger,
        resolution=(resolved.resolution, resolved.resolution),
        steps=recipe.train.steps,
        seed=recipe.seed,
        prediction=prediction,
        zero_terminal_snr=dark,
        sampling=_hints(recipe),
    )
