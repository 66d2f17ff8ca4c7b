"""What a run leaves for others to use: a LoRA file for each tool, or the fine-tuned base in diffusers layout.

A file is read again by the rules of its tool before it counts as written. ``training.export_embedding``
has the list of what each kind of training ends in.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from limner.assembly.assemble import Assembled
from limner.assembly.resolve import Resolved
from limner.errors import BadBase, BadLora, BadRecipe
from limner.files import atomic_folder, atomic_write, require_space, write_json
from limner.imports import imported
from limner.lora import diffusers_loader, file
from limner.lora.keys import ModuleTensors
from limner.lora.metadata import LoraMetadata, SamplingHints, header_entries
from limner.lora.saving import Components, save
from limner.lora.tools import DIFFUSERS, Tool, encode_for, tool_named
from limner.models.key_map import FamilyKeys
from limner.models.loading import dtypes
from limner.models.registry import family_keys, index_path
from limner.models.sampling import overrides_of, prediction_metadata
from limner.nn.layers import lora
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.training.checkpoint import initial_lora_record
from limner.training.model import TrainableModel

STEPS = "limner.steps"
"""Entry of the header of each file of weights."""
ADAPTER = "limner.adapter"
"""Entry of the header of a LoRA that was trained beside a training adapter."""
CHOSEN_STRENGTH = "limner.chosen_strength"
"""Entry of a run's LoRA that a person chose among its steps: the strength that its weights hold."""
CHOSEN_OF = "limner.chosen_of"
"""Entry of the same: how many steps the run had. Until it has more, training leaves the choice as it is."""


class ModelFolder:
    """A base in diffusers layout. See :class:`Output`."""

    def require_possible(self, resolved: Resolved, meta: Assembled) -> None:
        """Nothing can be in its way: no name is translated."""

    def paths(self, run: RunDir) -> dict[str, Path | None]:
        """The folder."""
        return {"lora": None, "model": run.model_path}

    def complete(self, run: RunDir, recipe: Recipe, step: int) -> bool:
        """Whether it is there, of ``step`` steps."""
        return model_steps(run) == step

    def write(self, model: TrainableModel, run: RunDir, reporter: Reporter, step: int) -> Path:
        """Write the folder."""
        return export_model(model, run, reporter, step)

    def write_step(self, model: TrainableModel, run: RunDir, step: int) -> Path | None:
        """Nothing: it would be as large as the base, and :meth:`write` can make it of the checkpoint."""
        return None


def export_model(model: TrainableModel, run: RunDir, reporter: Reporter, step: int) -> Path:
    """Write the folder ``model``: the trained denoiser in the precision of the base's files, and other parts.

    ``step`` is how many steps it was trained for.

    Any tool opens the folder like the base itself, and may write in it: no file is shared.

    Raises:
        DiskFull: There is no room.
        BadBase: The disk gave back other weights than were written.
    """
    resolved = model.resolved
    source, family = resolved.source, resolved.family
    name = family.denoiser
    lend, write = imported("limner.models.convert:lend"), imported("limner.models.convert:write")
    tensors = {**model.models[name].state_dict(), **model.state()[name]}
    kinds = dtypes(model.models[name], source.weights(name))
    require_space(run.path, source.bytes_on_disk or 0, f"{run.model_path}, the trained model,")
    with atomic_folder(run.model_path) as draft:
        _frame(resolved, draft)
        for part in family.parts:
            if part != name:
                lend(source, part, draft / part, allow_links=False)
        write_json(draft / name / "config.json", source.config(name))
        facts = {STEPS: str(step)}
        _verify(write(draft / name, tensors, dtypes=kinds, facts=facts), tensors, kinds)
    reporter.line(
        f"Model: {run.model_path.name}/ is a base in diffusers layout. As a LoRA: limner lora extract "
        f"{resolved.recipe.base} {run.model_path} --rank 64 --out {run.lora_path}"
    )
    return run.model_path


