import json
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from limner.errors import BadData, BadUsage
from limner.lora.metadata import header
from limner.publishing.card_images import CardImage
from limner.publishing.folder import new_or_empty, write_card_image, write_folder
from limner.publishing.publication import publication
from messages import raises
from publishing.runs_to_publish import finished_run, lora_file

PRIVATE = {
    "ss_dataset_dirs": json.dumps({"10_ada": {"img_count": 3}}),
    "ss_tag_frequency": json.dumps({"10_ada": {"ada at home": 3}}),
    "ss_session_id": "77",
    "ss_sd_model_name": "/home/ada/models/flux1-dev.safetensors",
}


def test_metadata_are_read_again_and_what_is_private_is_left_out(tmp_path: Path):
    lora = lora_file(tmp_path / "cat.safetensors", **PRIVATE)
    item = publication(lora, base="flux-dev")
    write_folder(item, tmp_path / "out", "ada/cat")
    metadata = header(tmp_path / "out" / "my-cat.safetensors").metadata
    assert (
        metadata["ss_sd_model_name"] == "flux1-dev.safetensors" and metadata["ss_trigger_words"] == "sks cat"
    )
    assert not {"ss_dataset_dirs", "ss_tag_frequency", "ss_session_id"} & metadata.keys()
    assert not any("ada/models" in path.read_text(errors="replace") for path in (tmp_path / "out").iterdir())


def test_tags_that_are_the_trigger_alone_stay_for_readers_that_look_there(tmp_path: Path):
    write_folder(publication(lora_file(tmp_path / "cat.safetensors")), tmp_path / "out", "ada/cat")
    metadata = header(tmp_path / "out" / "my-cat.safetensors").metadata
    assert json.loads(metadata["ss_tag_frequency"]) == {"1_sks cat": {"sks cat": 1}}


def test_pictures_lose_what_is_not_theirs(tmp_path: Path):
    run = finished_run(tmp_path / "run")
    write_folder(publication(run.path), tmp_path / "out", "ada/cat")
    with Image.open(tmp_path / "out/images/00.png") as image:
        assert not getattr(image, "text", {}) and image.getpixel((0, 0)) == (300 % 251, 0, 0)


def test_how_a_picture_was_made_stays_where_it_is_asked_for(tmp_path: Path):
    info = PngInfo()
    info.add_text("Comment", "of ada")
    Image.new("RGBA", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    image = CardImage(tmp_path / "a.png", "x", "x\nSteps: 4")
    with Image.open(write_card_image(image, tmp_path / "b.png", with_parameters=True)) as image:
        assert getattr(image, "text", {}) == {"parameters": "x\nSteps: 4"} and image.mode == "RGB"


def test_a_torn_picture_is_told(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with raises(BadData):
        write_card_image(CardImage(tmp_path / "a.png", "x"), tmp_path / "b.png")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_nothing_that_is_there_is_published_along(tmp_path: Path, kind: str):
    place = tmp_path / "out"
    if kind == "file":
        place.write_text("x")
    else:
        (place / "private").mkdir(parents=True)
    with raises(BadUsage), new_or_empty(place):
        pass


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_appears_filled_or_not_at_all(tmp_path: Path, monkeypatch, there):
    place = tmp_path / "out"
    if there:
        place.mkdir()
    with pytest.raises(KeyError), new_or_empty(place) as draft:
        (draft / "half.txt").write_text("x")
        raise KeyError
    assert place.exists() == there and (not there or not list(place.iterdir()))
    with new_or_empty(place) as draft:
        (draft / "whole.txt").write_text("x")
    assert [path.name for path in place.iterdir()] == ["whole.txt"] and list(tmp_path.iterdir()) == [place]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with raises(BadUsage), new_or_empty(Path()):
        pass
