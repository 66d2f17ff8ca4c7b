"""What a target of ``generate`` brings: a LoRA, token vectors or a whole base, and which base it is for."""

from dataclasses import dataclass
from pathlib import Path

from limner.assembly.trainable import trainable_of
from limner.errors import BadLora, BadUsage
from limner.lora.embeddings import is_embedding
from limner.lora.metadata import header
from limner.recipe import toml
from limner.recipe.schema import Recipe
from limner.run_folder import RunDir, run_of, step_of


@dataclass(frozen=True)
class Trained:
    """What a run or a file brings."""

    lora: Path | None
    """None where a whole base was trained."""
    base: str
    """The base that it is for, or that it is."""
    components_from: str
    embedding: Path | None = None
    """The file of token vectors that goes with it, or that is all."""

    @property
    def main(self) -> Path | None:
        """The file that images are told apart by."""
        return self.lora or self.embedding


def trained_of(target: Path, base: str | None, parts: str) -> Trained:
    """The LoRA or the token vectors, if it is one, and the base that it is for, or that it is."""
    if target.is_dir():
        run, recipe = RunDir(target), _recipe_of(target)
        if trainable_of(recipe).freezes_base:
            embedding = run.embedding_path if recipe.trains_words else None
            alone = recipe.trains_words and not recipe.inversion.with_lora
            if embedding:
                _require_finished(run, embedding)
            lora = None if alone else lora_of(target)
            parts = parts or ("" if base else recipe.components_from)
            return Trained(lora, base or recipe.base, parts, embedding)
        _require_finished(run, run.model_path)
        if base:
            raise BadUsage(
                f"{target} trained a whole base, {run.model_path}; --base cannot be another. Remove it."
            )
        return Trained(None, str(run.model_path), "")
    lora, embedding = _file_of(target)
    if (run := run_of(target)) and not base:  # its recipe says where the base is, the file only its name
        recipe = toml.load(run.recipe_path)
        return Trained(lora, recipe.base, parts or recipe.components_from, embedding)
    base_name = base or header(lora or embedding or target).metadata.get("ss_sd_model_name", "")
    if not base_name:
        raise BadLora(f"{target} does not say which base it was trained on. Name it with --base.")
    return Trained(lora, base_name, parts, embedding)


def _file_of(target: Path) -> tuple[Path | None, Path | None]:
    """The LoRA and the token vectors of a file: of a run's LoRA those of the same step."""
    if target.suffix == ".safetensors" and target.exists() and is_embedding(target):
        return None, target
    lora = lora_of(target)
    run, step = run_of(target), step_of(target)
    if run is None or target.parent not in (run.path, run.loras_path):
        return lora, None
    vectors = run.embedding_path if step is None else run.step_embedding_path(step)
    return lora, vectors if vectors.exists() else None


def lora_of(target: Path) -> Path:
    """The LoRA file of a run, or the file itself."""
    if target.is_dir():
        run, recipe = RunDir(target), _recipe_of(target)
        if not trainable_of(recipe).freezes_base:
            raise BadUsage(
                f"{target} trained a whole base and holds no LoRA. Name a run or a file of a LoRA."
            )
        if run.predictor_path.exists() and not run.lora_path.exists():
            raise BadUsage(
                f"{target} trained a predictor, which makes a LoRA of images: limner instant IMAGES "
                f"--predictor {run.predictor_path}"
            )
        if recipe.trains_words and not recipe.inversion.with_lora:
            raise BadUsage(
                f"{target} trained token vectors and holds no LoRA. Name it with --embedding {target}."
            )
        _require_finished(run, run.lora_path)
        return run.lora_path
    if not target.exists():
        raise BadUsage(f"{target} does not exist. Give a run folder or a LoRA file.")
    return target


def _recipe_of(folder: Path) -> Recipe:
    run = RunDir(folder)
    return toml.load(run.recipe_path) if run.recipe_path.exists() else Recipe()


def _require_finished(run: RunDir, path: Path) -> None:
    if not path.exists():
        raise BadUsage(f"{run.path} has no {path.name} yet. Finish it with: limner train {run.path}")
