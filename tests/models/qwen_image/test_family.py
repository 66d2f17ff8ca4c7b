"""What is Qwen-Image's alone; the rest is in the contract."""

import pytest
import torch
from diffusers import QwenImagePipeline

from limner.models.family import Objective, SamplingParams
from limner.models.loading import load
from limner.models.qwen_image.family import CHAT, FAMILY, TEMPLATE_TOKENS, pipeline_kwargs
from limner.models.rectified import resolution_shift
from limner.models.source import Source, locate
from tiny import save_qwen_image

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return locate(str(save_qwen_image(tmp_path_factory.mktemp("bases") / "tiny")), folders={})


def test_text_has_its_true_length_and_no_padding(source: Source):
    parts = ("tokenizer", "text_encoder")
    models = {name: load(FAMILY, source, name, dtype=torch.float32, device=CPU) for name in parts}
    tokenize, encode = (unit.bind(text_length=512) for unit in FAMILY.units[:2])
    lengths = []
    for caption in ("a", "a longer caption", "x" * 3000):
        tokens = tokenize.run(models, {"caption": (caption,)})
        with torch.no_grad():
            seen = encode.run(models, tokens)
        assert seen["text_mask"].all() and seen["context"].shape[:2] == seen["text_mask"].shape
        assert tokens["tokens"].shape[1] <= TEMPLATE_TOKENS + 512
        lengths.append(seen["context"].shape[1])
    assert lengths[1] - lengths[0] == len("a longer caption") - 1 and lengths[2] == 512


def test_the_chat_is_the_pipeline_s(source: Source):
    pipe = QwenImagePipeline.from_pretrained(source.root)
    assert pipe.prompt_template_encode == CHAT and pipe.prompt_template_encode_start_idx == TEMPLATE_TOKENS


def test_times_follow_the_image_size_as_the_sampler_s_do(source: Source):
    shift = FAMILY.constants(source, Objective())["time_shift"]
    assert shift(4096) == pytest.approx(resolution_shift(4096, 0.5, 0.9, 256, 8192))


def test_true_guidance_of_four(source: Source):
    asked = pipeline_kwargs(Source(source.root, "bare"), SamplingParams(width=32, height=32, steps=2))
    assert asked["true_cfg_scale"] == 4.0 and asked["max_sequence_length"] == 512
