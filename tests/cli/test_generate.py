import json
from pathlib import Path

import pytest
import typer

from limner.generation.settings import GenerationRequest, Settings
from limner.recipe import Data, Recipe, Sample
from limner.recipe.prompt_file import PromptLine
from limner.recipe.toml import dump


@pytest.fixture
def painted(verb):
    """The requests that reached ``limner.generation.generate``."""
    requests = []

    def generate(request, reporter):
        requests.append(request)
        return [request.out / "0.png", request.out / "grid-0.png"][: 1 + request.is_grid]

    verb("generation.generate", generate=generate)
    return requests


def test_generate_paints_the_prompts_of_a_run(limner, painted, photos):
    run = Path("runs/photos")
    (run / "checkpoints").mkdir(parents=True)
    recipe = Recipe(data=Data(images=photos, trigger="sks"), sample=Sample(prompts=("a [trigger] hat",)))
    (run / "recipe.toml").write_text(dump(recipe))
    assert limner("generate", run).out == "runs/photos/pictures/0.png\n"
    limner(
        "generate", run, "--prompt", "[trigger] asleep", "--prompt", "b", "--seed", "3", "--lora-scale", "0.5"
    )
    limner("generate", "photos")
    first, second, third = painted
    pictures = {"targets": (run,), "out": run / "pictures"}
    assert first == GenerationRequest(prompts=(PromptLine("a sks hat"),), **pictures)
    assert second == GenerationRequest(
        prompts=(PromptLine("sks asleep"), PromptLine("b")),
        settings=Settings(seed=3, lora_scale=0.5),
        **pictures,
    )
    assert third.targets == (run,)


def test_generate_takes_a_lora_file(limner, painted):
    done = limner("generate", "a/cat.safetensors", "--prompt", "x", "--base", "glyph", "--out", "o", "--json")
    assert json.loads(done.out) == {"images": ["o/0.png"]}
    assert painted == [
        GenerationRequest(
            targets=(Path("a/cat.safetensors"),), prompts=(PromptLine("x"),), out=Path("o"), base="glyph"
        )
    ]


def test_generate_takes_a_prompt_file_loras_and_axes_of_a_grid(limner, painted):
    Path("p.txt").write_text("# mine\na fox --n blurry --w 32\n")
    done = limner(
        *(
            "generate",
            "cat.safetensors",
            "--prompt",
            "x",
            "--prompt-file",
            "p.txt",
            "--negative-prompt",
            "dull",
        ),
        *("--lora", "ink.safetensors:0.5", "--lora", "runs/hat", "--lora-scale", "0,1", "--seed", "1,2"),
    )
    assert done.out == "cat-pictures/0.png\ncat-pictures/grid-0.png\n"
    (request,) = painted
    assert request.prompts == (PromptLine("x"), PromptLine("a fox", "blurry", width=32))
    assert request.loras == {Path("ink.safetensors"): 0.5, Path("runs/hat"): 1.0}
    assert request.settings == Settings(negative_prompt="dull", seed=[1, 2], lora_scale=[0.0, 1.0])


def test_generate_takes_a_hub_id(limner, painted, monkeypatch):
    monkeypatch.setattr("limner.results.local", lambda name: Path("cached") / "weights.safetensors")
    assert limner("generate", "ada/cat", "--prompt", "x").out == "cat-pictures/0.png\n"
    assert painted[0].targets == (Path("cached/weights.safetensors"),)


@pytest.mark.parametrize("option", ["--seed", "--lora-scale"])
@pytest.mark.parametrize("value", ["", "one", "1,", "1;2"])
def test_numbers_that_are_none_are_told(limner, painted, option, value):
    done = limner("generate", "cat.safetensors", "--prompt", "x", option, value)
    assert done.status == 2
    name = "--strength" if option == "--lora-scale" else option  # which is another word for it
    assert f"{name} is {value!r}; write a number, several with commas between them, or a range" in done.err


def test_open_shows_the_grid_or_the_first_image_or_says_that_it_cannot(limner, painted, monkeypatch):
    shown, codes = [], iter((0, 0, 1))
    monkeypatch.setattr(typer, "launch", lambda path: shown.append(path) or next(codes))
    generate = ("generate", "cat.safetensors", "--prompt", "x", "--open")
    assert limner(*generate).err == ""
    assert limner(*generate, "--seed", "1,2").err == ""
    failed = limner(*generate)
    assert (failed.status, failed.out) == (0, "cat-pictures/0.png\n")
    assert "Nothing on this machine opens images. Open cat-pictures/0.png yourself." in failed.err
    assert shown == [f"cat-pictures/{name}" for name in ("0.png", "grid-0.png", "0.png")]


def test_generate_says_when_there_is_nothing_to_paint(limner, painted, photos):
    done = limner("generate", "photos")
    assert done.status == 2
    assert "runs/photos holds no run. Train it first: limner train photos" in done.err
    Path("runs/photos").mkdir(parents=True)
    Path("runs/photos/recipe.toml").write_text(dump(Recipe(data=Data(images=photos))))
    done = limner("generate", "photos")
    assert done.status == 2
    assert "neither prompts nor a trigger" in done.err
