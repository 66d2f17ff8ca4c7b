from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage
from torch import nn

from equipping import equip
from limner.errors import BadRecipe
from limner.nn.arch import ArchSpec
from limner.nn.memory import engine
from limner.nn.memory.checkpointing import Checkpoint, Tail
from limner.nn.memory.engine import can_tile, tile_vae
from messages import raises

CPU = torch.device("cpu")
ARCH = ArchSpec(blocks=("blocks.*",), tails=("blocks.*.1",))


def _model() -> Any:
    model = nn.Module()
    model.blocks = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(3))
    return model


def _forwards(model: nn.Module) -> list[Any]:
    return [vars(module).get("forward") for module in model.modules()]


def test_the_first_blocks_are_checkpointed_and_closing_leaves_no_trace() -> None:
    model = _model().requires_grad_(requires_grad=False)
    engine = equip(model, ARCH, device=CPU, checkpointed=2)
    assert [type(vars(block).get("forward")) for block in model.blocks] == [
        Checkpoint,
        Checkpoint,
        type(None),
    ]
    assert isinstance(vars(model.blocks[0][1])["forward"], Tail)
    engine.close()
    engine.close()
    assert not any(_forwards(model))


def test_a_tail_that_is_trained_is_computed_twice_as_its_gradient_reads_its_input() -> None:
    model = _model().requires_grad_()
    equip(model, ARCH, device=CPU, checkpointed=2)
    assert not any(isinstance(run, Tail) for run in _forwards(model))


def test_a_model_is_equipped_again_with_another_plan() -> None:
    model, x = _model(), torch.ones(1, 2)
    plain = model.blocks[0](x)
    for checkpointed in (0, 3, 1):
        engine = equip(model, ARCH, device=CPU, checkpointed=checkpointed, tail_skip=False)
        assert sum(isinstance(run, Checkpoint) for run in _forwards(model)) == checkpointed
        assert torch.equal(model.blocks[0](x), plain)
        engine.close()


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"checkpointed": 4}, "checkpointed is 4; this model has 3 blocks"),
        ({"streamed": [3]}, r"streamed is \[3\]; give rising numbers below 3"),
        ({"streamed": [1, 0]}, "give rising numbers"),
        ({"streamed": [0], "slots": 1}, "slots is 1; streaming needs 2"),
    ],
)
def test_a_plan_that_no_model_can_follow_is_refused(plan: dict[str, Any], said: str) -> None:
    model = _model()
    with pytest.raises(BadRecipe, match=said):
        equip(model, ARCH, device=CPU, **plan)
    assert not any(_forwards(model))


def test_a_block_that_is_all_trained_cannot_be_streamed_and_the_model_is_left_as_it_was() -> None:
    model = _model()
    with raises(BadRecipe):
        equip(model, ARCH, device=CPU, streamed=[1], checkpointed=3)
    assert not any(_forwards(model))


def test_what_was_streamed_is_where_the_next_plan_wants_it() -> None:
    model = _model()
    model.requires_grad_(requires_grad=False)
    wanted = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    engine = equip(model, ARCH, device=CPU, streamed=[0, 2])
    assert engine.swapper and [buffer.bytes > 0 for buffer in engine.swapper.buffers] == [True, True]
    engine.close()
    engine = equip(model, ARCH, device=torch.device("meta"))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert wanted.keys() == model.state_dict().keys()


TINY = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 2,
}
VAES = {
    "kl": lambda: AutoencoderKL(**TINY),
    "flux2": lambda: AutoencoderKLFlux2(**TINY),
    "qwen": lambda: AutoencoderKLQwenImage(
        base_dim=8, z_dim=2, num_res_blocks=1, latents_mean=[0.0] * 2, latents_std=[1.0] * 2
    ),
}


@pytest.mark.parametrize("kind", VAES)
@torch.no_grad()
def test_large_images_are_cut_and_small_ones_are_not(kind: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine, "TILE_SIDE", 64)
    torch.manual_seed(0)
    vae = VAES[kind]().eval()
    images = [torch.randn(1, 3, 128, 64), torch.randn(1, 3, 64, 64)]
    if kind == "qwen":
        images = [image[:, :, None] for image in images]

    def both(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        latent = vae.encode(image).latent_dist.mean
        return latent, vae.decode(latent).sample

    plain = [both(image) for image in images]
    tile_vae(vae)
    (large, large_back), (small, small_back) = (both(image) for image in images)
    assert torch.equal(small, plain[1][0]) and torch.equal(small_back, plain[1][1])
    assert large.shape == plain[0][0].shape and large_back.shape == plain[0][1].shape
    assert not torch.equal(large, plain[0][0]) and not torch.equal(large_back, plain[0][1])
    tile_vae(vae, on=False)
    again, back = both(images[0])
    assert torch.equal(again, plain[0][0]) and torch.equal(back, plain[0][1])


def test_what_has_no_tiles_is_left_alone():
    assert not can_tile(nn.Linear(1, 1))
    tile_vae(nn.Linear(1, 1))
