from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limner.imports import hush
from limner.models.bundled import known
from limner.models.loading import skeleton
from limner.models.registry import family_of
from limner.nn.arch import lists
from limner.planning.alike import once
from limner.planning.tracker import Tracker


class Layer(nn.Module):
    """Gives back a new state, a value of its own that nobody needs, and what came in."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, hidden: Tensor, *, mask: Tensor) -> tuple[Tensor, list[Any]]:
        return hidden + self.down(self.up(hidden).relu()) * mask, [mask, None, hidden.mean()]


class Stack(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(count))

    def forward(self, hidden: Tensor) -> list[Tensor]:
        """Every state, as language models give them."""
        mask, states = torch.ones_like(hidden), [hidden]
        for layer in self.layers:
            hidden, (mask, *_) = layer(hidden, mask=mask)
            states.append(hidden)
        return states


def seen(model: nn.Module, step: Callable[[], Any], *, shortened: bool) -> tuple[Any, ...]:
    """Peak, work and the shapes of what came out."""
    tracker = Tracker()
    tracker.watch([*model.parameters(), *model.buffers()], "weights")
    with torch.no_grad():
        if shortened:
            with once(model, tracker), tracker:
                out = step()
        else:
            with tracker:
                out = step()
    parts = tracker.segments
    names = ("gemm", "attention", "traffic", "kernels")
    work = tuple(sum(getattr(each, name) for each in parts) for name in names)
    return tracker.peak, work, [each.shape for each in out]


@pytest.mark.parametrize("count", [4, 9])
def test_memory_and_work_are_those_of_all_layers(count: int):
    with torch.device("meta"):
        model = Stack(count)
        hidden = torch.empty(2, 10, 64)
    whole = seen(model, lambda: model(hidden), shortened=False)
    short = seen(model, lambda: model(hidden), shortened=True)
    assert whole == short and len(whole[2]) == count + 1
    assert not any("forward" in vars(layer) for layer in model.layers), "put back as it was"


def test_an_error_puts_the_layers_back():
    with torch.device("meta"):
        model = Stack(5)
    with pytest.raises(TypeError), once(model):
        model(None)
    assert not any("forward" in vars(layer) for layer in model.layers)


@pytest.mark.parametrize(
    ("base", "part", "layers"),
    [
        ("flux-dev", "text_encoder_2", "encoder.block"),
        ("sdxl", "text_encoder_2", "text_model.encoder.layers"),
        ("z-image", "text_encoder", "layers"),
    ],
)
def test_true_encoders_take_what_they_take_whole(base: str, part: str, layers: str):
    hush()
    source = known(base)
    family = family_of(source.index["_class_name"])
    model = skeleton(family, source, part, dtype=torch.bfloat16)
    assert layers in lists(model)
    tokens = torch.zeros(1, 77, dtype=torch.int64, device="meta")
    asked = {"attention_mask": {"full_attention": None}, "use_cache": False} if base == "z-image" else {}

    def step() -> list[Tensor]:
        return list(model(input_ids=tokens, output_hidden_states=True, **asked).hidden_states)

    whole, short = (seen(model, step, shortened=shortened) for shortened in (False, True))
    assert whole == short
