"""What is Chroma's alone; the rest is in the contract."""

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_chroma_transformer_checkpoint_to_diffusers

from limner.errors import BadBase
from limner.models import sampling
from limner.models.bundled import known
from limner.models.chroma.facts import FACTS
from limner.models.chroma.family import FAMILY
from limner.models.convert import by_key_map
from limner.models.family import Objective
from limner.models.sampling import sampler
from messages import raises


def test_guidance_is_by_a_second_pass():
    assert FAMILY.has_negative_pass(known("chroma1-hd"), None)
    assert not FAMILY.has_negative_pass(known("chroma1-hd"), 1.0)
    assert FAMILY.model_spec(known("chroma1-base")) == ("chroma", "chroma")


@pytest.mark.parametrize(("name", "shift"), [("chroma1-hd", 3.0), ("chroma1-base", 1.0)])
def test_times_are_shifted_by_the_fixed_number_of_each_base(name: str, shift: float):
    assert FAMILY.constants(known(name), Objective())["time_shift"] == shift
    assert FAMILY.constants(known(name), Objective(time_density="sigmoid"))["time_shift"] == 1.0


def test_a_sampler_that_needs_a_package_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sampling, "find_spec", lambda name: None)
    assert sampler(known("chroma1-hd"), {}).config["shift"] == 3.0
    with raises(BadBase):
        sampler(known("chroma1-base"), {})


def test_a_checkpoint_as_diffusers_own_converter_has_it():
    """One column is enough: rows are what is cut and put together."""
    draw, width, hidden = torch.Generator().manual_seed(0), 3072, 8
    layer, approximator = "distilled_guidance_layer.layers.0.", "distilled_guidance_layer."
    heights = {
        **{f"double_blocks.0.{side}_attn.qkv": 3 * width for side in ("img", "txt")},
        **{f"double_blocks.0.{side}_attn.proj": width for side in ("img", "txt")},
        **{f"double_blocks.0.{side}_mlp.0": 4 * width for side in ("img", "txt")},
        **{f"double_blocks.0.{side}_mlp.2": width for side in ("img", "txt")},
        "single_blocks.0.linear1": 7 * width,
        "single_blocks.0.linear2": width,
        **dict.fromkeys(("img_in", "txt_in"), width),
        "final_layer.linear": 64,
        **dict.fromkeys((f"{layer}in_layer", f"{layer}out_layer", f"{approximator}in_proj"), hidden),
        f"{approximator}out_proj": width,
    }
    native = {f"{name}.weight": torch.randn(rows, 1, generator=draw) for name, rows in heights.items()}
    native |= {f"{name}.bias": torch.randn(rows, generator=draw) for name, rows in heights.items()}
    norms = ("double_blocks.0.img_attn", "double_blocks.0.txt_attn", "single_blocks.0")
    native |= {
        f"{n}.norm.{w}_norm.scale": torch.randn(128, generator=draw) for n in norms for w in ("query", "key")
    }
    native[f"{approximator}norms.0.scale"] = torch.randn(hidden, generator=draw)
    theirs = convert_chroma_transformer_checkpoint_to_diffusers(dict(native))
    assert FACTS.single_file is not None
    mine = by_key_map(FACTS.single_file.parts["transformer"], native, set(theirs))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())
