import shutil

import pytest
import torch
from PIL import Image

from limner.assembly.base import family_at
from limner.errors import BadBase
from limner.hyper.states import CHAT_TOKENS, SIDES, states_of
from limner.hyper.vision import embed, load_encoder, skeleton
from limner.lora.location import locate_base
from limner.models.bundled import known
from limner.models.qwen_image_edit.vision import patches
from messages import raises
from tiny import save_qwen_image
from tiny_edit import VISION


def test_the_states_are_as_many_as_the_published_experts_read():
    """64 and 1,369 tokens of the picture, of 14 pixels and two patches a side; 7 of text behind them."""
    for expert, tokens in (("coarse", 71), ("fine", 1376)):
        image = torch.zeros(1, 3, SIDES[expert], SIDES[expert], dtype=torch.uint8)
        _, (rows, columns) = patches(image, patch=14, merge=2, frames=2)
        assert rows * columns // 4 + 7 == tokens


def test_states_want_the_weights_of_the_text_encoder_alone(tmp_path):
    base = save_qwen_image(tmp_path / "qwen", vision=VISION)
    source, image = locate_base(str(base)), Image.new("RGB", (30, 30))
    for path in (base / "transformer").glob("*.safetensors"):
        path.unlink()
    assert states_of([image], source, family_at(source), "coarse", print)
    for path in (base / "text_encoder").glob("*.safetensors"):
        path.unlink()
    with raises(BadBase):
        states_of([image], source, family_at(source), "coarse", print)
    shipped = known("qwen-image")
    with raises(BadBase):
        states_of([image], shipped, family_at(shipped), "coarse", print)


def test_as_a_look_it_is_the_mean_of_the_states_of_a_small_picture(tmp_path):
    base = save_qwen_image(tmp_path / "qwen", vision=VISION)
    source, image = locate_base(str(base)), Image.linear_gradient("L").convert("RGB")
    (states,) = states_of([image], source, family_at(source), "coarse", print)
    folder = tmp_path / "qwen2.5-vl"
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(base / part, folder, dirs_exist_ok=True)
    encoder = load_encoder("qwen2.5-vl", str(folder))
    vector = embed("qwen2.5-vl", encoder, image)
    assert vector.shape == (16,) and vector.dtype == torch.float32
    assert torch.allclose(vector, states.mean(0), atol=2e-2)  # stored in fp32 there, in bf16 here
    assert not torch.allclose(vector, embed("qwen2.5-vl", encoder, Image.new("RGB", (40, 30))), atol=2e-2)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(BadBase, match="is no qwen2.5-vl encoder that can be read"):
        load_encoder("qwen2.5-vl", str(folder))


def test_its_true_size_is_known_without_its_files():
    model = skeleton("qwen2.5-vl")
    assert model.config.hidden_size == 3584 and model.tokens.shape == (1, CHAT_TOKENS)
    assert sum(weight.numel() for weight in model.parameters()) == 7_747_169_280
    assert embed("qwen2.5-vl", model, torch.empty(1, 3, 64, 64, device="meta")).shape == (3584,)
