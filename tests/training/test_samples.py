from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from limner.assembly.resolve import resolve
from limner.errors import BadCache, BadRecipe
from limner.recipe import Recipe
from limner.run_folder import RunDir
from limner.training import samples as module
from limner.training.cache import fill_cache
from limner.training.model import TrainableModel
from limner.training.rows import caption_row, rows_of, text_sees_controls, text_values
from limner.training.samples import control_inputs, prompts_of, sample, sample_prompts
from messages import raises
from small import Told, wish
from tiny import save_flux_kontext


@pytest.fixture
def trainable_model(tiny_base, photos):
    resolved = resolve(wish(tiny_base, photos, sample={"every": 0, "prompts": ["one", "two"], "steps": 2}))
    return TrainableModel(resolved, fill_cache(resolved, Told())[0])


def test_pictures_of_every_prompt(trainable_model, tmp_path):
    run, told = RunDir(tmp_path), Told()
    for step in (0, 7):
        sample(trainable_model, run, step, told)
    assert {step: sorted(found) for step, found in run.samples().items()} == {0: [0, 1], 7: [0, 1]}
    with Image.open(run.sample_path(7, 1)) as picture:
        assert picture.size == (32, 32)
    assert told.lines == []
    assert not list(tmp_path.rglob(".*")), "no draft is left"


def pictures(tiny_base, photos, recipe=None, **settings) -> list[np.ndarray]:
    """Samples of a LoRA that is not zero, as the settings of [sample] say."""
    sample = {"every": 0, "steps": 2, **settings}
    resolved = resolve(wish(tiny_base, photos, sample=sample, **(recipe or {})))
    model = TrainableModel(resolved, fill_cache(resolved, Told())[0])
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters:
        weight.data = torch.randn(weight.shape, generator=generator) * 0.2
    return [np.asarray(image) for image in model.sample(len(prompts_of(resolved)))]


def test_a_prompt_with_flags_is_sampled_by_them_and_the_others_as_ever(tiny_base, photos):
    plain = pictures(tiny_base, photos, prompts=["one", "two"])
    texts = ["one", "two --w 48 --h 16 --d 9 --s 3 --l 2", "two"]
    own = pictures(tiny_base, photos, prompts=texts)
    alone = pictures(
        tiny_base, photos, prompts=["two"], width=48, height=16, seed=9, guidance=2.0, **{"steps": 3}
    )
    assert own[1].shape == (16, 48, 3) and np.array_equal(own[1], alone[0])
    assert np.array_equal(own[0], plain[0])
    assert not np.array_equal(own[2], plain[1]), "its seed is that of its place"


def test_a_prompt_has_a_strength_and_a_negative_prompt_of_its_own(tiny_base, photos):
    texts = [
        "one --d 3",
        "one --d 3 --am 0",
        "one --d 3 --am 0.5",
        "one --d 3 --l 4",
        "one --d 3 --l 4 --n red",
    ]
    full, none, half, guided, led = pictures(tiny_base, photos, prompts=texts)
    settings = {"every": 0, "steps": 2, "prompts": ["one"], "seed": 3}
    resolved = resolve(wish(tiny_base, photos, sample=settings))
    bare = TrainableModel(resolved, fill_cache(resolved, Told())[0])  # whose LoRA is zero
    assert np.array_equal(none, np.asarray(bare.sample(1)[0]))
    distances = [np.abs(image.astype(int) - none).mean() for image in (half, full)]
    assert 0 < distances[0] < distances[1]
    assert not np.array_equal(guided, led)


