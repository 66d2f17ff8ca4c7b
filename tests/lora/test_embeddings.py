from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import messages
from limner.errors import BadLora
from limner.lora import embeddings
from limner.lora.embeddings import ONLY, Embedding
from limner.lora.inspect import inspect, table
from limner.models.registry import families

SDXL = Embedding(
    "<mimo>", {"clip_l": torch.randn(2, 768), "clip_g": torch.randn(2, 1280)}, {embeddings.MARK: "<mimo>"}
)


def test_files_are_read_back_in_the_forms_of_every_tool(tmp_path: Path):
    embeddings.write(tmp_path / "a.safetensors", SDXL)
    read = embeddings.read(tmp_path / "a.safetensors")
    assert read.word == "<mimo>" and read.count == 2 and read.sha256 == SDXL.sha256
    assert all(torch.equal(read.vectors[key], tensor) for key, tensor in SDXL.vectors.items())
    one = Embedding("<mimo>", {ONLY: torch.randn(3, 768)})
    for key, name, word in (("<mimo>", "any", "<mimo>"), (ONLY, "charturner", "charturner")):
        path = tmp_path / f"{name}.safetensors"
        embeddings.write(path, one, key=key)
        assert list(load_file(path)) == [key]
        read = embeddings.read(path)
        assert read.word == word and torch.equal(read.vectors[ONLY], one.vectors[ONLY])
    save_file({"<flat>": torch.randn(768).half()}, tmp_path / "flat.safetensors")
    assert embeddings.read(tmp_path / "flat.safetensors").vectors[ONLY].shape == (1, 768)


def test_vectors_are_bundled_in_a_lora_and_found_there(tmp_path: Path):
    path = tmp_path / "lora.safetensors"
    save_file({"lora_unet_x.lora_down.weight": torch.randn(2, 4)}, path, metadata={"ss_steps": "3"})
    assert embeddings.bundled(path) == [] and not embeddings.is_embedding(path)
    embeddings.add_to_lora(path, SDXL)
    assert set(load_file(path)) == {
        "lora_unet_x.lora_down.weight",
        "bundle_emb.<mimo>.clip_l",
        "bundle_emb.<mimo>.clip_g",
    }
    (found,) = embeddings.bundled(path)
    assert found.word == "<mimo>" and found.sha256 == SDXL.sha256


def test_encoders_of_a_family_get_their_own(tmp_path: Path):
    assert set(SDXL.by_encoder(families()["sdxl"])) == {"text_encoder", "text_encoder_2"}
    for name in ("sd15", "krea2"):
        with messages.raises(BadLora):
            SDXL.by_encoder(families()[name])


def test_files_that_hold_no_whole_word_are_refused(tmp_path: Path):
    for number, state in enumerate(
        (
            {"clip_l": torch.randn(2, 768), "clip_g": torch.randn(3, 1280)},
            {"clip_l": torch.full((2, 768), torch.nan)},
            {"unet.x.lora_A.weight": torch.randn(2, 4)},
        )
    ):
        path = tmp_path / f"{number}.safetensors"
        save_file(state, path)
        with messages.raises(BadLora):
            embeddings.read(path)


@pytest.mark.parametrize(("width", "family"), [(768, "sd15"), (1024, None)])
def test_info_knows_them(tmp_path: Path, width: int, family: str | None):
    embeddings.write(tmp_path / "mimo.safetensors", Embedding("mimo", {ONLY: torch.randn(1, width)}))
    info = inspect(tmp_path / "mimo.safetensors")
    assert info.family == family and info.triggers == ("mimo",) and "textual inversion, 1 vector" in info.form
    assert any("load_textual_inversion" in line for line in table(info))
    embeddings.write(tmp_path / "sdxl.safetensors", SDXL)
    assert inspect(tmp_path / "sdxl.safetensors").family == "sdxl"
