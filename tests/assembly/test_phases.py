import shutil
from pathlib import Path

import pytest
from PIL import Image

from limner.assembly.phases import phase, require_pairs_alike
from limner.errors import BadData, BadRecipe
from limner.events import Done
from limner.lora import file
from limner.planning.describe import lines
from limner.planning.planner import plan
from limner.recipe.schema import Recipe
from limner.recipe.toml import dump, parse
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.runs import cache, running, train
from limner.training.interrupt import Interrupt
from messages import raises
from small import equal, losses, weights


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, str]:
    """Two folders of two images, one caption each."""
    for side, colour in (("before", (200, 60, 10)), ("after", (20, 60, 200))):
        (tmp_path / side).mkdir()
        for name in ("cat", "dog"):
            Image.new("RGB", (40, 40), colour).save(tmp_path / side / f"{name}.png")
            (tmp_path / side / f"{name}.txt").write_text(f"a {name}")
    return {"before": str(tmp_path / "before"), "after": str(tmp_path / "after")}


def test_each_phase_is_a_recipe_of_its_own(pair):
    recipe = Recipe(name="ink", pairs=[pair], sample={"every": 5}, export={"for": ["comfyui"]})
    require_pairs_alike(recipe)
    first, second = phase(recipe, "before"), phase(recipe, "after", Path("one.safetensors"))
    assert (str(first.data.images), first.name, first.sample.every) == (pair["before"], "ink-before", -1)
    assert first.train.adapter == "" and first.export.for_ == ("diffusers",) and not first.pairs
    assert (str(second.data.images), second.name, second.sample.every) == (pair["after"], "ink", 5)
    assert second.train.adapter == "one.safetensors" and second.export.for_ == ("comfyui",)


def test_several_pairs_are_sets_of_each_phase(pair):
    recipe = Recipe(pairs=[pair, {"before": "a", "after": "b", "caption": "a boat"}])
    sets = phase(recipe, "after").data.sets
    assert [(str(entry.images), entry.default_caption) for entry in sets] == [
        (pair["after"], ""),
        ("b", "a boat"),
    ]


def test_pairs_stand_in_a_recipe_file(tmp_path):
    text = '[[pairs]]\nbefore = "a"\nafter = "b"\n[[pairs]]\nbefore = "c"\nafter = "d"\ncaption = "a boat"\n'
    recipe = parse(text, tmp_path)
    assert [pair.before for pair in recipe.pairs] == [tmp_path / "a", tmp_path / "c"]
    assert parse(dump(recipe)) == recipe


@pytest.mark.parametrize(
    "sections",
    [
        {"pairs": [{"before": "a"}]},
        {"pairs": [{"before": "a", "after": "a"}]},
        {"pairs": [{"before": "a", "after": "b", "befor": "c"}]},
        {"data": {"sets": [{"images": "c"}]}},
        {"lora": {"text_encoders": ["text_encoder"]}},
        {"train": {"adapter": "one.safetensors"}},
        {"lora": {"kind": "lokr"}},
        {"train": {"method": "full"}},
        {"train": {"objective": "distill"}},
    ],
)
def test_what_does_not_fit_pairs_is_refused(sections):
    with raises(BadRecipe):
        Recipe(**{"pairs": [{"before": "a", "after": "b"}], **sections})


@pytest.mark.parametrize("fault", ["words", "shape", "partner", "folder", "difference"])
def test_pairs_that_are_none_are_named(pair, fault):
    after = Path(pair["after"])
    if fault == "words":
        (after / "dog.txt").write_text("a blue dog")
    elif fault == "shape":
        Image.new("RGB", (60, 40)).save(after / "dog.png")
    elif fault == "partner":
        (after / "dog.png").unlink()
    else:
        shutil.rmtree(after)
    if fault == "difference":
        shutil.copytree(pair["before"], after)
    with raises(BadData):
        require_pairs_alike(Recipe(pairs=[pair]))


def beginning(recipe: Recipe, out: Path, pieces: int) -> None:
    """Leave a run after so many pieces: three stages of a phase, then its steps."""
    with Interrupt() as stop:
        run = running(recipe, out, Reporter(), stop)
        for _ in range(pieces):
            next(run)
        run.close()


def test_both_phases_go_on_to_the_bit_and_the_difference_alone_comes_out(tiny_base, pair, tmp_path):
    recipe = Recipe(
        base=str(tiny_base),
        pairs=[pair],
        data={"validation_count": 0},
        lora={"rank": 2},
        train={"steps": 2, "batch": 2, "learning_rate": 1e-2, "save_every": 1},
        sample={"every": -1},
    )
    heard: list[object] = []
    done = train(recipe, tmp_path / "whole", Reporter(heard.append))
    assert [event for event in heard if isinstance(event, Done)] == [done]
    parts = tmp_path / "parts"
    assert cache(recipe, parts, Reporter()).entries and parse((parts / "recipe.toml").read_text()).pairs
    # in the first phase; between the two; in the second
    for pieces, finished in ((4, [1, 0]), (5, [2, 0]), (7, [2, 1])):
        beginning(recipe, parts, pieces)
        assert [len(RunDir(path).checkpoints()) for path in (parts / "before", parts)] == finished
    train(parse((parts / "recipe.toml").read_text()), parts, Reporter())
    for phase_path in ("before", "."):
        assert equal(weights(parts / phase_path, 2), weights(tmp_path / "whole" / phase_path, 2))
        assert losses(parts / phase_path) == losses(tmp_path / "whole" / phase_path)
    first = tmp_path / "whole" / "before" / "lora.safetensors"
    assert parse((tmp_path / "whole" / "recipe.toml").read_text()).train.adapter == str(first)
    assert done.lora is not None
    changes = [file.read(path).components["transformer"] for path in (first, done.lora)]
    assert changes[0].keys() == changes[1].keys()


def test_a_plan_counts_both_phases_before_the_first(tiny_base, pair):
    recipe = Recipe(base=str(tiny_base), pairs=[pair], lora={"rank": 2}, sample={"every": -1})
    both = plan(recipe, Reporter())
    alone = plan(phase(recipe, "before"), Reporter())
    assert both.first is not None and both.total is not None and alone.total is not None
    assert both.total.train > 1.9 * alone.total.train and both.disk["cache"] == 2 * alone.disk["cache"]
    assert "two phases of pairs" in "\n".join(lines(both))
