"""What a training of a predictor ends in: its folder, or the LoRA file that one which looks at nothing is."""

from pathlib import Path

import torch

from limner.assembly.assemble import Assembled
from limner.assembly.resolve import Resolved
from limner.errors import BadBase
from limner.hyper.predictor import FILE, Predictor
from limner.hyper.train import MODEL, predictor_hash
from limner.lora.factors import Factors
from limner.lora.metadata import LoraMetadata, header_entries
from limner.lora.saving import save
from limner.lora.tools import DIFFUSERS
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.training.model import TrainableModel

BIAS_STEPS = "limner.steps"
"""Entry of the header of a static LoRA: the steps of its training."""


class PredictorFolder:
    """A predictor, which ``limner instant --predictor`` takes. See ``export.Output``."""

    def require_possible(self, resolved: Resolved, meta: Assembled) -> None:
        """Nothing can be in its way: no name is translated."""

    def paths(self, run: RunDir) -> dict[str, Path | None]:
        """The folder; of a static LoRA its file."""
        return {"lora": run.lora_path if run.lora_path.exists() else None, "model": run.predictor_path}

    def complete(self, run: RunDir, recipe: Recipe, step: int) -> bool:
        """Whether it is there, of ``step`` steps."""
        try:
            return Predictor.load(run.predictor_path).record.get("steps") == step
        except BadBase:
            return False

    def write(self, model: TrainableModel, run: RunDir, reporter: Reporter, step: int) -> Path:
        """Write the folder, and read it back."""
        path = self.write_step(model, run, step)
        if model.recipe.instant.encoders:
            reporter.line(
                f"Predictor: {run.predictor_path.name}/ makes LoRAs: limner instant PICTURES --base "
                f"{model.recipe.base} --predictor {run.predictor_path}"
            )
        else:
            reporter.line(f"LoRA: {run.lora_path.name}, the same for all pictures: an expert of --experts.")
        return path or run.predictor_path

    def write_step(self, model: TrainableModel, run: RunDir, step: int) -> Path | None:
        """The newest so far, in the place of the one before."""
        learner: Predictor = model.models[MODEL].learner
        file = run.predictor_path / FILE
        recipe = model.recipe
        record = {
            "steps": step,
            "seed": recipe.seed,
            "batch": recipe.train.batch,
            "learning_rate": recipe.train.learning_rate,
            "experts": [predictor_hash(path) for path in recipe.instant.experts],
        }
        weights = None
        if model.parts:
            start = "learner."
            weights = {name.removeprefix(start): weight for name, weight in model.state()[MODEL].items()}
        learner.save(file, record, weights)
        Predictor.load(file)
        return None if recipe.instant.encoders else _write_static(model, run, learner, step)


def _write_static(model: TrainableModel, run: RunDir, learner: Predictor, step: int) -> Path:
    """The LoRA of a predictor that looks at nothing, as any LoRA is written."""
    resolved = model.resolved
    factors = {
        name: Factors(down[0].detach().float().cpu(), up[0].detach().float().cpu())
        for name, (down, up) in learner.static(1).items()
    }
    components = {resolved.family.denoiser: factors}
    architecture, version = resolved.family.model_spec(resolved.source)
    info = LoraMetadata(
        title=model.recipe.name,
        architecture=f"{architecture}/lora",
        base=resolved.source.name,
        base_version=version,
        resolution=(resolved.resolution, resolved.resolution),
        description="A LoRA that is the same for all pictures: an expert beside a predictor.",
        steps=step,
        seed=model.recipe.seed,
    )
    save(
        run.lora_path,
        components,
        header_entries(info, components) | {BIAS_STEPS: str(step)},
        torch.float32,
        DIFFUSERS,
        resolved.family.pipeline,
    )
    return run.lora_path
