import base64
import io

import pytest
from PIL import Image

from limner.report.markup import SMALL, data_url, escape, image, number, records, table, thumbnail


def stored(size=(40, 20), kind="PNG", mode="RGB", **options):
    out = io.BytesIO()
    Image.new(mode, size, 100).save(out, kind, **options)
    return out.getvalue()


def opened(url):
    kind, _, data = url.partition(";base64,")
    return kind, Image.open(io.BytesIO(base64.b64decode(data)))


def test_text_is_text():
    assert escape("<script>\"&'") == "&lt;script&gt;&quot;&amp;&#x27;"
    assert escape("a\0b\x1b\ud800\n") == "a?b??\n"
    assert len(escape("x" * 10**6)) < 30_000
    assert escape(None) == "None"


def test_numbers_are_for_people():
    values = [None, True, 0.123456, 12, "a", float("nan"), [1, {"a": 2}], {"b": object}]
    assert [number(value) for value in values[:7]] == [
        "–",
        "yes",
        "0.1235",
        "12",
        "a",
        "nan",
        '[1, {"a": 2}]',
    ]
    assert "object" in number(values[7])


def test_tables_escape_and_hold_tables():
    html = table({"<b>": "<i>", "scores": [{"<u>": 0.5, "name": "<s>"}, {"name": "x"}], "empty": []})
    assert "<b>" not in html
    assert "<u>" not in html
    assert "<s>" not in html
    assert html.count("<table") == 2
    assert '<td class="number">0.5</td>' in html
    assert records([]) == '<div class="wide"><table><tr></tr></table></div>'
    assert image(None, "<b>") == '<div class="none">no picture</div>'
    assert "<b>" not in image("data:,", "<b>")


def test_pictures_are_redrawn_within_bounds(tmp_path):
    path, exif = tmp_path / "a.jpg", Image.Exif()
    exif[0x010E] = "secret"
    path.write_bytes(stored((3000, 1000), "JPEG", comment=b"<script>secret", icc_profile=b"mine", exif=exif))
    kind, small = opened(data_url(path, 256))
    assert (kind, small.size) == ("data:image/jpeg", (256, 85))
    assert not {"comment", "exif", "icc_profile"} & set(small.info)
    kind, pixels = opened(data_url(io.BytesIO(stored()), 256))
    assert (kind, pixels.size, pixels.getpixel((0, 0))) == ("data:image/png", (40, 20), (100, 0, 0))
    assert opened(data_url(io.BytesIO(stored((SMALL + 1, 9))), 256))[0] == "data:image/jpeg"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_any_mode_is_drawn(mode):
    assert opened(data_url(io.BytesIO(stored(mode=mode)), 64))[1].size == (40, 20)


def test_what_is_no_picture_is_none(tmp_path):
    good = stored((200, 200), "JPEG")
    for bad in (
        b"",
        b"<svg onload=alert(1)>",
        good[:50],
        good[: len(good) // 2],
        stored()[:40],
        stored(kind="BMP"),
    ):
        assert data_url(io.BytesIO(bad), 64) is None
    assert data_url(tmp_path / "none.png", 64) is None
    assert data_url(tmp_path, 64) is None
    assert data_url(io.BytesIO(stored((9000, 9000), "PNG", mode="1")), 64) is None


@pytest.mark.parametrize(
    "text", [None, 5, "", "javascript:alert(1)", "!!!!", '"><script>', ["a"], "AAAA", "é"]
)
def test_a_thumbnail_that_is_none_is_none(text):
    assert thumbnail(text, 64) is None


def test_a_thumbnail_is_redrawn():
    assert thumbnail(base64.b64encode(stored()).decode(), 64).startswith("data:image/png;base64,")
