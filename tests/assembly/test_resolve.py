import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from limner.assembly.assemble import DTYPES
from limner.assembly.resolve import device_of, precision_of, resolve
from limner.errors import BadBase, BadData, BadRecipe
from messages import raises
from originals import save_single
from small import wish

ALL = {"validation_count": None}


def test_everything_is_derived_without_loading_a_weight(tiny_base, photos, monkeypatch):
    monkeypatch.setattr("limner.models.loading.load", None)
    resolved = resolve(wish(tiny_base, photos, data={**ALL, "flip": True, "caption_dropout": 0.1}))
    assert resolved.resolution == 32
    assert (
        resolved.device == device_of("auto")
        and resolved.dtype == DTYPES[precision_of("auto", resolved.device, fp16=True)]
    )
    assert len(resolved.views) == 2 * (6 * 2 + 1), "flips x (captions and the empty one), one image has two"
    assert resolved.cut.loaded == ("transformer",) and resolved.first_layers == {"transformer": 0}
    assert resolved.order.batch == 2


def test_the_resolution_is_the_recipes_or_the_bases_own(tiny_base, photos):
    assert resolve(wish(tiny_base, photos, data={"resolution": None})).resolution == 32
    with raises(BadData):
        resolve(wish(tiny_base, photos, data={"resolution": 1024}))


@pytest.mark.parametrize("key", ["images", "validation_images"])
def test_a_folder_that_has_moved_is_asked_for(tiny_base, photos, tmp_path, key):
    recipe = wish(tiny_base, photos, data={"validation_count": None, key: tmp_path / "gone"})
    with pytest.raises(BadData, match=rf"data\.{key} is .*gone, and .* --set data\.{key}=FOLDER"):
        resolve(recipe)


def test_tags_are_shuffled_for_training_and_left_alone_where_the_loss_is_measured(tiny_base, photos):
    (photos / "0.txt").write_text("red, green, blue, sks cat")
    settings = {"validation_count": None, "tag_shuffle": True, "tag_variants": 4, "trigger": "sks cat"}
    resolved = resolve(wish(tiny_base, photos, data=settings))
    captions = {view.caption for view in resolved.views if view.example.path.name == "0.png"}
    assert len(captions) == 4 and all(text.startswith("sks cat, ") for text in captions)
    held = [view.caption for view in resolved.held_out if view.example.path.name == "0.png"]
    assert held == ["red, green, blue, sks cat"]
    count = len({(view.example.sha256, view.caption) for view in resolved.views})
    assert f"Tags: {count} captions of 6 images." in resolved.remarks


def more(photos: Path, count: int) -> None:
    for number in range(6, count):
        shutil.copy(photos / "5.png", photos / f"{number}.png")
        with (photos / f"{number}.png").open("ab") as file:
            file.write(bytes([number]))


def contents(views) -> set[str]:
    return {view.example.sha256 for view in views}


def test_few_images_are_all_trained_on_and_measured_on(tiny_base, photos):
    resolved = resolve(wish(tiny_base, photos, data=ALL))
    assert contents(resolved.held_out) == contents(resolved.views) and not resolved.truly_held_out
    assert len(resolved.held_out) == 6 and not any(view.flip for view in resolved.held_out)


def test_a_tenth_of_many_images_is_held_out(tiny_base, photos):
    more(photos, 25)
    resolved = resolve(wish(tiny_base, photos, data={**ALL, "flip": True}))
    assert resolved.truly_held_out and len(resolved.held_out) == 2
    assert not contents(resolved.held_out) & contents(resolved.views) and len(contents(resolved.views)) == 23


def test_which_images_are_held_out_depends_on_their_content_alone(tiny_base, photos, tmp_path):
    kept = contents(resolve(wish(tiny_base, photos, data={"validation_count": 2})).held_out)
    moved = tmp_path / "moved"
    moved.mkdir()
    for number, path in enumerate(sorted(photos.glob("*.png"), reverse=True)):
        shutil.copy(path, moved / f"renamed-{number}.png")
    assert contents(resolve(wish(tiny_base, moved, data={"validation_count": 2})).held_out) == kept
    assert len(kept) == 2