def model_steps(run: RunDir) -> int | None:
    """How many steps the exported model was trained for; None when there is none, or not one of ours."""
    try:
        index = run.read(index_path(run.model_path))
        files = [path for name in index or () for path in (run.model_path / name).glob("*.safetensors")]
        for path in files:
            with safe_open(path, "pt") as file:
                if steps := (file.metadata() or {}).get(STEPS):
                    return int(steps)
    except (OSError, ValueError, SafetensorError):
        return None
    return None


def _frame(resolved: Resolved, draft: Path) -> None:
    """Everything in the folder that is no model. A sampler is told what the recipe made of the base's own."""
    source, family = resolved.source, resolved.family
    index = dict(source.index)
    for part in source.parts_listed:
        if part not in (*family.parts, "scheduler"):
            index[part] = [None, None]  # a filter of pictures that Limner does without
    if "requires_safety_checker" in index:
        index["requires_safety_checker"] = False
    source.write_index(draft, index)
    if source.facts:
        write_json(draft / "limner.json", dict(source.facts))
    sampler = {**source.config("scheduler"), **overrides_of(resolved.objective)}
    write_json(draft / "scheduler" / "scheduler_config.json", sampler)


def _verify(files: Sequence[Path], tensors: Mapping[str, Tensor], kinds: Mapping[str, torch.dtype]) -> None:
    """Read everything back, to the bit.

    Raises:
        BadBase: It is not what was written.
    """
    missing = set(tensors)
    for path in files:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  it is no mapping
                expected = tensors[name].detach().to("cpu", kinds.get(name, tensors[name].dtype))
                if not torch.equal(expected, file.get_tensor(name)):
                    raise BadBase(
                        f"{path.parent.name}/{path.name}: {name} is not what was written. Check the disk, "
                        "and run again."
                    )
                missing.discard(name)
    if missing:
        raise BadBase(f"{files[0].parent.name}/ lacks {min(missing)}. Check the disk, and run again.")


KINDS = {"lora": "LoRA", "loha": "LoHa", "lokr": "LoKr", "dora": "DoRA"}
"""``lora.kind`` -> what the rooms of files call it."""


def main_tool(recipe: Recipe, pipeline: str) -> Tool:
    """The tool that ``lora.safetensors`` is for: diffusers where it reads the kind, else the first named.

    Args:
        recipe: Of the run.
        pipeline: A pipeline of the family, or the family's name.
    """
    if KINDS[recipe.lora.kind] in family_keys(pipeline).tools[DIFFUSERS.name].kinds:
        return DIFFUSERS
    return tool_named(next(iter(recipe.export.for_), DIFFUSERS.name))


def export(model: TrainableModel, run: RunDir, reporter: Reporter, step: int | None = None) -> Path:
    """Write ``lora.safetensors`` and check it as its tool would read it; then those for other tools.

    ``step`` is how many steps it was trained for, if not those of the recipe.

    Raises:
        BadLora: A file does not hold, key by key, what was trained, or a tool could not read a part of it.
    """
    components = model.adapters()
    step = model.recipe.train.steps if step is None else step
    header = _header(model, run, step, components)
    pipeline = model.resolved.family.pipeline
    if remark := _write_main(model.resolved, run.lora_path, components, header):
        reporter.line(f"LoRA: {remark}")
    for tool in model.resolved.recipe.export.for_:
        if tool != DIFFUSERS.name:
            path = run.lora_path_for(tool)
            error = save(path, components, header, torch.float32, tool_named(tool), pipeline)
            reporter.line(f"LoRA: {path.name} for {tool}, read back within {error:.1e}")
    return run.lora_path


def export_step(model: TrainableModel, run: RunDir, step: int) -> Path:
    """Write the LoRA after a step beside its checkpoint, checked likewise, and as the newest so far.

    The last one is the newest once :func:`export` has written it with those for other tools.
    """
    components = model.adapters()
    header = _header(model, run, step, components)
    path = run.step_lora_path(step)
    _write_main(model.resolved, path, components, header)
    if step < model.recipe.train.steps:
        atomic_write(run.lora_path, lambda draft: shutil.copyfile(path, draft))
    return path


