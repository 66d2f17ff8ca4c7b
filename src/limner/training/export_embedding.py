"""What a textual inversion leaves: files of token vectors, beside those of the LoRA where there is one."""

from dataclasses import dataclass
from pathlib import Path

from limner.assembly.assemble import Assembled
from limner.assembly.resolve import Resolved
from limner.errors import BadLora
from limner.lora import embeddings
from limner.lora.embeddings import ONLY, Embedding
from limner.lora.metadata import header
from limner.models.registry import families
from limner.nn.layers import tokens
from limner.recipe.schema import Recipe
from limner.reporter import Reporter, counted
from limner.run_folder import RunDir
from limner.training.export import CHOSEN_OF, LoRAFile, about
from limner.training.model import TrainableModel

BUNDLERS = ("kohya",)
"""Tools that read token vectors out of a LoRA's file: A1111 and Forge. Stock diffusers refuses such one."""


@dataclass(frozen=True)
class EmbeddingFile:
    """``embedding.safetensors`` for diffusers and one named after the word for A1111 and ComfyUI.

    Attributes:
        lora: What the LoRA that is trained beside the vectors ends in.
    """

    lora: LoRAFile | None = None

    def require_possible(self, resolved: Resolved, meta: Assembled) -> None:
        """Raise ``BadRecipe`` unless every tool of ``export.for`` can hold the LoRA, if there is one."""
        if self.lora:
            self.lora.require_possible(resolved, meta)

    def paths(self, run: RunDir) -> dict[str, Path | None]:
        """The file of the vectors, and that of the LoRA."""
        lora = self.lora.paths(run)["lora"] if self.lora else None
        return {"lora": lora, "model": None, "embedding": run.embedding_path}

    def complete(self, run: RunDir, recipe: Recipe, step: int) -> bool:
        """Whether every file is there, of ``step`` steps."""
        vectors = embedding_steps(run.embedding_path) == step and (
            embedding_steps(_named_path(run, recipe.data.triggers[0])) == step
        )
        return vectors and (self.lora is None or self.lora.complete(run, recipe, step))

    def write(self, model: TrainableModel, run: RunDir, reporter: Reporter, step: int) -> Path:
        """Write the files."""
        embedding = trained_embedding(model, step)
        path, word_path = write_embedding(run, embedding)
        sizes = ", ".join(f"{key} {' x '.join(map(str, v.shape))}" for key, v in embedding.vectors.items())
        reporter.line(
            f"Textual inversion: {path.name} for diffusers and {word_path.relative_to(run.path)} for A1111, "
            f'Forge and ComfyUI, {counted(embedding.count, "vector")} of "{embedding.word}" ({sizes})'
        )
        if self.lora is None:
            return path
        path = self.lora.write(model, run, reporter, step)
        for tool in set(model.recipe.export.for_) & set(BUNDLERS):
            embeddings.add_to_lora(run.lora_path_for(tool), embedding)
            reporter.line(f"LoRA: {run.lora_path_for(tool).name} holds the vectors as well (bundle_emb)")
        return path

    def write_step(self, model: TrainableModel, run: RunDir, step: int) -> Path | None:
        """Write those of a step beside its checkpoint, and as the newest so far."""
        embedding = trained_embedding(model, step)
        path = run.step_embedding_path(step)
        embeddings.write(path, embedding, key=embedding.word)
        if step < model.recipe.train.steps:
            write_embedding(run, embedding)
        return self.lora.write_step(model, run, step) if self.lora else path


def write_embedding(run: RunDir, embedding: Embedding) -> tuple[Path, Path]:
    """Write the files that are used: for diffusers, and named after the word."""
    word_path = _named_path(run, embedding.word)
    embeddings.write(run.embedding_path, embedding, key=embedding.word)
    embeddings.write(word_path, embedding)
    return run.embedding_path, word_path


def _named_path(run: RunDir, word: str) -> Path:
    return run.embeddings_path / f"{embeddings.file_word(word)}.safetensors"


def trained_embedding(model: TrainableModel, step: int) -> Embedding:
    """The vectors as they are, with the header of a file."""
    resolved = model.resolved
    keys = families()[resolved.family.name].embeddings
    tables = {name: tokens.table(model.models[name]) for name in resolved.spec.placeholder.encoders}
    vectors = {keys[name] or ONLY: table.token_vectors for name, table in tables.items() if table}
    word = resolved.spec.placeholder.word
    info = about(resolved, step, kind="textual-inversion")
    return Embedding(word, vectors, embeddings.entries(info, word))


def embedding_steps(path: Path) -> int | None:
    """How many steps the run of a file had; None when there is none, or not one of ours."""
    try:
        metadata = header(path).metadata
        return int(metadata.get(CHOSEN_OF) or metadata["ss_steps"])
    except (BadLora, LookupError, ValueError):
        return None
