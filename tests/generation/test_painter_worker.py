import json
from pathlib import Path

import pytest
import torch

from limner.errors import BadUsage
from limner.generation.painter_worker import Worker, request_from
from limner.generation.settings import GenerationRequest, Settings
from limner.recipe.prompt_file import PromptLine
from messages import raises

PLAIN = {"base": "glyph", "prompt": "a cat", "out": "o"}


def test_a_line_becomes_a_request():
    loras = [{"path": "a.safetensors", "strength": 0.5}, {"path": "b.safetensors"}]
    keys = {"negative": "dull", "seed": 3, "steps": 4, "guidance": 2, "width": 64, "height": 32, "count": 2}
    assert request_from({**PLAIN, **keys, "id": 1, "loras": loras}) == GenerationRequest(
        targets=(Path("a.safetensors"),),
        prompts=(PromptLine("a cat"),),
        out=Path("o"),
        base="glyph",
        loras={Path("b.safetensors"): 1.0},
        settings=Settings(
            negative_prompt="dull",
            seed=3,
            steps=4,
            guidance=2,
            width=64,
            height=32,
            images_per_prompt=2,
            lora_scale=0.5,
        ),
    )
    run = request_from({"run": "runs/cat", "strength": 0.8, "prompt": "x", "out": "o", "base": None})
    assert run.targets == (Path("runs/cat"),) and run.settings.strengths == (0.8,) and run.base is None
    assert request_from(PLAIN).targets == ()


@pytest.mark.parametrize(
    "values",
    [
        {**PLAIN, "prompts": "x"},
        {**PLAIN, "steps": "many"},
        {**PLAIN, "seed": True},
        {**PLAIN, "out": None},
        {"prompt": "x", "out": "o"},
        {**PLAIN, "loras": ["a.safetensors"]},
        {**PLAIN, "loras": [{"path": "a", "strength": "full"}]},
        {**PLAIN, "steps": 0},
    ],
    ids=["key", "type", "bool", "missing", "base", "loras", "strength", "zero"],
)
def test_what_a_request_cannot_be_is_told(values):
    with raises(BadUsage):
        request_from(values)


def served(*lines: str) -> tuple[list[dict], list[bool]]:
    answers: list[dict] = []
    worker = Worker(lambda values: answers.append(dict(values)))
    return answers, [worker.serve(line) for line in lines]


def test_a_worker_answers_every_line_and_goes_on_until_it_shall_quit():
    lines = ["{", "[1]", json.dumps({"id": 7, "kind": "dance"}), json.dumps({"id": 8, "kind": "release"})]
    answers, more = served(*lines, json.dumps({"kind": "quit"}))
    assert more == [True] * 4 + [False]
    assert [(a["id"], a["kind"]) for a in answers] == [
        (None, "error"),
        (None, "error"),
        (7, "error"),
        (8, "released"),
    ]
    assert answers[3]["was_loaded"] is False and "must be generate, release or quit" in answers[2]["message"]


def test_memory_that_runs_out_is_an_answer(monkeypatch):
    def sampler(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("limner.generation.painter_worker.ImageSampler", sampler)
    answers, _ = served(json.dumps(PLAIN))
    assert answers[-1]["error"] == "DoesNotFit" and "no memory left" in answers[-1]["message"]
