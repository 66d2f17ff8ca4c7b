import pytest

from limner.data.captions import (
    MAX_CAPTION_LENGTH,
    MAX_VARIANTS,
    count_word,
    final,
    has_word,
    read_sidecar,
    read_text,
    variants,
    with_trigger,
)
from limner.errors import BadData
from messages import raises


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a photo of [trigger] on grass", "a photo of sks cat on grass"),
        ("a photo of {Trigger}", "a photo of sks cat"),
        ("a photo of a dog", "sks cat, a photo of a dog"),
        ("A Sks Cat in rain", "A Sks Cat in rain"),
        ("sks cats", "sks cat, sks cats"),
        ("", "sks cat"),
    ],
)
def test_the_trigger_is_in_every_caption(caption, expected):
    assert with_trigger(caption, "sks cat") == expected


def test_a_trigger_of_signs_is_found_as_it_stands():
    assert with_trigger("a (x+) b", "(x+)") == "a (x+) b"
    assert with_trigger("[trigger]!", r"\1") == r"\1!"


def test_without_a_trigger_captions_stay_and_placeholders_are_refused():
    assert with_trigger("a cat", "") == "a cat"
    with raises(BadData):
        with_trigger("a [trigger]", "")


def test_an_image_without_captions_gets_the_default_or_the_trigger():
    assert final((), trigger="sks", default="") == ("sks",)
    assert final((), trigger="sks", default="a photo of [trigger]") == ("a photo of sks",)
    assert final((), trigger="", default="") == ("",)
    assert final(("a", "sks, a"), trigger="sks", default="x") == ("sks, a",)


def test_lines_are_variants(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeff a cat \r\n\r\n\ta  dog\r\na cat\nété".encode())
    assert read_sidecar(tmp_path / "a.txt") == ("a cat", "a dog", "été")


@pytest.mark.parametrize("content", [b"", b"\n \n\t\r\n", "\ufeff".encode()])
def test_an_empty_file_has_no_caption(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    assert read_sidecar(tmp_path / "a.txt") == ()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("ein Kätzchen".encode("latin-1"), r"a.txt is not UTF-8 \(byte 5\). Save it as UTF-8"),
        ("a cat".encode("utf-16"), "not UTF-8"),
        ("a cat".encode("utf-16-le"), "bytes that are no text"),
        (
            b"x" * (MAX_CAPTION_LENGTH + 1),
            f"a.txt: A caption of {MAX_CAPTION_LENGTH + 1} characters; at most 8000",
        ),
        (b"".join(b"%d\n" % n for n in range(MAX_VARIANTS + 1)), "65 captions for one image; at most 64"),
        (b"x\n" * 2_000_000, "at most 2.0 MB are read. Is it really captions"),
    ],
)
def test_what_is_no_caption_is_refused(tmp_path, content, reason):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(BadData, match=reason):
        read_sidecar(tmp_path / "a.txt")


def test_half_a_character_is_refused():
    with raises(BadData):
        variants(["a \ud83d cat"])


def test_a_missing_file_is_named(tmp_path):
    with raises(BadData):
        read_text(tmp_path / "gone.txt")


def test_words_are_found_whole():
    assert has_word("cat", "A Cat!")
    assert not has_word("cat", "concatenate a catalogue")
    assert count_word("sks cat", "sks cat and SKS CAT and skscat") == 2
