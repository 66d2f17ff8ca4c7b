"""What a browser may send, and what is left out of it: traversal, links, bombs, what is no picture."""

import io
import stat
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save

import messages
from limner.errors import BadUsage
from limner.studio import uploads
from limner.studio.uploads import receive, save_lora, save_upload
from limner.studio.workspace import Workspace


class Sent(io.BytesIO):
    """A file as Streamlit hands it over."""

    def __init__(self, name: str, content: bytes) -> None:
        super().__init__(content)
        self.name, self.size = name, len(content)


def png(colour: str = "red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(stream, "PNG")
    return stream.getvalue()


def packed(members: dict[str, bytes], *, link: str = "") -> Sent:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            facts = zipfile.ZipInfo(name)
            facts.compress_type = zipfile.ZIP_DEFLATED
            if name == link:
                facts.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(facts, content)
    return Sent("set.zip", stream.getvalue())


def test_pictures_captions_and_metadata_are_kept(tmp_path: Path) -> None:
    sent = [
        Sent("a.png", png()),
        Sent("a.txt", b"a cat"),
        Sent("metadata.jsonl", b"{}"),
        Sent("a.png", png()),
    ]
    received = receive(sent, tmp_path)
    assert [path.name for path in received.paths] == ["a.png", "a.txt", "metadata.jsonl", "a-2.png"]
    assert received.rejections == []


def test_a_zip_is_unpacked_flat(tmp_path: Path) -> None:
    members = {
        "photos/a.png": png(),
        "photos/a.txt": b"a cat",
        "__MACOSX/photos/._a.png": b"x",
        ".DS_Store": b"x",
    }
    received = receive([packed(members)], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.txt"]
    assert received.rejections == []


def test_folders_below_the_topmost_stay(tmp_path: Path) -> None:
    members = {
        "set/10_cat/1.png": png(),
        "set/10_cat/1.txt": b"a cat",
        "set/1_cat/1.png": png("blue"),
        "set/masks/1.png": png(),
        "set/a/b/c/d/e/f/deep.png": png(),
        "set/.git/x.png": png(),
    }
    received = receive([packed(members)], tmp_path)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in received.paths)
    assert names == ["10_cat/1.png", "10_cat/1.txt", "1_cat/1.png", "a/b/c/d/deep.png", "masks/1.png"]
    assert receive([packed({"5_dog/1.png": png()})], tmp_path).paths == [tmp_path / "5_dog" / "1.png"]
    sent = [Sent("dogs/x/1.png", png()), Sent("dogs/1.crop", b"0 0 9 9"), Sent("dogs/.DS_Store", b"x")]
    received = receive(sent, tmp_path)
    assert received.paths == [tmp_path / "x" / "1.png", tmp_path / "1.crop"] and not received.rejections


def test_a_caption_goes_the_way_of_its_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "b.png").write_bytes(png())
    received = receive([Sent("a.txt", b"the second"), Sent("a.png", png()), Sent("b.txt", b"of b")], tmp_path)
    assert [path.name for path in received.paths] == ["a-2.txt", "a-2.png", "b.txt"]


def test_a_link_in_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder, outside = tmp_path / "images", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / "x").symlink_to(outside)
    received = receive([packed({"x/a.png": png(), "b.png": png()})], folder)
    assert [path.name for path in received.paths] == ["b.png"] and not any(outside.iterdir())
    assert received.rejections == ["x/a.png: its folder is a link here"]


def test_a_folder_of_damaged_pictures_leaves_none(tmp_path: Path) -> None:
    received = receive([packed({"x/a.png": b"no picture", "b.png": png()})], tmp_path)
    assert len(received.rejections) == 1 and [path.name for path in tmp_path.iterdir()] == ["b.png"]


@pytest.mark.parametrize(
    "name", ["../out.png", "/tmp/out.png", "a/../../out.png", "C:/out.png", "..\\out.png"]
)
def test_a_member_that_leads_out_is_left_out(tmp_path: Path, name: str) -> None:
    inner = tmp_path / "images"
    inner.mkdir()
    received = receive([packed({name: png(), "good.png": png()})], inner)
    assert [path.name for path in received.paths] == ["good.png"]
    assert "its path leads out of the folder" in received.rejections[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]


def test_a_link_is_left_out(tmp_path: Path) -> None:
    received = receive([packed({"door.png": b"/etc/passwd", "a.png": png()}, link="door.png")], tmp_path)
    assert [path.name for path in received.paths] == ["a.png"]
    assert "it is a link" in received.rejections[0]


def test_a_bomb_is_left_out(tmp_path: Path) -> None:
    received = receive([packed({"bomb.png": bytes(40 << 20), "a.png": png()})], tmp_path)
    assert [path.name for path in received.paths] == ["a.png"]
    assert "more than 200 times its size" in received.rejections[0]


def test_the_bytes_are_counted_whatever_the_header_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MAX_TEXT", 1000)
    received = receive([Sent("a.txt", b"x" * 1001), Sent("b.txt", b"x" * 1000)], tmp_path)
    assert [path.name for path in received.paths] == ["b.txt"]
    assert received.rejections == ["a.txt: larger than 1.0 kB"]


def test_too_much_at_once_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_TOTAL", 1500)
    with messages.raises(BadUsage):
        receive([Sent(f"{number}.txt", b"x" * 1000) for number in range(2)], tmp_path)


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_FILES", 2)
    with messages.raises(BadUsage):
        receive([Sent(f"{number}.txt", b"x") for number in range(3)], tmp_path)
    with messages.raises(BadUsage):
        receive([packed({f"{number}.txt": b"x" for number in range(3)})], tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("page.html", b"<script>"), ("model.pt", b"x"), ("a.svg", b"<svg/>"), ("broken.png", b"\x89PNG\r\n")],
)
def test_what_is_no_picture_is_named_and_left_out(tmp_path: Path, name: str, content: bytes) -> None:
    received = receive([Sent(name, content)], tmp_path)
    assert received.paths == [] and list(tmp_path.iterdir()) == []
    assert received.rejections[0].startswith(name)


def test_a_damaged_zip_is_named(tmp_path: Path) -> None:
    received = receive([Sent("set.zip", b"PK\x03\x04 nothing"), Sent("a.png", png())], tmp_path)
    assert len(received.paths) == 1
    assert received.rejections[0].startswith("set.zip cannot be unpacked")


def test_names_are_made_safe(tmp_path: Path) -> None:
    received = receive([Sent("../<b>x.png", png()), Sent("con\x1b[2J.png", png())], tmp_path)
    assert [path.name for path in received.paths] == ["b-x.png", "con-2J.png"]


def test_a_configuration_is_small(workspace: Workspace) -> None:
    assert (
        save_upload(workspace, Sent("../c.toml", b"x")) == workspace.root / ".limner" / "uploads" / "c.toml"
    )
    with messages.raises(BadUsage):
        save_upload(workspace, Sent("c.toml", bytes(2 << 20)))


def test_a_lora_is_added_and_what_is_none_is_refused(workspace: Workspace) -> None:
    content = save({"a": torch.zeros(2)})
    assert save_lora(workspace, Sent("../a.safetensors", content)).read_bytes() == content
    assert save_lora(workspace, Sent("a.safetensors", content)).name == "a-2.safetensors"
    for name, wrong in (("a.safetensors", b"PK\x03\x04 zip"), ("a.ckpt", content)):
        with messages.raises(BadUsage):
            save_lora(workspace, Sent(name, wrong))
