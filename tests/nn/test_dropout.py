import pytest
import torch

from limner.errors import BrokenGraph
from limner.nn.rng import PlacedDropout
from messages import raises

ONES = torch.ones(3, 5, 400)
PLACES = [(0, 7, 0), (0, 7, 1), (0, 7, 2)]


def dropped(given: torch.Tensor, places, *, name: str = "to_q", p: float = 0.25) -> torch.Tensor:
    return PlacedDropout(p, name, list(places))(given)


def test_it_drops_the_share_that_was_asked_and_keeps_the_mean():
    out = dropped(ONES, PLACES)
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert float((out == 0).float().mean()) == pytest.approx(0.25, abs=0.02)


def test_a_mask_belongs_to_its_sample_and_its_layer():
    whole = dropped(ONES, PLACES)
    assert torch.equal(whole, dropped(ONES, PLACES)), "nothing is used up"
    assert torch.equal(whole[1:], dropped(ONES[1:], PLACES[1:]))
    assert torch.equal(whole[[2, 0]], dropped(ONES[:2], [PLACES[2], PLACES[0]]))
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole, dropped(ONES, PLACES, name="to_k"))
    assert not torch.equal(whole, dropped(ONES, [(0, 8, n) for n in range(3)]))


def test_samples_laid_out_one_after_another_are_told_apart():
    flat = dropped(ONES.reshape(15, 400), PLACES)
    assert torch.equal(flat.view(3, 5, 400), dropped(ONES, PLACES))


def test_it_leaves_the_global_generator_alone_and_is_off_outside_training():
    before = torch.get_rng_state()
    layer = PlacedDropout(0.5, "to_q", PLACES)
    layer(ONES)
    assert torch.equal(torch.get_rng_state(), before)
    assert layer.eval()(ONES) is ONES


def test_gradients_pass_where_numbers_did():
    given = ONES.clone().requires_grad_()
    out = dropped(given, PLACES)
    out.sum().backward()
    assert torch.equal(given.grad, out.detach())


def test_samples_that_cannot_be_told_apart_are_refused():
    with raises(BrokenGraph):
        dropped(ONES, PLACES[:2])
