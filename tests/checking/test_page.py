from PIL import Image

from limner.checking import page as page_module
from limner.checking.findings import Finding
from limner.checking.image_stats import measure
from limner.checking.page import MAX_IMAGES, write_page, write_sheet
from limner.data.folder import read_folder
from limner.report.sheet import LARGEST, sheet
from scenes import good


def looks(tmp_path):
    folder = read_folder(good(tmp_path / "photos", 3), trigger="<b>sks</b>")
    return [measure(each, ((128, 128),)) for each in folder.examples], ["<i>.png", "b.png", "c.png"]


def test_everything_from_outside_is_escaped_and_shown(tmp_path):
    seen, names = looks(tmp_path)
    findings = [
        Finding("<i>.png", "problem", "blur", "<script>", "Remedy."),
        Finding("", "advice", "count", "few", "Add."),
    ]
    write_page(tmp_path / "a.html", "<title>", seen, names, findings, flip=True)
    page = (tmp_path / "a.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page and "&lt;i&gt;.png" in page
    assert page.count("data:image/jpeg") == 3 and "also mirrored" in page and "128 x 128" in page
    assert "&lt;b&gt;sks&lt;/b&gt;, sks cat in a beach" in page


def test_the_sheet_says_the_bucket_and_the_caption_of_each_picture(tmp_path, monkeypatch):
    seen, names = looks(tmp_path)
    told = []
    monkeypatch.setattr(
        page_module, "sheet", lambda *_, notes, **more: told.extend(notes) or sheet([], [], [])
    )
    write_sheet(tmp_path / "a.png", seen, names, [], flip=True)
    first, mirrored, *_ = told[0]
    assert first == "<i>.png, 128 x 128: <b>sks</b>, sks cat in a beach"
    assert mirrored == "<i>.png, 128 x 128, mirrored: <b>sks</b>, sks cat in a beach"
    assert page_module._said(("",)) == "(no caption)" and page_module._said(("a", "b", "c")) == "a (+2 more)"


def test_a_sheet_of_many_images_shows_them_all(tmp_path, monkeypatch):
    seen, _ = looks(tmp_path)
    sizes = []
    monkeypatch.setattr(page_module, "atomic_write", lambda *_: None)
    monkeypatch.setattr(page_module, "sheet", lambda *rows, **more: sizes.append(sheet(*rows, **more).size))
    write_sheet(
        tmp_path / "a.png", seen[:1] * MAX_IMAGES, [f"{at}.png" for at in range(MAX_IMAGES)], [], flip=True
    )
    ((wide, high),) = sizes
    assert wide == 5240 and 5900 < high <= LARGEST, "25 columns of 20 rows, none left out"


def test_the_sheet_shows_flips_and_frames_what_was_found(tmp_path):
    seen, names = looks(tmp_path)
    write_sheet(tmp_path / "a.png", seen, names, [Finding("b.png", "problem", "blur", "x", "y")], flip=False)
    write_sheet(tmp_path / "b.png", seen, names, [], flip=True)
    red = (190, 45, 30)
    with Image.open(tmp_path / "a.png") as one, Image.open(tmp_path / "b.png") as two:
        colours = {colour for _, colour in one.getcolors(1 << 24)}
        assert red in colours and one.size == two.size
        assert red not in {colour for _, colour in two.getcolors(1 << 24)}
