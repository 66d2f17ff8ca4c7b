import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from limner.errors import BadCheckpoint
from limner.nn.optim import evaluation_mode, optimizer, schedule, training_mode
from limner.nn.serialize import pack, restore, unpack
from limner.recipe.optimizers import OPTIMIZERS
from messages import raises

BF16 = torch.bfloat16


def through_a_file(value: Any, folder: Path) -> Any:
    tensors, skeleton = pack(value)
    save_file(tensors, folder / "x.safetensors")
    return unpack(load_file(folder / "x.safetensors"), json.loads(json.dumps(skeleton, allow_nan=False)))


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return math.isnan(b)
    return type(a) is type(b) and a == b


def test_every_kind_of_value_survives(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    value = {
        "numbers": [0, -1, 2**70, 0.1, 1e-320, math.inf, -math.inf, math.nan, True, False, None, -0.0],
        7: (1, (2.0,), []),
        (1, "a"): {},
        "a": {"b": torch.zeros(2)},
        "a.b": torch.ones(3, dtype=BF16),
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "empty": torch.zeros(0, 4),
        "bool": torch.tensor([True, False]),
        "bytes": torch.arange(256, dtype=torch.uint8),
        "half of it": shared[:3],
        "turned": shared.view(2, 3).T,
        "same": [shared, shared],
        "words": "ü\n\"'",
    }
    assert same(through_a_file(value, tmp_path), value)


def test_a_tensor_met_twice_is_stored_once() -> None:
    weight = torch.ones(3)
    tensors, skeleton = pack([weight, weight])
    assert list(tensors) == ["value.0"]
    first, second = unpack(tensors, skeleton)
    assert first is second


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
keys = st.text() | st.integers() | st.booleans()


@given(st.recursive(plain, lambda part: st.lists(part) | st.dictionaries(keys, part) | st.tuples(part, part)))
def test_any_nesting_of_plain_values_survives(value: Any) -> None:
    tensors, skeleton = pack(value)
    assert same(unpack(tensors, json.loads(json.dumps(skeleton, allow_nan=False))), value)


def test_what_needs_pickle_is_refused() -> None:
    with pytest.raises(TypeError, match=r"value\.hook is a function"):
        pack({"hook": lambda: None})


@pytest.mark.parametrize(
    ("skeleton", "reason"),
    [
        ({"tensor": "gone"}, "lacks the tensor 'gone'"),
        ({"tensor": 3}, "means nothing"),
        ({"float": "1.0"}, "means nothing"),
        ({"float": "inf", "more": 1}, "means nothing"),
        ({"tuple": {}}, "means nothing"),
        ({"dict": [[1]]}, "the entry"),
        ({"dict": [[[1], 2]]}, "the entry"),
        ({"dict": [[{"tuple": [[1]]}, 2]]}, "the key"),
        ({"call": "os.system"}, "means nothing"),
        (json.loads("[" * 200 + "]" * 200), "nested deeper"),
    ],
)
def test_a_foreign_skeleton_is_refused(skeleton: Any, reason: str) -> None:
    with pytest.raises(BadCheckpoint, match=reason):
        unpack({}, skeleton)


def weights(dtype: torch.dtype) -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    shapes = [(96, 64), (7,), (64, 96), (5, 3, 3, 3)]
    made = [nn.Parameter(torch.randn(shape, generator=draw).to(dtype)) for shape in shapes]
    made[2].data.zero_()  # as LoRA's `up` starts
    return made


def made_for(name: str, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    rate = 1.0 if name == "prodigy" else 1e-2
    groups = [{"params": parameters[:2], "lr": rate}, {"params": parameters[2:], "lr": rate}]
    return optimizer(name, groups, weight_decay=0.02, warmup=3)


def trained(name: str, dtype: torch.dtype, folder: Path, stops: tuple[int, ...]) -> list[nn.Parameter]:
    """Weights after 10 steps, the run being saved and taken up anew before each step in ``stops``."""
    parameters = weights(dtype)
    using, rate = made_for(name, parameters), schedule("constant", 3, 10)
    for step in range(10):
        if step in stops:
            kept = through_a_file([using.state_dict(), [p.detach() for p in parameters]], folder)
            parameters = [nn.Parameter(p) for p in kept[1]]
            using = made_for(name, parameters)
            restore(using, kept[0])
        draw = torch.Generator().manual_seed(100 + step)
        for group in using.param_groups:
            group["lr"] = group["initial_lr"] * rate(step)
        for parameter in parameters:
            noise = torch.randn(parameter.shape, generator=draw)
            parameter.grad = (0.1 * noise + parameter.detach().float() - 1).to(dtype)
        using.step()
    evaluation_mode(using)
    return parameters


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # bitsandbytes, on import
@pytest.mark.parametrize("dtype", [torch.float32, BF16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_five_steps_a_file_and_five_more_are_ten(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    if OPTIMIZERS[name].probed:
        pytest.importorskip("bitsandbytes")
    if name.startswith("paged") and not torch.cuda.is_available():
        pytest.skip("pages want CUDA")
    whole = trained(name, dtype, tmp_path, ())
    resumed = trained(name, dtype, tmp_path, (0, 5))
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
    assert all(not torch.equal(a, b) for a, b in zip(whole, weights(dtype), strict=True))


def test_schedulefree_saved_while_evaluating_goes_on_to_the_bit(tmp_path: Path) -> None:
    parameters, twin = weights(torch.float32), weights(torch.float32)
    using, other = made_for("schedulefree", parameters), made_for("schedulefree", twin)
    for step in range(4):
        if step == 2:
            evaluation_mode(other)
            kept = through_a_file([other.state_dict(), [p.detach() for p in twin]], tmp_path)
            twin = [nn.Parameter(p) for p in kept[1]]
            other = made_for("schedulefree", twin)
            restore(other, kept[0])
            training_mode(other)
        for parameter in parameters + twin:
            parameter.grad = torch.full_like(parameter, 0.1 + step)
        using.step()
        other.step()
    assert all(torch.equal(a, b) for a, b in zip(parameters, twin, strict=True))


def test_the_state_of_other_parameters_is_refused() -> None:
    state = made_for("adamw", weights(torch.float32)).state_dict()
    fewer = optimizer("adamw", [{"params": weights(torch.float32), "lr": 1e-3}])
    with raises(BadCheckpoint):
        restore(fewer, state)
    with raises(BadCheckpoint):
        restore(fewer, {"state": {}})
