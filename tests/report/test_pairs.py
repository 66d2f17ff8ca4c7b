"""Control images and targets stand before the samples, in the report and on the sheet."""

import base64
from io import BytesIO

from PIL import Image

from limner.report.pairs import Pairs
from limner.report.report import write_report
from limner.report.sheet import write_sheet
from limner.run_folder import RunDir


def thumb(colour: str) -> str:
    file = BytesIO()
    Image.new("RGB", (16, 16), colour).save(file, "JPEG")
    return base64.b64encode(file.getvalue()).decode()


def test_rows_are_as_long_as_the_longest():
    pairs = Pairs.of({"pairs": [{"controls": ["a", "b"], "target": "t"}, {"controls": ["c"]}]})
    assert pairs.names == ("control", "control 2", "target")
    assert [cell for _, cell in pairs.row(0)] == ["a", "b", "t"]
    assert [cell for _, cell in pairs.row(1)] == ["c", None, None] == [cell for _, cell in pairs.row(1)]
    assert pairs.images(0) == [None, None, None]  # none of them is a JPEG
    assert Pairs.of({"pairs": "?"}).names == Pairs.of({}).names == ()


def test_report_and_sheet_show_them(tmp_path):
    run = RunDir(tmp_path)
    run.write_prompts(["make it red"])
    path = run.sample_path(0, 0)
    path.parent.mkdir(parents=True)
    Image.new("RGB", (32, 32), "blue").save(path)
    entry = {"controls": [thumb("lime")], "target": thumb("red")}
    run.data_path.write_text(f'{{"pairs": [{str(entry).replace(chr(39), chr(34))}]}}')
    html = write_report(run).read_text(encoding="utf-8")
    assert ">control</div>" in html and ">target</div>" in html and "--columns:3" in html
    assert html.count("<img") == 3
    write_sheet(run, ["make it red"])
    with Image.open(run.sheet_path) as sheet:
        colours = sheet.convert("RGB").getcolors(maxcolors=10**6) or []
    vivid = [colour for count, colour in colours if count > 2000 and min(colour) < 60]
    large = {max(range(3), key=colour.__getitem__) for colour in vivid}
    assert large == {0, 1, 2}
