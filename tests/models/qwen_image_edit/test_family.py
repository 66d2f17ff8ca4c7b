"""What is Qwen-Image-Edit's alone; the rest is in the contract."""

import inspect

import pytest
from diffusers import QwenImageEditPipeline
from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_inpaint import calculate_dimensions

from limner.models.qwen_image_edit.family import CHAT, FAMILY, IMAGE, TEMPLATE_TOKENS, TEXT_LENGTH


def test_the_chat_is_the_pipeline_s():
    source = inspect.getsource(QwenImageEditPipeline)
    assert CHAT.format(IMAGE + "{}").replace("\n", "\\n") in source
    assert f"prompt_template_encode_start_idx = {TEMPLATE_TOKENS}\n" in source
    assert f"tokenizer_max_length = {TEXT_LENGTH}\n" in source


@pytest.mark.parametrize("size", [(96, 80), (1000, 1000), (4000, 300), (77, 900), (1344, 768)])
def test_a_control_image_is_as_large_as_the_pipeline_makes_it(size: tuple[int, int]):
    assert FAMILY.controls is not None
    (fit,) = FAMILY.controls.fits(1024).values()
    assert fit.fitted(*size) == calculate_dimensions(1024 * 1024, size[0] / size[1])[:2]
