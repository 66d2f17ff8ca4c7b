import torch

from limner.errors import BadLora
from limner.lora.adapters import to_lora
from limner.lora.merging import merge
from loras import dora, factors, loha
from messages import raises


def test_the_sum_is_exact_and_the_union() -> None:
    one = {"unet": {"a": factors(rank=2), "b": factors(seed=5)}}
    two = {
        "unet": {"a": factors(rank=3, seed=1), "c": loha()},
        "text_encoder": {"encoder.layers.0.mlp.fc1": factors()},
    }
    made = merge([one, two], [0.5, -2.0])
    assert made["unet"].keys() == {"a", "b", "c"}
    assert made["unet"]["a"].rank == 5
    wanted = 0.5 * one["unet"]["a"].dense() - 2 * to_lora(two["unet"]["a"]).dense()
    assert torch.allclose(made["unet"]["a"].dense(), wanted, atol=1e-9)
    assert torch.allclose(made["unet"]["c"].dense(), -2 * to_lora(loha()).dense(), atol=1e-5)
    assert list(made["text_encoder"]) == ["text_model.encoder.layers.0.mlp.fc1"]


def test_convolutions() -> None:
    parts = [factors(kernel=3, rank=rank) for rank in (1, 2)]
    made = merge([{"unet": {"a": part}} for part in parts], [1.0, 1.0])["unet"]["a"]
    assert made.down.shape == (3, 8, 3, 3)
    assert torch.allclose(made.dense(), sum(part.dense() for part in parts))  # pyright: ignore


def test_what_cannot_be_merged_is_refused() -> None:
    with raises(BadLora):
        merge([{"unet": {"a": factors(8)}}, {"unet": {"a": factors(6)}}], [1.0, 1.0])
    with raises(BadLora):
        merge([{"unet": {"a": factors()}}], [0.0])
    with raises(BadLora):
        merge([{"unet": {"a": dora()}}], [1.0])
