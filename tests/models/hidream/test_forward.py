"""HiDream-I1's mixture of experts and its patches beside diffusers' own."""

from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_hidream_image import MOEFeedForwardSwiGLU
from torch import Tensor

from cases import CASES
from limner.models.hidream.forward import feed_forward, patchify, prepare
from limner.models.loading import skeleton
from limner.nn.layers import lora
from references import flow_loss
from references_hidream import hidream_pred
from tinybase import PLACES, Base

CASE = next(case for case in CASES if case.name == "hidream")
WIDTH = 32


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(CASE, tmp_path_factory.mktemp("bases") / "hidream")


def experts(dtype: torch.dtype = torch.float32, *, learns: bool = True) -> MOEFeedForwardSwiGLU:
    torch.manual_seed(0)
    return MOEFeedForwardSwiGLU(WIDTH, 2 * WIDTH, 4, 2).to(dtype).train(learns)


def tokens(dtype: torch.dtype = torch.float32, count: int = 50) -> Tensor:
    return torch.randn(2, count, WIDTH, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_diffusers_way_of_training_to_the_bit(dtype: torch.dtype):
    feed = experts(dtype)
    ours, theirs = (tokens(dtype).requires_grad_() for _ in range(2))
    seen, wanted = feed_forward(feed, ours), feed(theirs)
    assert torch.equal(seen, wanted)
    gradients = [
        torch.autograd.grad(out.float().square().sum(), [x, *feed.parameters()])
        for out, x in ((seen, ours), (wanted, theirs))
    ]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_without_a_gradient_it_is_what_pictures_are_made_with(dtype: torch.dtype):
    feed, x = experts(dtype, learns=False), tokens(dtype)
    assert torch.equal(feed_forward(feed, x), feed(x))


def test_an_expert_that_no_token_chose_is_no_fault():
    feed, x = experts(), tokens(count=3).requires_grad_()
    with torch.no_grad():
        feed.gate.weight.copy_(torch.tensor([[9.0], [8.0], [-8.0], [-9.0]]).expand(4, WIDTH))
        x.abs_()
    out = feed_forward(feed, x)
    assert torch.equal(out, feed(x))
    out.sum().backward()
    idle = feed.experts[3].w1.weight.grad  # pyright: ignore[reportAttributeAccessIssue]
    assert idle is not None and not idle.any()


def test_without_weights_every_expert_gets_as_many_tokens():
    with torch.device("meta"):
        feed, x = MOEFeedForwardSwiGLU(WIDTH, 2 * WIDTH, 4, 2), torch.empty(1, 7, WIDTH)
    rows: list[int] = []
    for expert in feed.experts:
        expert.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    assert feed_forward(feed, x).shape == x.shape and rows == [4, 4, 3, 3]


@pytest.mark.parametrize("size", [(8, 8), (4, 8), (8, 4), (2, 12)])
def test_patches_are_diffusers_own(base: Base, size: tuple[int, int]):
    model: Any = base.load("transformer")
    latent = torch.randn(2, 4, *size)
    seen, mask, sizes, places = patchify(model, latent)
    wanted, wanted_mask, wanted_sizes, wanted_places = type(model).patchify(model, latent)
    assert torch.equal(seen, wanted) and torch.equal(places, wanted_places)
    assert sizes == [tuple(row) for row in wanted_sizes.tolist()]
    whole = wanted_mask is None or bool(wanted_mask.all())
    assert whole if mask is None else torch.equal(mask, wanted_mask)
    assert torch.equal(model.unpatchify(seen, sizes, is_training=False), latent)


def test_an_image_beyond_the_largest_square_is_not_padded(base: Base):
    model: Any = base.load("transformer")
    seen, mask, _, _ = patchify(model, torch.zeros(1, 4, 8, 12))
    assert seen.shape == (1, 24, 16) and mask is None
    with pytest.raises(RuntimeError, match="expanded size"):
        type(model).patchify(model, torch.zeros(1, 4, 8, 12))


def test_the_gradient_is_the_losss_own_and_the_examples_leaves_the_experts_out(base: Base):
    """Along a random way: by differences of the loss, by us, and as diffusers' example computes it."""
    denoiser = base.moved().double()
    values = {name: value.double() for name, value in base.batch(0, 1).items()}
    seen = base.live(denoiser, values, PLACES)
    factors = lora.trained(denoiser)
    draw = torch.Generator().manual_seed(3)
    way = [torch.randn(factor.shape, generator=draw, dtype=torch.float64) for factor in factors]

    def along(loss: Tensor) -> float:
        gradients = torch.autograd.grad(loss, factors, allow_unused=True)
        return sum(float((g * w).sum()) for g, w in zip(gradients, way, strict=True) if g is not None)

    def loss() -> float:
        with torch.no_grad():
            error = base.live(denoiser, values, PLACES)["pred"] - (fixed["noise"] - fixed["latent"])
        return float(error.double().square().mean())

    def moved(step: float) -> None:
        with torch.no_grad():
            for factor, w in zip(factors, way, strict=True):
                factor += step * w

    ours = along(seen["loss"].mean())
    fixed = {name: seen[name].detach() for name in ("latent", "noise", "time")} | values
    example = flow_loss(None, hidream_pred(None, denoiser, fixed, learns=False), fixed)
    assert torch.allclose(example, seen["loss"].mean(), rtol=1e-6)
    theirs, step = along(example), 1e-4
    moved(step)
    above = loss()
    moved(-2 * step)
    true = (above - loss()) / (2 * step)
    assert ours == pytest.approx(true, rel=2e-3)
    assert theirs != pytest.approx(true, rel=0.1)


def test_a_model_is_prepared_once(base: Base):
    model: Any = base.load("transformer")
    prepare(model)
    before = vars(model)["patchify"]
    prepare(model)
    assert vars(model)["patchify"] is before


def test_it_runs_without_weights(base: Base):
    model: Any = skeleton(base.family, base.source, "transformer", dtype=torch.float32)
    values = {name: value.to("meta") for name, value in base.batch(0).items()}
    seen = base.live(model, values, PLACES[:1])
    assert seen["pred"].is_meta and seen["pred"].shape == seen["latent"].shape
