import torch
from PIL import Image

from limner.assembly.base import family_at
from limner.errors import BadBase
from limner.hyper.states import SIDES, states_of
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
