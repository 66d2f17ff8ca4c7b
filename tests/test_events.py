import dataclasses
import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from limner import events
from limner.events import KINDS, Message, ProgressMade, Sampled, StepDone, name_of, plain, to_json


@dataclass
class Inner:
    path: Path
    loss: float


def test_values_become_what_json_knows():
    value = {"a": (Inner(Path("x/y"), math.inf),), 3: math.nan, "n": None, "s": "s", "i": 1}
    assert plain(value) == {
        "a": [{"path": str(Path("x/y")), "loss": None}],
        "3": None,
        "n": None,
        "s": "s",
        "i": 1,
    }


def test_an_event_is_one_object_that_names_itself():
    event = Sampled(step=4, paths=(Path("a.png"),))
    assert to_json(event) == {"event": "sampled", "step": 4, "paths": ["a.png"]}


def test_numbers_that_json_has_no_word_for_are_null():
    event = StepDone(step=1, steps=2, loss=math.nan, norm=1.0, learning_rate=1e-4, seconds=0.1, bytes=5)
    assert to_json(event)["loss"] is None
    assert json.loads(json.dumps(to_json(event), allow_nan=False))["bytes"] == 5


def test_every_kind_of_event_has_a_name_of_its_own_and_none_is_forgotten():
    own = {
        kind
        for kind in vars(events).values()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == events.__name__
    }
    assert own == set(KINDS)
    names = [name_of(kind) for kind in KINDS]
    assert len(set(names)) == len(names)
    assert {"step_done", "plan_lowered", "message"} <= set(names)


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_what_has_happened_does_not_change(kind):
    blank = object.__new__(kind)
    field = dataclasses.fields(kind)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(blank, field, 1)


def test_a_message_is_equal_to_another_with_the_same_words():
    assert Message("a") == Message("a")
    assert ProgressMade(label="a", done=1, total=2) != ProgressMade(label="a", done=2, total=2)


def test_events_load_no_torch():
    code = "import sys, limner.events; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
