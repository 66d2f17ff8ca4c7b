"""Export of a full fine-tune: a base in diffusers layout, to paint with, train on, or extract LoRAs from."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from limner.assembly.assemble import Assembled
from limner.assembly.resolve import Resolved
from limner.errors import BadBase
from limner.files import atomic_folder, require_space, write_json
from limner.models.layout import lend, write
from limner.models.scheduler import overrides_of
from limner.models.weights import dtypes
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.training.model import TrainableModel

STEPS = "limner.steps"
"""Entry of the header of each file of weights."""


class ModelFolder:
    """A base in diffusers layout. See ``training.outputs``."""

    def require_possible(self, resolved: Resolved, meta: Assembled) -> None:
        """Nothing can be in its way: no name is translated."""

    def paths(self, run: RunDir) -> dict[str, Path | None]:
        """The folder."""
        return {"lora": None, "model": run.model_path}

    def complete(self, run: RunDir, recipe: Recipe) -> bool:
        """Whether it is there, of as many steps as the recipe asks for."""
        return model_steps(run) == recipe.train.steps

    def write(self, model: TrainableModel, run: RunDir, reporter: Reporter) -> Path:
        """Write the folder."""
        return export_model(model, run, reporter)


def export_model(model: TrainableModel, run: RunDir, reporter: Reporter) -> Path:
    """Write the folder ``model``: the trained denoiser in the precision of the base's files, and other parts.

    Any tool opens the folder like the base itself, and may write in it: no file is shared.

    Raises:
        DiskFull: There is no room.
        BadBase: The disk gave back other weights than were written.
    """
    resolved = model.resolved
    source, family = resolved.source, resolved.family
    name = family.denoiser
    tensors = {**model.models[name].state_dict(), **model.state()[name]}
    kinds = dtypes(model.models[name], source.weights(name))
    require_space(run.path, source.bytes_on_disk or 0, f"{run.model_path}, the trained model,")
    with atomic_folder(run.model_path) as draft:
        _frame(resolved, draft)
        for part in family.parts:
            if part != name:
                lend(source, part, draft / part, allow_links=False)
        write_json(draft / name / "config.json", source.config(name))
        facts = {STEPS: str(resolved.recipe.train.steps)}
        _verify(write(draft / name, tensors, dtypes=kinds, facts=facts), tensors, kinds)
    reporter.line(
        f"Model: {run.model_path.name}/ is a base in diffusers layout. As a LoRA: limner lora extract "
        f"{resolved.recipe.base} {run.model_path} --rank 64 --out {run.lora_path}"
    )
    return run.model_path


def model_steps(run: RunDir) -> int | None:
    """How many steps the exported model was trained for; None when there is none, or not one of ours."""
    try:
        index = run.read(run.model_path / "model_index.json")
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
    write_json(draft / "model_index.json", index)
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
