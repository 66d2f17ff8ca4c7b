from pathlib import Path

import torch

from limner.lora import embeddings
from limner.lora.embeddings import ONLY, Embedding
from limner.recipe.schema import Recipe
from limner.recipe.toml import change
from limner.run_folder import RunDir
from limner.training.export import CHOSEN_OF, LoRAFile, ModelFolder, output_of
from limner.training.export_embedding import EmbeddingFile, embedding_steps, write_embedding

ALONE = {"train.method": "inversion", "data.trigger": "<mimo>"}


def test_each_method_ends_in_its_own_kind_of_file():
    kinds = {"lora": LoRAFile, "full": ModelFolder, "inversion": EmbeddingFile}
    for method, kind in kinds.items():
        assert type(output_of(method, with_lora=False)) is kind
    assert output_of("inversion", with_lora=False) == EmbeddingFile()
    beside = output_of("inversion", with_lora=True)
    assert isinstance(beside, EmbeddingFile) and isinstance(beside.lora, LoRAFile)


def test_the_files_are_complete_when_both_are_of_the_last_step(tmp_path: Path):
    run, recipe = RunDir(tmp_path), change(Recipe(), ALONE)
    output = output_of("inversion", with_lora=False)
    assert output.paths(run) == {"lora": None, "model": None, "embedding": run.embedding_path}
    assert not output.complete(run, recipe, 7) and embedding_steps(run.embedding_path) is None
    item = Embedding("<mimo>", {ONLY: torch.zeros(1, 4)}, {"ss_steps": "7"})
    path, named = write_embedding(run, item)
    assert output.complete(run, recipe, 7) and not output.complete(run, recipe, 8)
    assert named == run.embeddings_path / "mimo.safetensors" and path == run.embedding_path
    named.unlink()
    assert not output.complete(run, recipe, 7)
    write_embedding(run, Embedding("<mimo>", item.vectors, {"ss_steps": "5", CHOSEN_OF: "9"}))
    assert output.complete(run, recipe, 9) and embeddings.read(path).trained_steps == 5
