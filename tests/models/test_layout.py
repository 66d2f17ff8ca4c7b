import json

import pytest
import torch
from safetensors import safe_open

from limner.models import layout
from limner.models.source import locate

TENSORS = {name: torch.randn(10, 10) for name in "abc"}


def test_weights_are_written_in_the_precision_that_is_asked_for(tmp_path):
    (path,) = layout.write(tmp_path / "unet", TENSORS, dtypes={"a": torch.bfloat16}, facts={"steps": "3"})
    with safe_open(path, "pt") as file:
        assert torch.equal(file.get_tensor("a"), TENSORS["a"].bfloat16())
        assert torch.equal(file.get_tensor("b"), TENSORS["b"])
        assert file.metadata() == {"format": "pt", "steps": "3"}
    assert path.name == "diffusion_pytorch_model.safetensors"


def test_large_weights_lie_in_shards_with_an_index(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "SHARD", 900)
    paths = layout.write(tmp_path / "transformer", TENSORS)
    index = json.loads((tmp_path / "transformer/diffusion_pytorch_model.safetensors.index.json").read_text())
    assert [path.name for path in paths] == sorted(set(index["weight_map"].values())) and len(paths) == 2
    assert index["metadata"]["total_size"] == 1200


@pytest.mark.parametrize("linked", [True, False])
def test_a_part_is_lent_as_it_is(linked, tiny_base, tmp_path):
    source = locate(str(tiny_base), folders={})
    layout.lend(source, "vae", tmp_path / "vae", allow_links=linked)
    layout.lend(source, "tokenizer", tmp_path / "tokenizer", allow_links=linked)
    for path in (*(tmp_path / "vae").iterdir(), *(tmp_path / "tokenizer").iterdir()):
        assert path.read_bytes() == (tiny_base / path.parent.name / path.name).read_bytes()
    assert (tmp_path / "vae/config.json").samefile(tiny_base / "vae/config.json") == linked
