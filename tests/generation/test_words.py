"""Words of textual inversions in a pipeline, and out of it again."""

from pathlib import Path

import pytest
import torch

import messages
import small
import tiny
from limner.assembly.base import family_at
from limner.errors import BadLora, BadUsage
from limner.generation.pipeline import pipeline
from limner.generation.settings import Settings
from limner.generation.trained import trained_of
from limner.generation.words import embedding_file, require_words, with_words, words_of
from limner.lora import embeddings
from limner.lora.embeddings import ONLY, Embedding
from limner.lora.location import locate_base
from limner.recipe import toml
from limner.recipe.schema import Recipe
from limner.recipe.toml import change
from limner.run_folder import RunDir


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_sd15(tmp_path_factory.mktemp("words") / "sd15")


def word(name: str = "<mimo>", count: int = 2, width: int = 16) -> Embedding:
    return Embedding(name, {ONLY: torch.randn(count, width, generator=torch.Generator().manual_seed(0))})


def test_a_pipeline_is_as_it_was_when_its_words_are_gone(base: Path):
    source = locate_base(str(base))
    family = family_at(source)
    pipe = pipeline(family, source)
    tokenizer, table = pipe.tokenizer, pipe.text_encoder.get_input_embeddings()
    size = pipe.text_encoder.config.vocab_size
    with with_words(pipe, family, [word()]):
        ids = pipe.tokenizer(pipe.maybe_convert_prompt("a <mimo>", pipe.tokenizer)).input_ids
        rows = pipe.text_encoder.get_input_embeddings().weight
        assert torch.equal(rows[ids[-3:-1]], word().vectors[ONLY])
    assert pipe.tokenizer is tokenizer and pipe.text_encoder.get_input_embeddings() is table
    assert pipe.text_encoder.config.vocab_size == size and "<mimo>" not in tokenizer.get_vocab()
    for wrong, error in ((word(width=8), BadLora), (word("a"), BadUsage)):
        with messages.raises(error), with_words(pipe, family, [wrong]):
            pass
    assert pipe.tokenizer is tokenizer


def test_the_same_word_twice_is_refused(base: Path):
    with messages.raises(BadUsage):
        require_words(family_at(locate_base(str(base))), [word(), word(count=1)])


def test_a_file_is_generated_with_as_a_target_and_as_an_option(base: Path, tmp_path: Path):
    path = tmp_path / "mimo.safetensors"
    embeddings.write(path, Embedding("<mimo>", word().vectors, {embeddings.MARK: "<mimo>", "ss_steps": "7"}))
    settings = Settings(steps=1, width=32, height=32)
    (image,) = small.generated(path, tmp_path, "a <mimo>", base=str(base), settings=settings)
    assert image.name == "a-mimo-step7-seed0.png"
    with messages.raises(BadUsage):
        small.generated(path, tmp_path, "a", base=str(base), settings=Settings(lora_scale=0.5))
    with messages.raises(BadLora):
        small.generated(path, tmp_path, "a", settings=settings)
    with messages.raises(BadUsage):
        embedding_file(tmp_path / "none.safetensors")
    with messages.raises(BadUsage):
        embedding_file(tmp_path)
    assert [each.word for each in words_of(path)] == ["<mimo>"]


def test_a_run_brings_its_vectors_and_its_lora(tmp_path: Path):
    run = RunDir(tmp_path / "run")
    run.embeddings_path.mkdir(parents=True)
    run.loras_path.mkdir()
    alone = change(Recipe(), {"train.method": "inversion", "data.trigger": "<mimo>"})
    run.recipe_path.write_text(toml.dump(alone))
    with messages.raises(BadUsage):
        trained_of(run.path, None, "")
    for path in (run.embedding_path, run.step_embedding_path(2)):
        embeddings.write(path, word())
    assert run.step_loras() == [(2, run.step_embedding_path(2))]
    assert trained_of(run.path, None, "").main == run.embedding_path
    assert trained_of(run.step_embedding_path(2), None, "").base == "glyph"
    run.recipe_path.write_text(toml.dump(change(alone, {"inversion.with_lora": True})))
    for path in (run.lora_path, run.step_lora_path(2)):
        embeddings.write(path, Embedding("x", {"unet.x.lora_A.weight": torch.zeros(2, 4)}))
    whole, step = trained_of(run.path, None, ""), trained_of(run.step_lora_path(2), None, "")
    assert (whole.lora, whole.embedding) == (run.lora_path, run.embedding_path)
    assert (step.lora, step.embedding) == (run.step_lora_path(2), run.step_embedding_path(2))
    run.drop_step_loras(1)
    assert run.step_loras() == []
