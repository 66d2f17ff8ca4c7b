import pytest
import torch
from safetensors.torch import save_file

from limner.errors import BadBase
from limner.lora.weights import base_files, data_offsets, open_base


def save(path, **weights):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.full((4, 4), float(n)) for n, name in enumerate(weights)}, path)
    return path


NATIVE = {
    "double_blocks.0.img_attn.qkv.weight": 0,
    "double_blocks.0.img_attn.qkv.bias": 0,
    "img_in.weight": 0,
}
OWN = {"transformer_blocks.0.attn.to_q.weight": 0, "x_embedder.weight": 0}


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
def test_a_lone_file_in_the_authors_names(tmp_path, prefix: str) -> None:
    path = save(tmp_path / "base.safetensors", **{prefix + name: 0 for name in NATIVE})
    opened = open_base(path)
    assert opened.family.family == "flux"
    assert {weight.match.row.native for weight in opened.weights} == {
        "double_blocks.{}.img_attn.qkv",
        "img_in",
    }
    assert all(weight.native for weight in opened.weights)
    assert opened.read(opened.weights[0]).shape == (4, 4)


def test_a_folder_as_diffusers_lays_it_out(tmp_path) -> None:
    save(tmp_path / "transformer" / "a.safetensors", **OWN)
    save(tmp_path / "transformer" / "b.safetensors", **{"proj_out.weight": 0})
    save(tmp_path / "text_encoder" / "model.safetensors", **{"text_model.encoder.layers.0.mlp.fc1.weight": 0})
    assert {name: len(own) for name, own in base_files(tmp_path).items()} == {
        "transformer": 2,
        "text_encoder": 1,
    }
    opened = open_base(tmp_path, "flux")
    assert sorted({weight.component for weight in opened.weights}) == ["text_encoder", "transformer"]
    assert len(opened.weights) == 4
    assert not any(weight.native for weight in opened.weights)


def test_what_is_no_base_is_refused(tmp_path) -> None:
    with pytest.raises(BadBase, match="holds no .safetensors file"):
        open_base(tmp_path)
    with pytest.raises(BadBase, match="has no weight that Limner knows by name"):
        open_base(save(tmp_path / "x.safetensors", foo=0))
    (tmp_path / "y.safetensors").write_bytes(b"PK\x03\x04")
    with pytest.raises(BadBase, match="is no safetensors file"):
        open_base(tmp_path / "y.safetensors")
    with pytest.raises(BadBase, match="claims"):
        data_offsets(tmp_path / "y.safetensors")


def test_the_places_of_tensors(tmp_path) -> None:
    path = save(tmp_path / "x.safetensors", a=0, b=0)
    start, table = data_offsets(path)
    dtype, first, last = table["b"]
    raw = path.read_bytes()[start + first : start + last]
    assert dtype == "F32"
    assert torch.equal(torch.frombuffer(bytearray(raw), dtype=torch.float32), torch.ones(16))
