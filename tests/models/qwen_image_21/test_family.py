"""What is Qwen-Image 2.1's alone; the rest is in the contract."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cases import CASES
from limner.generation.pipeline import batch_size, on_host
from limner.models.bundled import known
from limner.models.family import Objective, SamplingParams
from limner.models.qwen_image_21.family import (
    END,
    FAMILY,
    SYSTEM,
    SYSTEM_TOKENS,
    USER,
    TextProcessor,
    pipeline_kwargs,
    spaced,
)
from limner.models.rectified import resolution_shift
from limner.models.source import locate
from tiny_qwen21 import TextOnly, save_qwen21
from tinybase import Base

CASE = next(case for case in CASES if case.name == "qwen-image-2.1")
SIGMAS = [1.0, 0.9, 0.5, 0.2]
PARAMS = SamplingParams(width=64, height=32, steps=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(CASE, tmp_path_factory.mktemp("bases") / "qwen21")


def test_the_chat_is_the_pipelines(base: Base):
    assert base.pipe.prompt_template_t2i == f"{SYSTEM}{USER}{{}}{END}"
    system = base.models["processor"]([SYSTEM]).input_ids[0]
    assert len(system) == base.pipe._drop_idx < SYSTEM_TOKENS


@pytest.mark.parametrize("caption", ["", "a", "a longer caption", "x" * 3000])
def test_a_caption_ends_in_the_chats_end_however_long_it_is(base: Base, caption: str):
    tokenizer = base.models["processor"]
    tokens = FAMILY.units[0].bind(text_length=100).run({"processor": tokenizer}, {"caption": (caption,)})
    user, end = (tokenizer([part], return_tensors="pt").input_ids for part in (USER, END))
    assert torch.equal(tokens["tokens"][:, -end.shape[1] :], end)
    length = min(100, user.shape[1] + max(1, len(caption))) + end.shape[1]
    assert tokens["tokens"].shape == (1, length)


def test_a_tokenizer_answers_for_the_processor(base: Base, tmp_path: Path):
    tokenizer = base.models["processor"]
    processor, stand_in = TextOnly.of(tokenizer), TextProcessor(tokenizer)
    chat = [{"role": "system", "content": [{"type": "text", "text": "Look."}]}]
    options = {"tokenize": True, "return_dict": False}
    assert stand_in.apply_chat_template(chat, **options) == processor.apply_chat_template(chat, **options)
    lines = [f"{SYSTEM}{USER}{line}{END}" for line in ("a cat", "dog")]
    asked = {"text": lines, "padding": True, "padding_side": "left", "return_tensors": "pt"}
    seen, wanted = stand_in(**asked), processor(**asked)
    assert torch.equal(seen.input_ids, wanted.input_ids)
    assert torch.equal(seen.attention_mask, wanted.attention_mask)


def test_the_pipeline_that_generates_paints_what_the_stock_one_does(base: Base):
    options = pipeline_kwargs(base.source, replace(PARAMS, guidance=3.0))
    own, stock = (
        pipe(prompt="a cat", **options, generator=torch.Generator().manual_seed(4)).images[0]
        for pipe in (on_host(FAMILY, base.source), base.pipe)
    )
    assert own.mode == "RGBA"
    assert np.array_equal(np.asarray(own), np.asarray(stock))


def test_prompts_are_painted_one_by_one():
    assert batch_size(PARAMS, FAMILY) == 1


def test_it_is_sampled_without_guidance_unless_some_is_wished(base: Base):
    source = replace(base.source, facts={})
    assert pipeline_kwargs(source, PARAMS)["true_cfg_scale"] == 1.0
    assert not FAMILY.has_negative_pass(source, None) and FAMILY.has_negative_pass(source, 4.0)


def test_times_follow_the_image_size_as_the_samplers_do(base: Base):
    shift = FAMILY.constants(base.source, Objective())["time_shift"]
    assert shift(4096) == pytest.approx(resolution_shift(4096, 0.5, 0.9, 256, 8192))
    assert FAMILY.constants(known("qwen-image-2.1-turbo"), Objective())["time_shift"] == 1.0


def test_a_distilled_base_has_times_of_its_own(tmp_path: Path):
    turbo = known("qwen-image-2.1-turbo")
    own = turbo.index["sample_sigmas"]
    asked = pipeline_kwargs(turbo, replace(PARAMS, steps=8))
    assert asked["sigmas"] == own and len(own) == 8
    assert pipeline_kwargs(known("qwen-image-2.1"), PARAMS)["sigmas"] is None
    assert spaced(SIGMAS, 2) == [1.0, 0.5]
    assert spaced(SIGMAS, 8) == pytest.approx([1.0, 0.95, 0.9, 0.7, 0.5, 0.35, 0.2, 0.1])

    source = locate(str(save_qwen21(tmp_path / "turbo", sigmas=SIGMAS)), folders={})
    pipe = on_host(FAMILY, source)
    for steps in (4, 3):
        pipe(prompt="a cat", **pipeline_kwargs(source, replace(PARAMS, steps=steps, guidance=1.0)))
        assert len(pipe.scheduler.timesteps) == steps
        assert pipe.scheduler.sigmas.tolist() == pytest.approx([*(spaced(SIGMAS, steps) or ()), 0.0])
