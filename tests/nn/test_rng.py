import pytest
import torch

from limner.nn.rng import DeviceRng, Even, KeyedRng, seed_of

PLACES = [(7, 3, position) for position in range(6)]


def test_seeds_are_positive_distinct_and_lasting():
    seeds = {seed_of(*place, name) for place in PLACES for name in ("latent", "noise")}
    assert len(seeds) == 12 and all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(1, 23) != seed_of(12, 3)
    assert seed_of(0, 1, "noise") == 8232369115178498868


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_may_be_split_at_will(dtype):
    like = torch.zeros(6, 4, 5, dtype=dtype)
    whole = KeyedRng(PLACES)
    for size in (1, 2, 3, 5):
        parts = [slice(at, at + size) for at in range(0, 6, size)]
        normal = torch.cat([KeyedRng(PLACES[part]).normal("noise", like[part]) for part in parts])
        uniform = torch.cat([KeyedRng(PLACES[part]).uniform("time", like[part]) for part in parts])
        assert torch.equal(normal, whole.normal("noise", like)) and normal.dtype == dtype
        assert torch.equal(uniform, whole.uniform("time", like)) and uniform.dtype == torch.float32


def test_draws_are_named_and_do_not_depend_on_what_else_was_drawn():
    like, one, other = torch.zeros(6, 8), KeyedRng(PLACES), KeyedRng(PLACES)
    one.uniform("time", like)
    torch.manual_seed(5)
    noise = one.normal("noise", like)
    torch.manual_seed(6)
    assert torch.equal(noise, other.normal("noise", like))
    assert not torch.equal(noise, other.normal("latent", like))


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    KeyedRng(PLACES).normal("noise", torch.zeros(6, 8))
    assert torch.equal(before, torch.get_rng_state())


def test_the_numbers_have_the_distributions_that_they_say():
    many = KeyedRng([(0, step) for step in range(4000)])
    normal, uniform = many.normal("x", torch.zeros(4000, 16)), many.uniform("t", torch.zeros(4000, 1))
    assert abs(normal.mean()) < 0.02 and abs(normal.std() - 1) < 0.02
    assert uniform.shape == (4000,) and uniform.min() > 0 and uniform.max() < 1
    assert torch.allclose(uniform.sort().values, torch.linspace(0, 1, 4000), atol=0.04)


def test_an_even_draw_has_its_times_fixed_and_its_noise_not():
    quantiles = (0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
    like, draw = torch.zeros(6, 8), Even(PLACES, quantiles)
    assert torch.equal(draw.uniform("time", like), torch.tensor(quantiles))
    assert torch.equal(draw.normal("noise", like), KeyedRng(PLACES).normal("noise", like))


def test_device_draws_follow_their_generator():
    like = torch.zeros(6, 8, dtype=torch.bfloat16)
    one, other = (DeviceRng(torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one.normal("noise", like), other.normal("latent", like))
    assert one.normal("noise", like).dtype == torch.bfloat16
    times = one.uniform("time", like)
    assert times.shape == (6,) and times.min() > 0 and times.max() < 1
