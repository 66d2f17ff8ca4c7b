from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    BitImageProcessor,
    Dinov2Config,
    Dinov2Model,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from layouts import hash_of_layout
from limner.errors import BadBase
from limner.hyper.vision import ENCODERS, embed, encoder_folder, load_encoder, skeleton
from messages import raises

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 16,
    "image_size": 48,
    "intermediate_size": 24,
}
MODELS = {
    "siglip2": lambda: SiglipVisionModel(SiglipVisionConfig(**TINY)),
    "dinov3": lambda: DINOv3ViTModel(DINOv3ViTConfig(**TINY, num_register_tokens=4)),
    "dinov2": lambda: Dinov2Model(
        Dinov2Config(**{k: v for k, v in TINY.items() if k != "intermediate_size"})
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_vector_is_what_the_library_pools_of_its_own_preprocessing(name, tmp_path):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    model.save_pretrained(tmp_path / name)
    loaded = load_encoder(name, str(tmp_path / name))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (1024, 1024, 3), dtype=np.uint8))
    encoder, size = ENCODERS[name], {"height": 48, "width": 48}
    if name == "siglip2":
        processor = SiglipImageProcessor(size=size, resample=2)
    else:
        options = {"image_mean": encoder.mean, "image_std": encoder.std, "do_center_crop": False}
        processor = BitImageProcessor(size=size, resample=2, **options)
    with torch.no_grad():
        wanted = model(pixel_values=processor(picture, return_tensors="pt")["pixel_values"])
    vector = embed(name, loaded, picture)
    assert vector.shape == (16,) and vector.dtype == torch.float32
    assert torch.allclose(vector, wanted.pooler_output[0], atol=2e-2)
    other = embed(name, loaded, Image.new("RGB", (300, 200), "white"))
    assert not torch.allclose(vector, other, atol=2e-2)


@pytest.mark.parametrize("name", ENCODERS)
def test_one_that_is_not_there_is_told_with_its_licence_and_the_command(name, tmp_path):
    with raises(BadBase):
        load_encoder(name)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadBase) as caught:
        load_encoder(name, str(tmp_path))
    assert "\n" not in str(caught.value)


RECOGNISED = {
    "siglip2": ("469c78b61e3e31bc9eec0d0af3d3f2f8", ""),
    "dinov3": ("5722b5c873720009de96422993b15682", "model."),
}
"""Of names and shapes in DiffSynth-Studio's copies, as it recognises them; what of our names they lack."""


@pytest.mark.parametrize("name", RECOGNISED)
def test_the_sizes_are_those_of_the_published_weights(name):
    wanted, prefix = RECOGNISED[name]
    state = skeleton(name).state_dict()
    assert (
        hash_of_layout({key.removeprefix(prefix): tuple(value.shape) for key, value in state.items()})
        == wanted
    )


@pytest.mark.parametrize("damage", ["missing", "torn"])
def test_a_damaged_copy_is_told(damage, tmp_path, monkeypatch):
    model = MODELS["dinov3"]()
    monkeypatch.setitem(ENCODERS, "dinov3", replace(ENCODERS["dinov3"], sizes=model.config.to_dict()))
    state = model.state_dict()
    folder = tmp_path / "DINOv3-7B"
    folder.mkdir()
    save_file(dict(list(state.items())[3:]), folder / "model.safetensors")
    if damage == "torn":
        (folder / "model.safetensors").write_bytes(b"torn")
    with raises(BadBase):
        load_encoder("dinov3", encoder_folder(str(tmp_path), "dinov3"))
