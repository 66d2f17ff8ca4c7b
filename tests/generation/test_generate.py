import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limner.errors import BadBase, BadLora, BadRecipe, BadUsage
from limner.generation.generate import generate
from limner.generation.settings import Settings
from limner.lora import file
from limner.lora.factors import Factors
from limner.recipe import toml
from limner.runs import train
from messages import raises
from small import Told, wish

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


def paint(target: Path, out: Path, *, base: str | None = None, settings: Settings = QUICK) -> list[Path]:
    return generate(target, base=base, prompts=["zorb: a, B!"], out=out, settings=settings, reporter=Told())


def test_a_run_is_painted_with(trained, tmp_path):
    told = Told()
    written = generate(
        trained,
        base=None,
        prompts=["zorb", "..."],
        out=tmp_path / "new" / "folder",
        settings=QUICK,
        reporter=told,
    )
    assert [path.name for path in written] == [
        "00-zorb-3.png",
        "00-zorb-4.png",
        "01-blank-3.png",
        "01-blank-4.png",
    ]
    assert told.counts["Painting"] == [4, 4]
    assert look(written[0]).shape == (32, 32, 3) and not np.array_equal(look(written[0]), look(written[1]))
    again = generate(
        trained, base=None, prompts=["zorb"], out=tmp_path / "again", settings=QUICK, reporter=told
    )
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
        generate(trained, base=None, prompts=[], out=tmp_path, settings=QUICK, reporter=Told())
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
