from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from limner.errors import BadUsage
from limner.lora import embeddings
from limner.lora.embeddings import Embedding
from limner.publishing.card import card
from limner.publishing.civitai import model_page
from limner.publishing.folder import write_folder
from limner.publishing.publication import publication
from limner.recipe.toml import change, dump, load
from limner.run_folder import RunDir
from messages import raises
from publishing.runs_to_publish import INFO, SECRET, finished_run


def run_of_a_word(folder: Path, base: str, *, with_lora: bool) -> RunDir:
    """A finished run of textual inversion, as ``limner train`` leaves it."""
    run = finished_run(folder, base=base, tools=("diffusers",))
    recipe = change(
        load(run.recipe_path),
        {"train.method": "inversion", "inversion.with_lora": with_lora, "data.trigger": "<mimo>"},
    )
    run.recipe_path.write_text(dump(recipe))
    keys = {"sdxl": ("clip_l", "clip_g"), "sd15": (embeddings.ONLY,), "flux-dev": ("clip_l", "t5")}[base]
    info = replace(INFO, base=base, trigger="<mimo>")
    vectors = {key: torch.randn(4, 768) for key in keys}
    metadata = embeddings.entries(info, "<mimo>") | {"ss_dataset_dirs": SECRET}
    embedding = Embedding("<mimo>", vectors, metadata)
    embeddings.write(run.embedding_path, embedding, key="<mimo>")
    embeddings.write(run.embeddings_path / "mimo.safetensors", embedding)
    if not with_lora:
        run.lora_path.unlink()
    return run


@pytest.mark.parametrize(("base", "with_lora"), [("sdxl", False), ("sd15", False), ("flux-dev", True)])
def test_a_word_is_published_with_what_loads_it(tmp_path, base, with_lora):
    run = run_of_a_word(tmp_path / "run", base, with_lora=with_lora)
    item = publication(run.path)
    assert item.title == "My Cat" and item.word and item.word.word == "<mimo>"
    assert bool(item.files) == with_lora
    text = card(item, "ada/cat")
    tags = yaml.safe_load(text.split("---")[1])["tags"]
    assert ("textual_inversion" in tags, "lora" in tags) == (True, with_lora)
    assert text.count("pipe.load_textual_inversion(") == len(item.word.encoders)
    assert ("pipe.load_lora_weights(" in text) == with_lora
    if base == "sdxl":
        assert "state[\"clip_g\"], token='<mimo>', text_encoder=pipe.text_encoder_2" in text
    snippet = text.split("```python\n")[1].split("```")[0]
    compile(snippet, "card", "exec")
    assert "`embedding:mimo`" in text
    assert model_page(item)["type"] == ("LORA" if with_lora else "TextualInversion")


def test_the_files_of_a_word_are_copied_without_what_is_private(tmp_path):
    run = run_of_a_word(tmp_path / "run", "sdxl", with_lora=False)
    names = {path.name for path in write_folder(publication(run.path), tmp_path / "out", "ada/cat")}
    assert names >= {"README.md", "embedding.safetensors", "mimo.safetensors"}
    for name in ("embedding.safetensors", "mimo.safetensors"):
        assert SECRET.encode() not in (tmp_path / "out" / name).read_bytes()
        copy, source = embeddings.read(tmp_path / "out" / name), embeddings.read(run.embedding_path)
        assert copy.word == "<mimo>" and copy.sha256 == source.sha256


def test_a_word_that_is_not_there_yet_is_asked_for(tmp_path):
    run = run_of_a_word(tmp_path / "run", "sdxl", with_lora=False)
    (run.embeddings_path / "mimo.safetensors").unlink()
    with raises(BadUsage):
        publication(run.path)
    run.embedding_path.unlink()
    with raises(BadUsage):
        publication(run.path)