def test_a_copy_of_a_held_out_image_is_not_trained_on(tiny_base, photos):
    for path in list(photos.glob("*.png")):
        shutil.copy(path, path.with_name(f"copy-of-{path.name}"))
    resolved = resolve(wish(tiny_base, photos, data={"validation_count": 2}))
    assert len(contents(resolved.views)) == 4 and not contents(resolved.views) & contents(resolved.held_out)


@pytest.mark.parametrize("count", [6, 7, 100])
def test_holding_out_everything_is_refused(tiny_base, photos, count: int):
    with pytest.raises(BadData, match=rf"data\.validation_count is {count} and the folder has 6 .*at most 5"):
        resolve(wish(tiny_base, photos, data={"validation_count": count}))


def test_a_folder_of_held_out_images(tiny_base, photos, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.move(photos / "5.png", other / "5.png")
    resolved = resolve(wish(tiny_base, photos, data={**ALL, "validation_images": str(other)}))
    assert resolved.truly_held_out and len(resolved.held_out) == 1 and len(contents(resolved.views)) == 5
    shutil.copy(photos / "0.png", other / "again.png")
    with raises(BadData):
        resolve(wish(tiny_base, photos, data={**ALL, "validation_images": str(other)}))


def test_part_of_a_text_encoder(tiny_base, photos):
    resolved = resolve(
        wish(tiny_base, photos, lora={"text_encoders": ["text_encoder"], "text_encoder_layers": 1})
    )
    assert resolved.first_layers == {"transformer": 0, "text_encoder": 2}
    assert "encode_clip@2" in resolved.cut.boundary
    with raises(BadRecipe):
        resolve(wish(tiny_base, photos, lora={"text_encoders": ["text_encoder"], "text_encoder_layers": 4}))
    with raises(BadRecipe):
        resolve(wish(tiny_base, photos, lora={"text_encoders": ["text_encoder_3"]}))


@pytest.mark.parametrize(("wished", "bound"), [("auto", 1.0), ("none", 1.0), (2.5, 2.5)])
def test_the_time_shift_reaches_the_unit(tiny_base, photos, wished, bound):
    resolved = resolve(wish(tiny_base, photos, train={"time_shift": wished, "time_density": "uniform"}))
    constants = {unit.name: unit.constants for unit in resolved.spec.units}["draw_time"]
    assert (constants["time_shift"], constants["time_density"]) == (bound, "uniform")


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device_of("auto").type == "cpu"
    for name in ("cuda", "mps"):
        with pytest.raises(BadRecipe, match=f'limits.device is "{name}", and torch .* sees none'):
            device_of(name)


def test_precision(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    assert precision_of("auto", cpu, fp16=True) == "fp32" and precision_of("auto", cuda, fp16=True) == "bf16"
    assert [precision_of(name, cpu, fp16=True) for name in ("bf16", "fp16")] == ["bf16", "fp16"]
    assert precision_of("fp32", cuda, fp16=True) == "fp32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert (
        precision_of("auto", cuda, fp16=True) == "fp16" and precision_of("auto", cuda, fp16=False) == "fp32"
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    assert precision_of("auto", cuda, fp16=True) == "fp32"


def test_what_cannot_be_done_is_refused(tiny_base, photos, tmp_path):
    with raises(BadRecipe):
        resolve(wish(tiny_base, photos, train={"method": "full"}, lora={"rank": 4}))
    with raises(BadRecipe):
        resolve(wish(tiny_base, photos, sample={"width": 100}))
    with raises(BadRecipe):
        resolve(wish(tiny_base, photos, sample={"height": 17}))
    with raises(BadBase):
        resolve(wish(tmp_path / "nowhere", photos))
    other = Path(shutil.copytree(tiny_base, tmp_path / "other"))
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps(index | {"_class_name": "KandinskyPipeline"}))
    with raises(BadBase):
        resolve(wish(other, photos))


def test_crops_follow_the_subject_or_say_that_they_do_not(tiny_base, photos, monkeypatch):
    with Image.open(photos / "0.png") as opened:
        opened.resize((240, 48)).save(photos / "0.png")
    monkeypatch.setattr("limner.data.subject.found_faces", lambda image: ((0, 0, 20, 20),))
    followed, plain = (
        resolve(wish(tiny_base, photos)),
        resolve(wish(tiny_base, photos, data={"crop": "centre"})),
    )
    (crop, middle) = (
        {view.crop for view in (*each.views, *each.held_out) if view.example.path.stem == "0"}
        for each in (followed, plain)
    )
    assert crop == {(0, 0, 48, 48)} and middle == {(96, 0, 144, 48)}
    monkeypatch.setattr("limner.data.subject.installed", lambda: False)
    without = resolve(wish(tiny_base, photos))
    assert without.views == plain.views
    assert any("4 of 6 images" in line and "limner[crop]" in line for line in without.remarks)
    assert not any("limner[crop]" in line for line in plain.remarks)
    with raises(BadRecipe):
        resolve(wish(tiny_base, photos, data={"crop": "subject"}))


def test_a_base_in_one_file_is_opened_with_what_its_lender_has(tiny_base, photos, tmp_path):
    file = save_single(tiny_base, tmp_path / "flux.safetensors", only=("transformer",))
    resolved = resolve(wish(file, photos, components_from=str(tiny_base)))
    assert resolved.source.name == "flux.safetensors" and resolved.family.name == "flux"
    folder = resolve(wish(tiny_base, photos))
    assert resolved.source.config("transformer") == folder.source.config("transformer")
    with raises(BadRecipe):
        resolve(wish(tiny_base, photos, components_from="sdxl"))
    with raises(BadBase):
        resolve(wish(Path("nowhere.safetensors"), photos))


def test_what_cannot_be_held_out_whole_is_told(tiny_base, photos):
    for number in range(1, 6):
        with Image.open(photos / "0.png") as opened:
            opened.point(lambda value, number=number: min(255, value + number)).save(photos / f"{number}.png")
    resolved = resolve(wish(tiny_base, photos, data={"validation_count": 2}))
    assert not resolved.truly_held_out and len(contents(resolved.views)) == 6
    assert any(line.startswith("Held out: 0 of 2 images that were to be.") for line in resolved.remarks)


def test_validation_images_near_those_that_are_trained_are_told(tiny_base, photos, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    with Image.open(photos / "3.png") as opened:
        opened.point(lambda value: min(255, value + 3)).save(other / "x.png")
    recipe = wish(tiny_base, photos, data={"validation_count": None, "validation_images": str(other)})
    assert any("1 of 1 validation images are nearly the same" in line for line in resolve(recipe).remarks)


def test_crops_that_lose_much_are_told(tiny_base, photos):
    with Image.open(photos / "0.png") as opened:
        opened.resize((480, 48)).save(photos / "0.png")
    remarks = resolve(wish(tiny_base, photos, data={"crop": "centre"})).remarks
    assert any(
        "images lose more than a quarter to the crop" in line and "(0.png " in line for line in remarks
    )


@pytest.mark.parametrize(
    ("caption", "is_refused"), [("a sks cat", True), ("a maskske", False), ("SKS!", True)]
)
def test_the_trigger_is_looked_for_among_class_images_as_a_word(
    tiny_base, photos, tmp_path, caption, is_refused
):
    classes = Path(shutil.copytree(photos, tmp_path / "classes"))
    (classes / "1.txt").write_text(caption)
    resolved = resolve(wish(tiny_base, photos, data={"trigger": "sks"}))
    if is_refused:
        with pytest.raises(BadData, match="its caption has the trigger 'sks'"):
            resolved.with_class_images(classes)
    else:
        assert resolved.with_class_images(classes).class_views == 7
