import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from limner.errors import BadBase, BadData
from limner.hyper.predictor import FILE, FORMAT, VAE, Look, Predictor, PredictorConfig, pixels_of
from limner.hyper.targets import Target, fingerprint
from messages import raises

TARGETS = (Target("a.q", 8, 12), Target("b.q", 6, 5))
CONFIG = PredictorConfig(base="tiny", targets=TARGETS, rank=2, width=16, bottleneck=4, side=32)


def trained(seed: int = 0) -> Predictor:
    """As after some training: no part of it is zero."""
    torch.manual_seed(seed)
    predictor = Predictor(CONFIG)
    with torch.no_grad():
        for weight in (*predictor.up, *predictor.static_up, predictor.encoder.pair.conv2.weight):
            weight.normal_(0, 0.2)
    return predictor.eval()


def pictures(count: int, seed: int = 0) -> list[Image.Image]:
    draw = np.random.default_rng(seed)
    return [Image.fromarray(draw.integers(0, 256, (40, 48, 3), dtype=np.uint8)) for _ in range(count)]


def test_shapes_are_those_of_the_targets():
    pairs = trained().predict(pictures(3))
    shapes = {name: (tuple(down.shape), tuple(up.shape)) for name, (down, up) in pairs.items()}
    assert shapes == {"a.q": ((2, 8), (12, 2)), "b.q": ((2, 6), (5, 2))}


def test_it_begins_as_the_base():
    pairs = Predictor(CONFIG).predict(pictures(2))
    assert all(not up.any() and down.any() for down, up in pairs.values())


def test_styles_of_a_batch_do_not_touch():
    predictor = trained()
    pixels = torch.stack([pixels_of(pictures(2, seed), 32) for seed in range(3)])
    batch = predictor(pixels)
    for number in range(3):
        single = predictor(pixels[number : number + 1])
        for name, factors in batch.items():
            for side in (0, 1):
                assert torch.allclose(factors[side][number], single[name][side][0], atol=1e-5)


def test_the_order_of_the_pictures_means_nothing_and_their_choice_does():
    predictor, images = trained(), pictures(3)
    forward, backward = predictor.predict(images), predictor.predict(images[::-1])
    other = predictor.predict(pictures(3, seed=9))
    for name, (down, up) in forward.items():
        assert torch.allclose(down, backward[name][0], atol=1e-5)
        assert torch.allclose(up, backward[name][1], atol=1e-5)
        assert (up - other[name][1]).abs().max() > 1e-3


def test_the_static_part_is_what_no_picture_changes():
    predictor = trained()
    with torch.no_grad():
        for weight in (*predictor.down, *predictor.up):
            weight.zero_()
    pairs, static = predictor.predict(pictures(1)), predictor.static(2)
    for name, (down, up) in pairs.items():
        assert torch.equal(down, static[name][0][1]) and torch.equal(up, static[name][1][1])


def test_every_weight_learns_through_the_factors():
    predictor = trained()
    pairs = predictor(pixels_of(pictures(2), 32)[None])
    sum((up @ down).square().sum() for down, up in pairs.values()).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in predictor.parameters())


def test_no_picture_is_an_error():
    with raises(BadData):
        trained().predict([])


def test_pictures_that_are_alike_have_a_similarity_near_one():
    predictor, images = trained(), pictures(2)
    assert predictor.similarity(images[:1]) == 1.0
    assert predictor.similarity([images[0], images[0]]) == pytest.approx(1.0, abs=1e-4)
    assert predictor.similarity([images[0], Image.new("RGB", (40, 40), "red")]) < 0.99


def test_a_file_gives_back_the_predictor(tmp_path):
    predictor = trained()
    predictor.save(tmp_path / FILE, {"steps": 7})
    for path in (tmp_path, tmp_path / FILE):
        loaded = Predictor.load(path)
        assert loaded.config == CONFIG and loaded.record == {"steps": 7}
        assert loaded.base.name == "tiny" and loaded.base.targets == fingerprint(TARGETS)
        assert not any(weight.requires_grad for weight in loaded.parameters())
        for name, weight in loaded.state_dict().items():
            assert torch.equal(weight, predictor.state_dict()[name].bfloat16().float())


