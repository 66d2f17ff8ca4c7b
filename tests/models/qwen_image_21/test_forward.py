"""Qwen-Image 2.1's forward pass beside diffusers' own."""

from typing import Any

import pytest
import torch
from torch import Tensor

from limner.models.loading import load, skeleton
from limner.models.qwen_image_21.family import FAMILY
from limner.models.qwen_image_21.forward import forward
from limner.models.source import Source, locate
from tiny_qwen21 import save_qwen21

CPU = torch.device("cpu")
TIMES = torch.tensor([0.25, 0.5])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return locate(str(save_qwen21(tmp_path_factory.mktemp("bases") / "tiny")), folders={})


def opened(source: Source, dtype: torch.dtype = torch.float32) -> Any:
    return load(FAMILY, source, "transformer", dtype=dtype, device=CPU)


def values(dtype: torch.dtype, grid: tuple[int, int], length: int = 5) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    image = torch.randn(2, grid[0] * grid[1], 8, generator=draw).to(dtype)
    return image, torch.randn(2, length, 16, generator=draw).to(dtype)


def stock(
    model: Any,
    image: Tensor,
    context: Tensor,
    times: Tensor,
    grid: tuple[int, int],
    mask: Tensor | None = None,
) -> Tensor:
    slots = torch.ones(len(image), image.shape[1] // 4, dtype=torch.bool)
    return model(
        hidden_states=image,
        encoder_hidden_states=context,
        timestep=times,
        img_shapes=[[(1, *grid)]] * len(image),
        img_mask=torch.cat([torch.zeros(context.shape[:2], dtype=torch.bool), slots], dim=1),
        encoder_hidden_states_mask=mask,
        return_dict=False,
    )[0]


@pytest.mark.parametrize("grid", [(2, 4), (4, 2), (6, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", [{}, {"causal_condition": False}])
def test_it_is_diffusers_own_to_the_bit(
    source: Source, grid: tuple[int, int], dtype: torch.dtype, config: dict[str, Any]
):
    model = opened(source, dtype)
    model.register_to_config(**config)
    image, context = values(dtype, grid)
    ours, theirs = image.clone().requires_grad_(), image.clone().requires_grad_()
    (seen,) = forward(model, ours, context, TIMES, None, grid[0])
    wanted = stock(model, theirs, context, TIMES, grid)
    assert torch.equal(seen, wanted)
    for pred in (seen, wanted):
        pred.float().square().sum().backward()
    assert torch.equal(ours.grad, theirs.grad)  # pyright: ignore[reportArgumentType]


def test_a_mask_that_hides_nothing_changes_nothing(source: Source):
    model = opened(source)
    image, context = values(torch.float32, (2, 4))
    mask = torch.ones(2, 5, dtype=torch.bool)
    with torch.no_grad():
        (seen,) = forward(model, image, context, TIMES, mask, 2)
        assert torch.equal(seen, stock(model, image, context, TIMES, (2, 4), mask))


def test_in_a_batch_each_image_stands_where_it_does_alone(source: Source):
    """In diffusers' batches the padding of a shorter caption moves it."""
    model = opened(source)
    image, context = values(torch.float32, (2, 4), 40)
    mask = torch.arange(40) < torch.tensor([[40], [3]])
    with torch.no_grad():
        alone = stock(model, image[1:], context[1:, :3], TIMES[1:], (2, 4))[:, 3:]
        (seen,) = forward(model, image, context, TIMES, mask, 2)
        moved = stock(model, image, context, TIMES, (2, 4), mask)
    own, theirs = ((pred[1:, 40:] - alone).abs().max().item() for pred in (seen, moved))
    assert own < 1e-5 and theirs > 50 * own


def test_a_time_is_not_rounded_to_the_precision_of_the_weights(source: Source):
    model = opened(source, torch.bfloat16)
    image, context = values(torch.bfloat16, (2, 4))
    near = [torch.tensor([time, time]) for time in (0.898, 0.9)]
    with torch.no_grad():
        ours = [forward(model, image, context, times, None, 2)[0] for times in near]
        theirs = [stock(model, image, context, times, (2, 4)) for times in near]
    assert torch.equal(*theirs) and not torch.equal(*ours)


def test_it_runs_without_weights(source: Source):
    model = skeleton(FAMILY, source, "transformer", dtype=torch.bfloat16)
    image, context = (tensor.to("meta") for tensor in values(torch.bfloat16, (2, 4)))
    (seen,) = forward(model, image, context, TIMES.to("meta"), None, 2)
    assert seen.is_meta and seen.shape == (2, 13, 8)
