import torch

from limner.hyper.encoders import ResidualPair, StyleEncoder


def pictures(count: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, 32, 32), generator=draw, dtype=torch.uint8)


def test_a_residual_pair_starts_as_the_identity_but_for_a_bias():
    x, pair = torch.randn(2, 16, 4, 4), ResidualPair(16)
    assert torch.allclose(pair(x), x + pair.conv2.bias[:, None, None])


def test_pictures_are_read_one_by_one():
    torch.manual_seed(0)
    encoder, images = StyleEncoder(24), pictures(3)
    together = encoder(images)
    assert together.shape == (3, 24)
    assert torch.allclose(together[1:2], encoder(images[1:2]), atol=1e-5)


def test_the_palette_counts_where_the_network_is_blind():
    torch.manual_seed(0)
    encoder = StyleEncoder(24)
    torch.nn.init.zeros_(encoder.pool.weight)
    red, green = torch.zeros(2, 1, 3, 32, 32, dtype=torch.uint8).unbind()
    red[:, 0], green[:, 1] = 200, 200
    assert (encoder(red) - encoder(green)).abs().max() > 0.05


def test_every_weight_learns():
    encoder = StyleEncoder(24)
    encoder(pictures(4)).square().sum().backward()
    assert all(weight.grad is not None for weight in encoder.parameters())