def test_damaged_and_foreign_files_are_told(tmp_path):
    path = tmp_path / FILE
    with raises(BadBase):
        Predictor.load(path)
    path.write_bytes(b"\x00" * 64)
    with raises(BadBase):
        Predictor.load(path)
    save_file({"x": torch.zeros(1)}, path)
    with raises(BadBase):
        Predictor.load(path)
    save_file({"x": torch.zeros(1)}, path, {"format": "limner-instant-9"})
    with raises(BadBase):
        Predictor.load(path)
    save_file({"transformer.x_embedder.lora_A.weight": torch.zeros(1)}, path, {"format": "pt"})
    with raises(BadBase):
        Predictor.load(path)


@pytest.mark.parametrize("change", ["config", "targets", "tensor", "record"])
def test_a_file_that_is_not_whole_is_told(tmp_path, change):
    path = tmp_path / FILE
    trained().save(path, {})
    weights = load_file(path)
    other = json.dumps({"base": "tiny", "targets": [], "width": 16, "bottleneck": 4, "rank": 2, "side": 32})
    facts = {
        "format": FORMAT,
        "config": other if change == "config" else _config(path),
        "targets": "0" * 64 if change == "targets" else fingerprint(TARGETS),
        "record": "{" if change == "record" else "{}",
    }
    if change == "tensor":
        weights.pop("inner")
    save_file(weights, path, facts)
    with raises(BadBase):
        Predictor.load(path)


def _config(path) -> str:
    from safetensors import safe_open

    with safe_open(path, "pt") as content:
        return content.metadata()["config"]


def test_pictures_of_any_kind_become_squares_on_white():
    images = [
        Image.new("L", (10, 90), 0),
        Image.new("RGBA", (64, 64), (255, 0, 0, 0)),
        Image.new("P", (7, 7)),
    ]
    pixels = pixels_of(images, 32)
    assert pixels.shape == (3, 3, 32, 32) and pixels.dtype == torch.uint8
    assert pixels[0].eq(0).all() and pixels[1].eq(255).all()


LATENTS = Look(VAE, 24, 16)


@pytest.mark.parametrize("looks", [(Look("pixels"), LATENTS), (LATENTS,)], ids=["beside a style", "alone"])
def test_details_are_a_vector_that_the_heads_read_beside_the_style(looks, tmp_path):
    """Latents change what is written, and neither the style's vector nor the likeness of pictures."""
    torch.manual_seed(0)
    predictor = Predictor(replace(CONFIG, looks=looks, detail=6))
    for weight in predictor.up:
        torch.nn.init.normal_(weight, std=0.2)
    assert predictor.inner.shape[1] == 6 + 16 * (len(looks) - 1)
    images, latents = pictures(3), torch.randn(3, 24)
    first, second = (predictor.predict(images, {VAE: look}) for look in (latents, latents.flip(1)))
    assert any(not torch.allclose(first[name][1], second[name][1], atol=1e-4) for name in first)
    backward = predictor.predict(images[::-1], {VAE: latents.flip(0)})
    assert all(torch.allclose(first[name][1], backward[name][1], atol=1e-5) for name in first)
    if len(looks) == 2:
        scores = {predictor.similarity(images, {VAE: look}) for look in (latents, latents.flip(1))}
        assert len(scores) == 1
    predictor.save(tmp_path / FILE, {})
    assert Predictor.load(tmp_path).config == predictor.config
    with raises(BadBase):
        predictor.predict(images, {VAE: torch.randn(3, 25)})


def test_without_a_vector_of_its_own_latents_are_a_look_as_any_other():
    torch.manual_seed(0)
    predictor = Predictor(replace(CONFIG, looks=(Look("pixels"), LATENTS)))
    pixels = torch.stack([pixels_of(pictures(2), 32)])
    looks = [{"pixels": pixels, VAE: torch.randn(1, 2, 24)} for _ in range(2)]
    first, second = map(predictor.styles, looks)
    assert first.shape == (1, 16) and not torch.allclose(first, second)
