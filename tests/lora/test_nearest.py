"""The nearest adapter of each kind, beside dense linear algebra and read by LyCORIS itself."""

import pytest
import torch
from lycoris.functional.general import factorization
from lycoris.modules import get_module
from torch import Tensor

from adapter_kinds import inputs, layer
from limner.errors import BadLora, BadUsage
from limner.lora import keys
from limner.lora.adapters import Dora, Lokr, to_lora
from limner.lora.nearest import KIND_NAMES, KindRequest, dense, nearest_change
from loras import loha
from messages import raises


def request(kind: str, rank: int, **more) -> KindRequest:
    return KindRequest(kind=kind, rank=rank, **more)  # pyright: ignore


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kernel", [0, 3], ids=["linear", "3 x 3"])
@pytest.mark.parametrize("rank", [2, 99])
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_lycoris_reads_what_was_found(kind: str, rank: int, kernel: int) -> None:
    """It computes what the layer computes with our weight, which is as far from the change as is told."""
    net = layer(kernel)
    weight = net.weight.detach()  # pyright: ignore
    assert isinstance(weight, Tensor)
    delta = 0.1 * drawn(*weight.shape)
    change, error = nearest_change(delta, request(kind, rank if kind != "loha" else 4), weight)
    tensors = keys.encode(change, peft=False, norms="out")
    if kind == "dora":  # its reader expects norms along the outputs, under LyCORIS' name
        tensors["dora_scale"] = tensors.pop(keys.MAGNITUDE).view(-1, *[1] * (weight.dim() - 1))
    reader, params = get_module({f"peer.{ending}": tensor for ending, tensor in tensors.items()}, "peer")
    assert reader and params
    changed = dense(change, weight).view(weight.shape)
    assert ((changed - delta).norm() / delta.norm()).item() == pytest.approx(error, abs=1e-6)
    assert error < 0.95
    if rank == 99 and kind in ("lora", "dora"):
        assert error < 1e-5
    with torch.no_grad():
        output = reader.make_module_from_state_dict("read", net, *params)(inputs(kernel))
        net.weight.copy_(weight + changed)  # pyright: ignore
        assert torch.allclose(output, net(inputs(kernel)), atol=1e-5)


def test_a_kronecker_product_is_the_nearest_one() -> None:
    """By the whole singular values of the rearranged change; its sides are those of LyCORIS."""
    delta = drawn(24, 32).double()
    change, error = nearest_change(delta, request("lokr", 99, factor=4))
    assert isinstance(change, Lokr)
    assert [tuple(side[0].shape) for side in (change.w1, change.w2)] == [(4, 4), (6, 8)]
    assert (factorization(24, 4), factorization(32, 4)) == ((4, 6), (4, 8))
    blocks = [delta[i * 6 : i * 6 + 6, j * 8 : j * 8 + 8].flatten() for i in range(4) for j in range(4)]
    values = torch.linalg.svdvals(torch.stack(blocks))
    assert error == pytest.approx((values[1:].square().sum() / values.square().sum()).sqrt().item(), rel=1e-6)


def test_what_is_an_adapter_of_the_kind_is_found_again() -> None:
    w2 = drawn(12, 2, seed=1) @ drawn(2, 10, seed=2)
    product = torch.kron(drawn(4, 4), w2)
    change, error = nearest_change(product, request("lokr", 2, factor=4))
    assert isinstance(change, Lokr)
    assert len(change.w2) == 2
    assert error < 1e-6
    weight, scales = drawn(24, 20), 1 + 0.3 * drawn(24, 1, seed=3)
    directions = weight + 0.3 * drawn(24, 2, seed=4) @ drawn(2, 20, seed=5)
    tuned = scales * directions
    assert nearest_change(scales * weight - weight, request("dora", 1), weight)[1] < 1e-6
    losses = {kind: nearest_change(tuned - weight, request(kind, 2), weight)[1] for kind in ("lora", "dora")}
    assert losses["dora"] < 0.1 < 0.3 < losses["lora"]
    columns = nearest_change((tuned - weight).T, request("dora", 2, norms="in"), weight.T.contiguous())
    assert columns[1] == pytest.approx(losses["dora"], rel=1e-3)
    assert isinstance(columns[0], Dora)
    assert torch.allclose(columns[0].magnitude, tuned.norm(dim=1), rtol=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_loha_is_never_further_than_the_lora_it_begins_as(rank: int) -> None:
    for delta in (drawn(20, 28), to_lora(loha(20, 28, 3)).dense()):
        lora, hadamard = (nearest_change(delta, request(kind, rank))[1] for kind in ("lora", "loha"))
        assert hadamard <= lora * (1 + 1e-6)
        assert rank == 1 or hadamard < 0.95 * lora


def test_what_cannot_be_is_refused() -> None:
    for values in (
        {"kind": "oft", "rank": 2},
        {"kind": "lora", "rank": 0},
        {"kind": "loha", "rank": 2, "factor": 4},
        {"kind": "lokr", "rank": 2, "factor": 0},
    ):
        with raises(BadUsage):
            KindRequest(**values)
    with raises(BadUsage):
        nearest_change(drawn(4, 4), request("dora", 2))
    weight = drawn(4, 4)
    emptied = -weight * (torch.arange(4) == 1)[:, None]
    with raises(BadLora):
        nearest_change(emptied, request("dora", 2), weight)