def _header(model: TrainableModel, run: RunDir, step: int, components: Components) -> dict[str, str]:
    """What the file of a step says, of the LoRAs that it began with and was trained beside as well."""
    adapter = model.resolved.spec.adapter
    entries = {ADAPTER: adapter.name, f"{ADAPTER}_sha256": adapter.sha256} if adapter else {}
    return header_entries(about(model.resolved, step), components) | initial_lora_record(run) | entries


def _write_main(resolved: Resolved, path: Path, components: Components, header: dict[str, str]) -> str:
    """Write a file for :func:`main_tool` and read it back by its rules; what a person should know of it."""
    pipeline = resolved.family.pipeline
    main = main_tool(resolved.recipe, pipeline)
    if main is not DIFFUSERS or resolved.recipe.lora.kind not in ("lora", "dora"):
        error = save(path, components, header, torch.float32, main, pipeline)
        return f"{path.name} for {main.name}, read back within {error:.1e}"
    draft = path.with_name(".draft.safetensors")  # one that a kill leaves is overwritten next time
    try:
        file.write(draft, components, header, base=pipeline)
        report = diffusers_loader.verify(draft, components, pipeline)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return report.advice()


class LoRAFile:
    """A LoRA file for each tool that the recipe names. See :class:`Output`."""

    def require_possible(self, resolved: Resolved, meta: Assembled) -> None:
        """Raise ``BadRecipe`` unless every tool of ``export.for`` can hold what will be trained."""
        require_exportable(resolved, meta)

    def paths(self, run: RunDir) -> dict[str, Path | None]:
        """The file that stock diffusers loads."""
        return {"lora": run.lora_path, "model": None}

    def complete(self, run: RunDir, recipe: Recipe, step: int) -> bool:
        """Whether every file is there, of ``step`` steps."""
        return exported(run, recipe, step)

    def write(self, model: TrainableModel, run: RunDir, reporter: Reporter, step: int) -> Path:
        """Write the files."""
        return export(model, run, reporter, step)

    def write_step(self, model: TrainableModel, run: RunDir, step: int) -> Path | None:
        """Write the file that stock diffusers loads."""
        return export_step(model, run, step)


def require_exportable(resolved: Resolved, meta: Assembled) -> None:
    """Find out before training whether every tool of ``export.for`` can hold what will be trained.

    Args:
        resolved: The run.
        meta: Its models without weights, adapters attached.

    Raises:
        BadRecipe: One cannot.
    """
    recipe, pipeline = resolved.recipe, resolved.family.pipeline
    tools = [
        tool_named(name) for name in dict.fromkeys((main_tool(recipe, pipeline).name, *recipe.export.for_))
    ]
    for tool in tools:
        _require_kind(recipe, family_keys(pipeline), tool)
    blank = {
        component: {
            name: ModuleTensors(name, adapter.blank()).delta(kernel=adapter.kernel)
            for name, adapter in lora.attached(meta.models[component]).items()
        }
        for component in resolved.first_layers
    }
    for tool in tools:
        try:
            encode_for(blank, pipeline, tool)
        except BadLora as error:
            reason = str(error).partition(" Use another --to")[0].removesuffix(".")
            raise BadRecipe(
                f'export.for names "{tool.name}", and: {reason}. Train others with lora.targets or '
                f'lora.text_encoders, or remove "{tool.name}".'
            ) from error


def _require_kind(recipe: Recipe, family: FamilyKeys, tool: Tool) -> None:
    """Raise ``BadRecipe`` unless a tool reads the kind of adapter that is trained, where it reads any."""
    kind = KINDS[recipe.lora.kind]
    readers = [
        name
        for name, rules in family.tools.items()
        if kind in rules.kinds and (kind != "DoRA" or tool_named(name).norms == "out")
    ]
    if tool.name in family.tools and tool.name not in readers:
        axis = " with norms along the outputs" if kind == "DoRA" else ""
        alternatives = f" (or {', '.join(readers[1:])})" if readers[1:] else ""
        raise BadRecipe(
            f'lora.kind is "{recipe.lora.kind}", and {tool.name} reads no {kind} of {family.family}{axis}. '
            f'Set export.for = ["{readers[0]}"]{alternatives}, or lora.kind = "lora".'
        )


