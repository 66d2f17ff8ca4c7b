import pytest
import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from limner.nn import text

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
LAYERS = pytest.mark.parametrize("layer", range(5))


def clip(end: int = 99, act: str = "quick_gelu") -> CLIPTextModel:
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=100, eos_token_id=end, bos_token_id=98, pad_token_id=99, hidden_act=act, **SIZES
    )
    return CLIPTextModel(config).eval()


def t5(gate: str = "gated-gelu") -> T5EncoderModel:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=4, num_heads=2, feed_forward_proj=gate,
        relative_attention_num_buckets=8, relative_attention_max_distance=16,
    )  # fmt: skip
    return T5EncoderModel(config).eval()


def clip_tokens() -> Tensor:
    tokens = torch.randint(2, 98, (3, 77), generator=torch.Generator().manual_seed(1))
    for row, end in enumerate((5, 30, 76)):
        tokens[row, end:] = 99
    return tokens


T5_TOKENS = torch.randint(0, 64, (3, 40), generator=torch.Generator().manual_seed(1))


@LAYERS
@DTYPES
@pytest.mark.parametrize("end", [99, 2])
def test_clip_cut_anywhere_is_the_whole_to_the_bit(layer: int, dtype: torch.dtype, end: int):
    model, tokens = clip(end).to(dtype), clip_tokens()
    with torch.no_grad():
        hidden = text.clip_below(model, tokens, until=layer)
        assert hidden.shape == (3, 77, 16)
        assert torch.equal(text.clip_above(model, hidden, tokens, since=layer), model(tokens).pooler_output)


@LAYERS
@DTYPES
@pytest.mark.parametrize("gate", ["gated-gelu", "relu"])
def test_t5_cut_anywhere_is_the_whole_to_the_bit(layer: int, dtype: torch.dtype, gate: str):
    model = t5(gate).to(dtype)
    with torch.no_grad():
        hidden = text.t5_below(model, T5_TOKENS, until=layer)
        assert hidden.shape == (3, 40, 16)
        whole = model(T5_TOKENS).last_hidden_state
        assert torch.equal(text.t5_above(model, hidden, T5_TOKENS, since=layer), whole)


def test_gradients_of_the_upper_layers_are_those_of_the_whole():
    for model, whole, cut in (
        (clip(), lambda m: m(clip_tokens()).pooler_output, lambda m: text.clip_above(
            m, text.clip_below(m, clip_tokens(), until=2).detach(), clip_tokens(), since=2)),
        (t5(), lambda m: m(T5_TOKENS).last_hidden_state, lambda m: text.t5_above(
            m, text.t5_below(m, T5_TOKENS, until=2).detach(), T5_TOKENS, since=2)),
    ):  # fmt: skip
        model.requires_grad_(False)
        layers = model.encoder.layers if isinstance(model, CLIPTextModel) else model.encoder.block
        weights = list(layers[3].requires_grad_(True).parameters())
        one = torch.autograd.grad(whole(model).square().sum(), weights)
        other = torch.autograd.grad(cut(model).square().sum(), weights)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_end_token_is_the_first_one_or_the_largest_id_of_old_configs():
    tokens = torch.tensor([[98, 5, 99, 99], [98, 99, 5, 99]])
    assert text.clip_ends(tokens, clip(99)).tolist() == [2, 1]
    assert text.clip_ends(torch.tensor([[98, 5, 99, 7]]), clip(2)).tolist() == [2]


def test_clip_rows_do_not_see_what_comes_after_them():
    model, tokens = clip(), clip_tokens()
    changed = tokens.clone()
    changed[:, 40:] = 7
    with torch.no_grad():
        one, other = (text.clip_below(model, each, until=4) for each in (tokens, changed))
    assert torch.equal(one[:, :40], other[:, :40]) and not torch.equal(one[:, 40:], other[:, 40:])
