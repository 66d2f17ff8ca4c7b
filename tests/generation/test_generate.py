import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from limner.errors import BadBase, BadLora, BadRecipe, BadUsage
from limner.generation.settings import Settings
from limner.lora import file
from limner.lora.factors import Factors
from limner.recipe import toml
from limner.recipe.prompt_file import PromptLine
from limner.runs import train
from messages import raises
from small import Told, generated, wish

QUICK = Settings(steps=2, images_per_prompt=2, seed=3)


@pytest.fixture(scope="module")
def trained(tiny_base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    photos = folder / "photos"
    photos.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.png")
    recipe = wish(
        tiny_base,
        photos,
        data={"trigger": "zorb", "cache": str(folder / "cache")},
        train={"learning_rate": 1.0},
    )
    train(recipe, folder / "run", Told())
    return folder / "run"


def look(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).copy()


def paint(target: Path, out: Path, *prompts: str, told: Told | None = None, **more: Any) -> list[Path]:
    return generated(target, out, *(prompts or ("zorb: a, B!",)), told=told, **{"settings": QUICK, **more})


def made_from(path: Path) -> dict[str, Any]:
    """What the metadata of a picture say."""
    with Image.open(path) as image:
        return json.loads(image.text["limner"])  # pyright: ignore[reportAttributeAccessIssue]


def test_a_run_is_painted_with(trained, tmp_path):
    told = Told()
    written = paint(trained, tmp_path / "new" / "folder", "zorb", "...", told=told)
    assert [path.name for path in written] == [
        f"{prompt}-step4-strength1-seed{seed}.png" for prompt in ("zorb", "blank") for seed in (3, 4)
    ]
    assert told.counts["Generating"] == [4, 4]
    assert look(written[0]).shape == (32, 32, 3) and not np.array_equal(look(written[0]), look(written[1]))
    again = paint(trained, tmp_path / "again", "zorb")
    assert np.array_equal(look(again[0]), look(written[0]))


def test_a_file_in_the_place_of_the_folder_is_told_before_anything_is_painted(trained, tmp_path):
    (tmp_path / "out").write_text("mine")
    with raises(BadUsage):
        paint(trained, tmp_path / "out")


def test_a_picture_is_whole_or_not_there(trained, tmp_path, monkeypatch):
    """Whatever ends it while it is written, a signal included; the one that was there stays."""
    (old,) = paint(trained, tmp_path, settings=Settings(steps=1))
    before, true = old.read_bytes(), Image.Image.save

    def save(image, file, **more):
        true(image, file, **more)
        Path(file).write_bytes(Path(file).read_bytes()[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", save)
    for seed in (0, 1):
        with pytest.raises(KeyboardInterrupt):
            paint(trained, tmp_path, settings=Settings(steps=1, seed=seed))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_no_picture_takes_the_place_of_another(trained, tmp_path):
    """Names tell apart what people compare; what they do not tell apart gets a number."""
    one = Settings(steps=1)
    first, second, other = (
        paint(trained, tmp_path, settings=settings)[0] for settings in (one, Settings(steps=2), one)
    )
    assert [path.name for path in (first, second, other)] == [
        "zorb-a-b-step4-strength1-seed0.png",
        "zorb-a-b-step4-strength1-seed0-2.png",
        "zorb-a-b-step4-strength1-seed0-3.png",
    ]
    assert np.array_equal(look(first), look(other)) and not np.array_equal(look(first), look(second))
    assert [made_from(path)["steps"] for path in (first, second)] == [1, 2]


def test_strengths_seeds_and_prompts_are_laid_out_as_grids(trained, tmp_path):
    settings = Settings(steps=1, lora_scale=(0.0, 0.5, 1.0), seed=(7, 8))
    told = Told()
    *paths, ones, twos = paint(trained, tmp_path, "one", "two", told=told, settings=settings)
    assert [path.name for path in paths] == [
        f"{prompt}-step4-strength{strength}-seed{seed}.png"
        for prompt in ("one", "two")
        for strength in ("0", "0.5", "1")
        for seed in (7, 8)
    ]
    assert [ones.name, twos.name] == ["grid-one.png", "grid-two.png"]
    assert told.counts["Generating"] == [12, 12]
    assert len({look(path).tobytes() for path in paths}) == 12
    assert made_from(paths[2])["loras"][0]["strength"] == 0.5


def test_loras_add_up_each_at_its_strength(trained, tmp_path):
    """The same LoRA a second time is twice its strength; at strengths that cancel out it is the base."""
    twin = Path(shutil.copy(trained / "lora.safetensors", tmp_path / "twin.safetensors"))
    once = Settings(steps=2)
    (both,) = paint(trained, tmp_path / "both", settings=once, loras={twin: 1.0})
    (twice,) = paint(trained, tmp_path / "twice", settings=Settings(steps=2, lora_scale=2.0))
    (gone,) = paint(trained, tmp_path / "gone", settings=once, loras={twin: -1.0})
    (base,) = paint(trained, tmp_path / "base", settings=Settings(steps=2, lora_scale=0.0))
    (half,) = paint(trained, tmp_path / "half", settings=once, loras={twin: 0.5})

    def apart(one: Path, other: Path) -> int:
        return np.abs(look(one).astype(int) - look(other)).max()

    assert apart(both, twice) <= 1 and apart(gone, base) <= 1  # rounded to 8 bits
    assert apart(base, twice) > 2 and apart(base, half) > 2
    assert [item["strength"] for item in made_from(half)["loras"]] == [1.0, 0.5]
    with raises(BadUsage):
        paint(trained, tmp_path, loras={trained: 0.5})


def test_the_lora_of_another_run_goes_along(trained, tmp_path):
    other = Path(shutil.copytree(trained, tmp_path / "other"))
    (both,) = paint(trained, tmp_path / "both", settings=Settings(steps=1), loras={other: 0.25})
    assert [item["name"] for item in made_from(both)["loras"]] == ["lora", "lora"]
    (other / "lora.safetensors").unlink()
    with raises(BadUsage):
        paint(trained, tmp_path, loras={other: 0.25})
    with raises(BadUsage):
        paint(trained, tmp_path, loras={tmp_path / "nowhere.safetensors": 0.25})


def test_a_negative_prompt_leads_away_where_there_is_guidance(trained, tmp_path):
    guided = {"steps": 2, "guidance": 4.0}
    (plain,) = paint(trained, tmp_path, settings=Settings(**guided))
    (away,) = paint(trained, tmp_path, settings=Settings(**guided, negative_prompt="a dog"))
    assert not np.array_equal(look(plain), look(away))
    assert (made_from(plain)["negative_prompt"], made_from(away)["negative_prompt"]) == ("", "a dog")
    with raises(BadUsage):
        paint(trained, tmp_path, settings=Settings(steps=2, guidance=1.0, negative_prompt="a dog"))


def test_a_base_without_a_negative_branch_refuses_a_negative_prompt(trained, tiny_base, tmp_path):
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    config = json.loads((base / "transformer" / "config.json").read_text())
    (base / "transformer" / "config.json").write_text(json.dumps(config | {"guidance_embeds": True}))
    with raises(BadUsage):
        paint(trained, tmp_path, base=str(base), settings=Settings(negative_prompt="a dog"))


def test_a_line_of_a_prompt_file_has_its_own_size_seed_and_steps(trained, tmp_path):
    lines = (PromptLine("zorb", width=64, height=32, seed=9, steps=1), PromptLine("zorb"))
    first, second = paint(trained, tmp_path, prompts=lines, settings=Settings(steps=2, seed=3))
    assert look(first).shape == (32, 64, 3) and look(second).shape == (32, 32, 3)
    assert [made_from(path)["seed"] for path in (first, second)] == [9, 3]
    assert [made_from(path)["steps"] for path in (first, second)] == [1, 2]
    with raises(BadRecipe):
        paint(trained, tmp_path, prompts=(PromptLine("zorb", width=100),))


def test_weight_zero_is_the_base_and_one_the_lora(trained, tiny_base, tmp_path):
    whole, none, half = (
        look(paint(trained, tmp_path / str(weight), settings=Settings(steps=2, lora_scale=weight))[0])
        for weight in (1.0, 0.0, 0.5)
    )
    zero = tmp_path / "zero.safetensors"
    components = file.read(trained / "lora.safetensors").components
    for factors in components["transformer"].values():
        factors.up.zero_()
    file.write(zero, components, {})
    base = look(paint(zero, tmp_path / "base", base=str(tiny_base), settings=Settings(steps=2))[0])
    assert np.array_equal(none, base) and not np.array_equal(whole, base) and not np.array_equal(half, whole)


def test_sizes(trained, tmp_path):
    (path,) = paint(trained, tmp_path, settings=Settings(steps=1, width=64, height=32))
    assert look(path).shape == (32, 64, 3)
    with raises(BadRecipe):
        paint(trained, tmp_path, settings=Settings(width=100))


def test_what_is_missing_is_told(trained, tiny_base, tmp_path):
    with raises(BadUsage):
        paint(trained, tmp_path, prompts=())
    with raises(BadUsage):
        paint(tmp_path / "nowhere", tmp_path)
    with raises(BadUsage):
        paint(tmp_path, tmp_path)
    strange = tmp_path / "strange.safetensors"
    file.write(strange, file.read(trained / "lora.safetensors").components, {})
    with raises(BadLora):
        paint(strange, tmp_path)
    assert paint(strange, tmp_path, base=str(tiny_base))
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(BadLora):
        paint(tmp_path / "torn.safetensors", tmp_path, base=str(tiny_base))


@pytest.mark.parametrize("damage", ["part", "config", "torn"])
def test_a_broken_base_is_told(trained, tiny_base, tmp_path, damage):
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    match damage:
        case "part":
            shutil.rmtree(base / "vae")
        case "config":
            (base / "transformer" / "config.json").write_text("{")
        case "torn":
            (base / "text_encoder" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(BadBase) as caught:
        paint(trained, tmp_path, base=str(base))
    assert "\n" not in str(caught.value)


def test_what_lends_a_file_its_components_is_refused_for_a_base_that_is_none(trained, tmp_path):
    with pytest.raises(BadRecipe, match=r"components_from is 'sdxl', which is for a base in one file"):
        paint(trained, tmp_path, sample_base="glyph", components_from="sdxl")


def test_a_lora_of_another_base_is_refused(trained, tmp_path, tiny_base):
    components = file.read(trained / "lora.safetensors").components
    moved = {
        name.replace("blocks.0", "blocks.77"): factors for name, factors in components["transformer"].items()
    }
    file.write(tmp_path / "other.safetensors", {"transformer": moved}, {})
    with raises(BadLora):
        paint(tmp_path / "other.safetensors", tmp_path, base=str(tiny_base))
    wide = {
        name: Factors(factors.down.repeat(1, 2), factors.up)
        for name, factors in components["transformer"].items()
    }
    file.write(tmp_path / "wide.safetensors", {"transformer": wide}, {})
    with raises(BadLora):
        paint(tmp_path / "wide.safetensors", tmp_path, base=str(tiny_base))


def test_the_recipe_of_the_run_names_the_base(trained, tmp_path):
    moved = Path(shutil.copytree(trained, tmp_path / "run"))
    recipe = toml.load(moved / "recipe.toml")
    (moved / "recipe.toml").write_text(toml.dump(recipe.model_copy(update={"base": "no-such-base"})))
    with raises(BadBase):
        paint(moved, tmp_path)
