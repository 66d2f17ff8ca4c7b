"""What is Qwen-Image-Edit-Plus' alone; the rest is in the contract."""

import inspect

import pytest
from diffusers import QwenImageEditPlusPipeline
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus
from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_inpaint import calculate_dimensions

from limner.models.qwen_image_edit.family import CHAT, IMAGE, TEMPLATE_TOKENS, tokenize
from limner.models.qwen_image_edit_plus.family import FAMILY
from tiny import qwen_tokenizer


def test_the_chat_is_the_pipeline_s():
    source = inspect.getsource(QwenImageEditPlusPipeline)
    assert CHAT.replace("\n", "\\n") in source
    assert f"prompt_template_encode_start_idx = {TEMPLATE_TOKENS}\n" in source
    assert f'"Picture {{}}: {IMAGE}"' in source


def test_images_of_a_text_are_counted_here_alone():
    tokenizer = qwen_tokenizer()
    counted, plain = f"Picture 1: {IMAGE}Picture 2: {IMAGE}cat", f"{IMAGE}{IMAGE}cat"
    for with_names, wanted in ((True, counted), (False, plain)):
        unit = tokenize.bind(text_length=2000, controls=2, with_names=with_names)
        tokens = unit.run({"tokenizer": tokenizer}, {"caption": ("cat",)})["tokens"]
        assert tokenizer.decode(tokens[0]) == CHAT.format(wanted)


@pytest.mark.parametrize("size", [(96, 80), (1000, 1000), (4000, 300), (77, 900), (1344, 768)])
def test_a_control_image_comes_in_the_two_sizes_of_the_pipeline(size: tuple[int, int]):
    module = pipeline_qwenimage_edit_plus
    areas = {"control": module.VAE_IMAGE_SIZE, "condition": module.CONDITION_IMAGE_SIZE}
    assert FAMILY.controls is not None
    fits = FAMILY.controls.fits(1024)
    assert list(fits) == list(areas)
    for name, area in areas.items():
        assert fits[name].fitted(*size) == calculate_dimensions(area, size[0] / size[1])[:2]