@pytest.mark.parametrize(
    ("prompt", "changes"),
    [
        ("one --w 20", {}),
        ("one --n red --l 1", {}),
        ("one --am 0.5", {"lora": {"kind": "dora"}}),
        ("one --am 0.5", {"train": {"method": "full"}}),
        ("one --w 48", {"train": {"objective": "slider"}, "slider": {"positive": "red [neutral]"}}),
    ],
)
def test_flags_that_cannot_be_are_refused(tiny_base, photos, prompt, changes):
    sections = {"data": {"images": photos}, "sample": {"prompts": (prompt,)}, **changes}
    with raises(BadRecipe):
        sample_prompts(resolve(Recipe.model_validate({"base": str(tiny_base), **sections})))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory.\nmore"),
        ValueError(),
        TypeError("x"),
        KeyError("y"),
        OSError("z"),
        BadCache("gone"),
    ],
)
def test_no_failure_ends_the_training(trainable_model, tmp_path, monkeypatch, error):
    def fail(_: int):
        raise error

    monkeypatch.setattr(trainable_model, "sample", fail)
    told = Told()
    sample(trainable_model, RunDir(tmp_path), 3, told)
    (line,) = told.lines
    assert (
        line.startswith("Samples at step 3 failed (")
        and line.endswith("training goes on.")
        and "\n" not in line
    )


def test_a_signal_is_no_failure(trainable_model, tmp_path, monkeypatch):
    def stop(_: int):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainable_model, "sample", stop)
    with pytest.raises(KeyboardInterrupt):
        sample(trainable_model, RunDir(tmp_path), 3, Told())


def test_only_the_first_process_paints(trainable_model, tmp_path, monkeypatch):
    monkeypatch.setattr(module.distributed, "rank", lambda: 1)
    sample(trainable_model, RunDir(tmp_path), 3, Told())
    assert RunDir(tmp_path).samples() == {}


@pytest.fixture(scope="module")
def kontext(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_flux_kontext(tmp_path_factory.mktemp("bases") / "kontext")


@pytest.fixture
def before(photos: Path) -> Path:
    folder = photos.parent / "before"
    folder.mkdir()
    for path in photos.glob("*.png"):
        with Image.open(path) as image:
            image.rotate(180).save(folder / path.name)
    return folder


def resolved(base: Path, photos: Path, before: Path, **sample):
    data = {"control": [str(before)], "flip": True}
    return resolve(wish(base, photos, data=data, sample={"every": 0, **sample}))


def test_without_prompts_pairs_of_the_folder_are_sampled(kontext, photos, before):
    items = sample_prompts(resolved(kontext, photos, before))
    assert len(items) == 4
    for item in items:
        assert item.target is not None and item.prompt == item.target.captions[0]
        assert [control.path for control in item.controls] == [before / item.target.path.name]
    assert sample_prompts(resolved(kontext, photos, before, every=-1)) == []


def test_prompts_have_the_images_of_the_recipe_or_of_the_folder(kontext, photos, before):
    files = [str(before / "4.png"), str(before / "0.png")]
    named = resolved(kontext, photos, before, prompts=["one", "two"], control=files)
    assert [(item.prompt, str(item.controls[0].path)) for item in sample_prompts(named)] == [
        ("one", files[0]), ("two", files[1])
    ]  # fmt: skip
    plain = resolved(kontext, photos, before, prompts=["one"])
    assert prompts_of(plain) == ["one"] and len(sample_prompts(plain)[0].controls) == 1
    with raises(BadRecipe):
        sample_prompts(resolved(kontext, photos, before, prompts=["one", "two"], control=files[:1]))


def test_cache_keys_are_of_content_size_and_side(kontext, photos, before):
    run = resolved(kontext, photos, before)
    view = run.own[0]
    (one,) = control_inputs(run, view.example.controls).values()
    (copy,) = control_inputs(run, view.example.controls, flip=True).values()
    assert one.cache_key != copy.cache_key and one.size == (32, 32) and one.tensor().shape == (1, 3, 32, 32)
    row = rows_of(run, [view])[0]
    assert row.inputs["control_1"] in (one.cache_key, copy.cache_key)
    assert row.shape == (*view.size, 32, 32) and "control_latent_1" in row.outputs


def test_text_that_sees_no_control_is_that_of_the_caption(kontext, photos, before):
    run = resolved(kontext, photos, before)
    assert not text_sees_controls(run)
    row = caption_row(run, "a cat", run.own[0].example.controls)
    assert row.outputs == {"pooled", "context"} <= text_values(run)
