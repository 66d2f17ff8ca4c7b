import pytest
import torch
from torch import nn

from limner.nn.layers.tokens import PULL, TokenTable, put, table


def made(until: int | None = None, step: int = 0) -> TokenTable:
    torch.manual_seed(0)
    base = nn.Embedding(10, 4).requires_grad_(requires_grad=False)
    return TokenTable(base, torch.randn(2, 4), 10, [(0, step, 0)], until)


def test_new_ids_read_the_vectors_and_all_others_the_table():
    tokens = made()
    out = tokens(torch.tensor([[3, 10, 11, 9]]))
    expected = [tokens.base.weight[3], *tokens.token_vectors, tokens.base.weight[9]]
    assert torch.equal(out[0], torch.stack(expected))
    out.sum().backward()
    assert torch.equal(tokens.token_vectors.grad, torch.ones(2, 4)) and tokens.base.weight.grad is None
    inside = TokenTable(tokens.base, tokens.token_vectors.detach(), 8, [])  # T5 has rows beyond its tokens
    assert torch.equal(inside(torch.tensor([8, 9])), inside.token_vectors)


def test_half_precision_is_that_of_the_table():
    tokens = made()
    tokens.base.to(torch.bfloat16)
    assert tokens(torch.tensor([10])).dtype == torch.bfloat16 and tokens.token_vectors.dtype == torch.float32


@pytest.mark.parametrize(("step", "learns"), [(2, True), (3, False)])
def test_vectors_learn_until_a_step(step: int, *, learns: bool):
    tokens = made(until=3, step=step)
    assert tokens(torch.tensor([10])).requires_grad == learns


def test_after_a_step_the_spread_goes_a_tenth_of_the_way_back():
    tokens = made()
    with torch.no_grad():
        tokens.token_vectors.mul_(5)
    before = tokens.token_vectors.detach().clone()
    tokens.settle()
    assert torch.equal(tokens.token_vectors, before)  # nothing came to them in this step
    tokens.token_vectors.grad = torch.zeros(2, 4)
    tokens.settle()
    ratio = tokens.spread / before.std()
    assert torch.allclose(tokens.token_vectors, before * ratio**PULL) and ratio < 1


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens: nn.Module = nn.Embedding(10, 4)

    def get_input_embeddings(self) -> nn.Module:
        return self.tokens

    def set_input_embeddings(self, new: nn.Module) -> None:
        self.tokens = new


def test_an_encoder_reads_through_the_table_that_was_put_into_it():
    encoder, tokens = Encoder(), made()
    assert table(encoder) is None and table(nn.Linear(2, 2)) is None
    put(encoder, tokens)
    assert table(encoder) is tokens
