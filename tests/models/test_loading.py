import importlib
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from limner.errors import BadBase
from limner.models.flux.family import FAMILY
from limner.models.loading import fingerprint, library_model, load, precision_of, pretrained, skeleton
from limner.models.qwen_image.family import FAMILY as QWEN_IMAGE
from limner.models.source import Source, locate
from tiny import save_qwen_image

CPU = torch.device("cpu")
MODELS = ("transformer", "vae", "text_encoder", "text_encoder_2")


def source(folder: Path) -> Source:
    return locate(str(folder), folders={})


@pytest.fixture
def copied(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "copied"))


def file_of(folder: Path, part: str) -> Path:
    return next((folder / part).glob("*.safetensors"))


@pytest.mark.parametrize("part", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_part_is_loaded_frozen_in_its_precision(tiny_base: Path, part: str, dtype: torch.dtype):
    model = load(FAMILY, source(tiny_base), part, dtype=dtype, device=CPU)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    main = torch.float32 if part == "vae" else dtype
    assert precision_of(FAMILY, part, dtype) == main
    assert main in {p.dtype for p in model.parameters()}
    stored = load_file(file_of(tiny_base, part))
    mine = model.state_dict()
    assert all(
        torch.equal(mine[name], value.to(mine[name].dtype)) for name, value in stored.items() if name in mine
    )


@pytest.mark.parametrize("part", MODELS)
def test_a_part_is_to_the_bit_as_its_library_reads_it_and_torch_s_default_dtype_stays(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch, part: str
):
    library, class_name = FAMILY.library(part)
    cls = getattr(importlib.import_module(library), class_name)
    word = "dtype" if library == "transformers" else "torch_dtype"
    dtypes: list[torch.dtype] = []
    for kind in (torch.bfloat16, torch.float16):
        dtype = precision_of(FAMILY, part, kind)
        true = cls.from_pretrained(tiny_base / part, local_files_only=True, **{word: dtype})
        with monkeypatch.context() as patch:
            patch.setattr(torch, "set_default_dtype", dtypes.append)
            model = load(FAMILY, source(tiny_base), part, dtype=kind, device=CPU)
            ours = library_model(FAMILY, source(tiny_base), part, dtype)
        assert set(dtypes) <= {torch.float32} and torch.get_default_dtype() == torch.float32
        for other in (model, ours):
            assert type(other) is cls and not other.training
            tensors = [dict([*m.named_parameters(), *m.named_buffers()]) for m in (other, true)]
            assert tensors[0].keys() == tensors[1].keys()
            for name, tensor in tensors[0].items():
                assert tensor.dtype == tensors[1][name].dtype and torch.equal(tensor, tensors[1][name]), name


def test_old_names_in_files_are_translated_as_the_library_does(tmp_path: Path):
    """Qwen2.5-VL's files say ``model.layers``, its model of today ``model.language_model.layers``."""
    base = source(save_qwen_image(tmp_path / "qwen"))
    stored = load_file(file_of(base.root, "text_encoder"))
    model = load(QWEN_IMAGE, base, "text_encoder", dtype=torch.float32, device=CPU)
    assert "model.embed_tokens.weight" in stored
    mine = model.model.language_model.embed_tokens.weight
    assert torch.equal(mine, stored["model.embed_tokens.weight"])


@pytest.mark.parametrize("part", MODELS)
def test_a_skeleton_has_the_shapes_and_no_weights(tiny_base: Path, part: str):
    true = load(FAMILY, source(tiny_base), part, dtype=torch.float32, device=CPU)
    bare = skeleton(FAMILY, source(tiny_base), part, dtype=torch.float32)
    assert all(p.is_meta for p in bare.parameters())
    assert {n: p.shape for n, p in bare.named_parameters()} == {
        n: p.shape for n, p in true.named_parameters()
    }


def test_a_tokenizer(tiny_base: Path):
    tokenizer = load(FAMILY, source(tiny_base), "tokenizer_2", dtype=torch.float32, device=CPU)
    assert tokenizer("abc").input_ids


def test_fingerprints_know_weights_and_precision(copied: Path):
    def seen(part: str, dtype: torch.dtype = torch.float32) -> str:
        return fingerprint(FAMILY, source(copied), part, dtype)

    before = {part: seen(part) for part in FAMILY.parts}
    assert len(set(before.values())) == len(before)
    assert seen("text_encoder", torch.bfloat16) != before["text_encoder"]
    assert seen("vae", torch.bfloat16) == before["vae"], "it stays in fp32"
    assert seen("tokenizer", torch.bfloat16) == before["tokenizer"]
    tensors = {name: value + 1 for name, value in load_file(file_of(copied, "vae")).items()}
    save_file(tensors, file_of(copied, "vae"))
    changed = {part for part in FAMILY.parts if seen(part) != before[part]}
    assert changed == {"vae"}


@pytest.mark.parametrize("part", MODELS)
@pytest.mark.parametrize("damage", ["lacks a tensor", "another shape", "torn", "not safetensors"])
def test_a_damaged_part_is_told_in_one_line(copied: Path, part: str, damage: str):
    path = file_of(copied, part)
    tensors = {name: value.clone() for name, value in load_file(path).items()}
    name = sorted(tensors)[3]
    match damage:
        case "lacks a tensor":
            del tensors[name]
            save_file(tensors, path, metadata={"format": "pt"})
        case "another shape":
            tensors[name] = torch.zeros(7)
            save_file(tensors, path, metadata={"format": "pt"})
        case "torn":
            path.write_bytes(path.read_bytes()[:-100])
        case "not safetensors":
            path.write_bytes(b"<html>404</html>")
    with pytest.raises(BadBase, match=rf"^copied: {part}/ (lacks 1 tensors|cannot be loaded)") as caught:
        load(FAMILY, source(copied), part, dtype=torch.float32, device=CPU)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(
        "Copy the whole base again, or name another one."
    )


@pytest.mark.parametrize("part", MODELS)
def test_a_torn_config_is_told_before_anything_is_loaded(copied: Path, part: str):
    (copied / part / "config.json").write_text('{"a": ')
    with pytest.raises(BadBase, match=rf"{part}/config.json cannot be read .* copy the base again\.$"):
        source(copied)


def test_a_foreign_config_is_told(copied: Path):
    (copied / "transformer" / "config.json").write_text(
        '{"_class_name": "FluxTransformer2DModel", "num_layers": "x"}'
    )
    with pytest.raises(BadBase, match="transformer/ cannot be loaded"):
        load(FAMILY, source(copied), "transformer", dtype=torch.float32, device=CPU)


def test_what_t5_keeps_in_fp32_is_so_in_a_skeleton_of_fp16_as_well(tiny_base: Path):
    true = load(FAMILY, source(tiny_base), "text_encoder_2", dtype=torch.float16, device=CPU)
    bare = skeleton(FAMILY, source(tiny_base), "text_encoder_2", dtype=torch.float16)
    kinds = {name: p.dtype for name, p in bare.named_parameters()}
    assert kinds == {name: p.dtype for name, p in true.named_parameters()}
    assert {kind for name, kind in kinds.items() if ".wo." in name} == {torch.float32}
    assert torch.float16 in kinds.values()


SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A text encoder that is stored in bf16."""
    path = tmp_path_factory.mktemp("pretrained")
    torch.manual_seed(0)
    model = CLIPTextModel(CLIPTextConfig(vocab_size=32, max_position_embeddings=8, **SIZES))
    model.to(torch.bfloat16).save_pretrained(path)
    return path


@pytest.mark.parametrize(
    ("dtype", "expected"), [("auto", torch.bfloat16), (torch.float16, torch.float16), (torch.float32,) * 2]
)
def test_a_model_is_loaded_as_its_library_does_but_for_torchs_default_dtype(
    folder, monkeypatch, dtype, expected
):
    theirs = CLIPTextModel.from_pretrained(folder, dtype=dtype)
    defaults = []
    change = torch.set_default_dtype
    monkeypatch.setattr(torch, "set_default_dtype", lambda value: defaults.append(value) or change(value))
    model, missing = pretrained(CLIPTextModel, folder, dtype)
    assert set(defaults) <= {torch.float32} and missing == []
    assert type(model) is CLIPTextModel and model.dtype == expected
    pairs = zip(model.named_parameters(), theirs.named_parameters(), strict=True)
    assert all(ours[0] == other[0] and torch.equal(ours[1], other[1]) for ours, other in pairs)


def test_names_that_the_files_lack_are_told(folder):
    _, missing = pretrained(transformers.CLIPTextModelWithProjection, folder)
    assert missing == ["text_projection.weight"]
