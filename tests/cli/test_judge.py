import json
from pathlib import Path

import pytest

from limner.judging.advice import Recommendation
from limner.judging.bootstrap import Interval
from limner.judging.judge import JudgeReport
from limner.judging.request import JudgeOptions


@pytest.fixture
def asked(verb):
    """What reached ``limner.judging.judge.judge`` and ``choose``."""
    calls = []
    figure = Interval(0.5, 0.4, 0.6)

    def judge(target, options, reporter):
        calls.append((target, options))
        return JudgeReport(
            run=target,
            encoder="x",
            cells=[
                {"step": step, "strength": float(bool(step)), "likeness": figure, "score": figure}
                for step in (0, 20)
            ],
            ceiling=0.7,
            recommendation=Recommendation(
                step=20, strength=1.0, reason="Step 20.", ties=((20, 1.0),), best=(20, 1.0)
            ),
            images=2,
            new_images=2,
            sheet=target / "judge/sheet.jpg",
            file=target / "judge.json",
            seconds=1.0,
        )

    def choose(target, step, strength, reporter):
        calls.append((target, step, strength))
        return [target / "lora.safetensors"]

    verb("judging.judge", judge=judge)
    verb("judging.choose", choose=choose, BY_JUDGE="recommended")
    return calls


def test_judge_shows_a_table_and_what_to_take(limner, asked):
    done = limner("judge", "runs/cat")
    assert asked == [(Path("runs/cat"), JudgeOptions())]
    assert done.out.splitlines()[:3] == [
        "  step strength  likeness              score",
        "  base        0  0.50 (0.40 to 0.60)   0.50 (0.40 to 0.60)",
        "    20        1  0.50 (0.40 to 0.60)   0.50 (0.40 to 0.60)",
    ]
    assert done.out.endswith("Step 20.\nMake it the run's LoRA: limner judge runs/cat --choose recommended\n")


def test_judge_hands_its_options_on(limner, asked):
    done = limner(
        *("judge", "runs/cat", "--steps", "20,best", "--strengths", "1", "--prompt", "a", "--prompt", "b"),
        *("--leak-prompt", "c", "--seeds", "7,8", "--size", "64x32", "--encoder", "some/clip", "--json"),
    )
    ((_, options),) = asked
    assert options == JudgeOptions(
        steps=(20, "best"),
        strengths=(1.0,),
        prompts=("a", "b"),
        leak_prompts=("c",),
        seeds=(7, 8),
        size=(64, 32),
        encoders=("some/clip",),
    )
    value = json.loads(done.out)
    assert value["recommendation"]["step"] == 20 and value["cells"][1]["score"]["low"] == 0.4


def test_choose_makes_a_step_the_lora(limner, asked):
    assert limner("judge", "r", "--choose", "20", "--strength", "0.8").out == "r/lora.safetensors\n"
    answer = limner("judge", "r", "--choose", "20", "--json").out
    assert json.loads(answer) == {"loras": ["r/lora.safetensors"]}  # on stdout, where programs read it
    limner("judge", "r", "--choose", "recommended")
    assert asked == [(Path("r"), 20, 0.8), (Path("r"), 20, None), (Path("r"), "recommended", None)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--strength", "0.8"), "--strength is 0.8, which is for --choose STEP"),
        (("--size", "big"), "--size is 'big'; write pixels"),
        (("--seeds", "many"), "--seeds is 'many'"),
        (("--seeds", "0"), "--seeds is 0"),
        (("--choose", "first"), "'first'"),
    ],
)
def test_bad_use_is_one_line(limner, asked, arguments, words):
    done = limner("judge", "r", *arguments)
    assert done.status == 2 and words in done.err and len(done.err.splitlines()) == 1
