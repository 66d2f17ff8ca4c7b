from PIL import Image

from limner.data.folder import read_folder
from limner.data.look import look
from limner.data.verdict import Finding
from limner.run import check_page
from limner.run.check_page import write_page, write_sheet
from scenes import good


def looks(tmp_path):
    folder = read_folder(good(tmp_path / "photos", 3), trigger="<b>sks</b>")
    return [look(each, (128, 128)) for each in folder.examples], ["<i>.png", "b.png", "c.png"]


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


def test_rows_of_the_sheet_bear_the_names_of_their_images():
    names = [f"{number}.png" for number in range(7)]
    assert check_page._labels(names, 1) == ["0.png, 1.png, 2.png, 3.png, 4.png, 5.png", "6.png"]
    assert check_page._labels(names[:4], 2) == ["0.png, 1.png, 2.png", "3.png"]


def test_the_sheet_shows_flips_and_frames_what_was_found(tmp_path):
    seen, names = looks(tmp_path)
    write_sheet(tmp_path / "a.png", seen, names, [Finding("b.png", "problem", "blur", "x", "y")], flip=False)
    write_sheet(tmp_path / "b.png", seen, names, [], flip=True)
    red = (190, 45, 30)
    with Image.open(tmp_path / "a.png") as one, Image.open(tmp_path / "b.png") as two:
        colours = {colour for _, colour in one.getcolors(1 << 24)}
        assert red in colours and one.size == two.size
        assert red not in {colour for _, colour in two.getcolors(1 << 24)}
