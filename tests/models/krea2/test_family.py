"""What is Krea 2's alone; the rest is in the contract."""

import math
from pathlib import Path

import pytest
import torch
from diffusers import Krea2Pipeline

from limner.models.bundled import known
from limner.models.family import Objective, SamplingParams
from limner.models.krea2.family import (
    FAMILY,
    PREFIX,
    PREFIX_TOKENS,
    STATES,
    SUFFIX,
    SUFFIX_TOKENS,
    constants,
    pipeline_kwargs,
)
from limner.models.loading import kept_in_fp32, load, skeleton
from limner.models.rectified import resolution_shift
from limner.models.source import Source, locate
from tiny import save_krea2

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return locate(str(save_krea2(tmp_path_factory.mktemp("bases") / "tiny")), folders={})


def test_the_chat_is_the_pipeline_s(source: Source):
    pipe = Krea2Pipeline.from_pretrained(source.root)
    assert pipe.prompt_template_encode_prefix == PREFIX
    assert pipe.prompt_template_encode_suffix == SUFFIX
    assert pipe.prompt_template_encode_start_idx == PREFIX_TOKENS
    assert pipe.prompt_template_encode_num_suffix_tokens == SUFFIX_TOKENS


def test_the_states_read_are_the_pipeline_s_unless_the_base_says_others(source: Source):
    parts = dict.fromkeys(("scheduler", "vae", "text_encoder", "tokenizer", "transformer"))
    assert Krea2Pipeline(**parts).text_encoder_select_layers == STATES
    assert constants(known("krea2"), Objective())["states"] == STATES
    assert constants(source, Objective())["states"] == (1, 2)


@pytest.mark.parametrize("caption", ["", "a", "a longer caption", "x" * 3000])
def test_a_caption_ends_in_the_chat_s_end_however_long_it_is(source: Source, caption: str):
    tokenizer = load(FAMILY, source, "tokenizer", dtype=torch.float32, device=CPU)
    tokens = FAMILY.units[0].bind(text_length=512).run({"tokenizer": tokenizer}, {"caption": (caption,)})
    end = tokenizer([SUFFIX], return_tensors="pt").input_ids
    assert torch.equal(tokens["tokens"][:, -end.shape[1] :], end)
    longest = PREFIX_TOKENS + 512 - SUFFIX_TOKENS + end.shape[1]  # as long as the pipeline's, which pads
    whole = len(PREFIX.replace("<|im_start|>", "#").replace("<|im_end|>", "#")) + len(caption)
    assert tokens["tokens"].shape[1] == min(longest, whole + end.shape[1])


def test_times_are_shifted_by_the_size_or_as_the_distilled_sampler_does(tmp_path: Path, source: Source):
    shift = constants(source, Objective())["time_shift"]
    assert shift(4096) == pytest.approx(resolution_shift(4096, 0.5, 1.15, 256, 6400))
    turbo = locate(str(save_krea2(tmp_path / "turbo", distilled=True)), folders={})
    shift = constants(turbo, Objective())["time_shift"]
    assert shift(256) == shift(4096) == pytest.approx(math.exp(1.15))
    assert constants(turbo, Objective(time_shift=3.0))["time_shift"] == 3.0


def test_a_distilled_base_needs_no_guidance():
    params = SamplingParams(width=32, height=32, steps=2)
    guidance = {
        name: pipeline_kwargs(known(name), params)["guidance_scale"] for name in ("krea2", "krea2-turbo")
    }
    assert guidance == {"krea2": 4.5, "krea2-turbo": 0.0}


def test_norms_stay_in_fp32_where_the_rest_is_bf16_as_in_the_stock_pipeline(source: Source):
    stock = Krea2Pipeline.from_pretrained(source.root, dtype=torch.bfloat16).transformer
    models = (
        load(FAMILY, source, "transformer", dtype=torch.bfloat16, device=CPU),
        skeleton(FAMILY, source, "transformer", dtype=torch.bfloat16),
    )
    dtypes = {name: tensor.dtype for name, tensor in stock.state_dict().items()}
    assert set(dtypes.values()) == {torch.bfloat16, torch.float32}
    for model in models:
        assert {name: tensor.dtype for name, tensor in model.state_dict().items()} == dtypes
        assert {name for name in dtypes if kept_in_fp32(model, name)} == {
            name for name, dtype in dtypes.items() if dtype == torch.float32
        }


def test_in_bf16_it_computes_what_the_stock_transformer_does(source: Source):
    stock = Krea2Pipeline.from_pretrained(source.root, dtype=torch.bfloat16).transformer
    own = load(FAMILY, source, "transformer", dtype=torch.bfloat16, device=CPU)
    torch.manual_seed(0)
    values = {
        "hidden_states": torch.randn(1, 8, 64, dtype=torch.bfloat16),
        "encoder_hidden_states": torch.randn(1, 5, 2, 16, dtype=torch.bfloat16),
        "timestep": torch.tensor([0.3]),
        "position_ids": torch.zeros(13, 3),
        "return_dict": False,
    }
    with torch.no_grad():
        assert torch.equal(own(**values)[0], stock(**values)[0])