def _hints(recipe: Recipe) -> SamplingHints:
    """A scale is for the branches that it was set for; with the LoRA on both, the base's own will do."""
    if recipe.train.objective == "distill":
        return SamplingHints(guidance=1.0)
    if recipe.sample.lora_on == "both":
        return SamplingHints()
    return SamplingHints(lora_on=recipe.sample.lora_on, guidance=recipe.sample.guidance)


def exported(run: RunDir, recipe: Recipe, step: int) -> bool:
    """Whether every file that a recipe asks for is there, of ``step`` steps."""
    tool_paths = [run.lora_path_for(tool) for tool in recipe.export.for_ if tool != DIFFUSERS.name]
    return all(exported_steps(path) == step for path in (run.lora_path, *tool_paths))


def exported_steps(path: Path) -> int | None:
    """How many steps the run of an exported file had; None when there is none, or not one of ours."""
    try:
        metadata = file.read(path).metadata
        return int(metadata.get(CHOSEN_OF) or metadata["ss_steps"])
    except (BadLora, LookupError, ValueError):
        return None


def about(resolved: Resolved, step: int, kind: str = "lora") -> LoraMetadata:
    """What a file of ``kind`` (ModelSpec's word) says of itself for people: no captions, no paths."""
    recipe = resolved.recipe
    architecture, version = resolved.family.model_spec(resolved.source)
    prediction, dark = prediction_metadata(resolved.family, resolved.source, resolved.objective)
    return LoraMetadata(
        title=recipe.name,
        architecture=f"{architecture}/{kind}",
        base=resolved.source.name,
        base_version=version,
        trigger=", ".join(recipe.data.triggers),
        resolution=(resolved.resolution, resolved.resolution),
        steps=step,
        seed=recipe.seed,
        prediction=prediction,
        zero_terminal_snr=dark,
        sampling=_hints(recipe),
    )


class Output(Protocol):
    """A kind of file or folder that training ends in."""

    def require_possible(self, resolved: Resolved, meta: Assembled) -> None:
        """Find out before training whether it can be written.

        Args:
            resolved: The run.
            meta: Its models without weights.

        Raises:
            BadRecipe: It cannot.
        """
        ...

    def paths(self, run: RunDir) -> dict[str, Path | None]:
        """``lora``: the file, if it is one; ``model``: the base in diffusers layout, if it is that."""
        ...

    def complete(self, run: RunDir, recipe: Recipe, step: int) -> bool:
        """Whether all of it is there, of ``step`` steps."""
        ...

    def write(self, model: TrainableModel, run: RunDir, reporter: Reporter, step: int) -> Path:
        """Write it, and read it back before it takes its place."""
        ...

    def write_step(self, model: TrainableModel, run: RunDir, step: int) -> Path | None:
        """Write what can be used of a step, beside its checkpoint; None where there is nothing so small."""
        ...


OUTPUTS = {
    "lora": "limner.training.export:LoRAFile",
    "full": "limner.training.export:ModelFolder",
    "instant": "limner.training.predictor_folder:PredictorFolder",
    "inversion": "limner.training.export_embedding:EmbeddingFile",
}
"""``train.method`` -> what it ends in."""


def output_of(method: str, *, with_lora: bool) -> Output:
    """What a run of a method ends in; ``with_lora``: a LoRA stands beside the token vectors of a new word."""
    output = imported(OUTPUTS[method])
    return output(LoRAFile()) if with_lora else output()


def ends_in(resolved: Resolved) -> Output:
    """The same of a run."""
    return output_of(resolved.recipe.train.method, with_lora=resolved.recipe.inversion.with_lora)
