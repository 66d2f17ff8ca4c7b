import json

from scenes import blurred, good, plant

FEW = ("--base", "./nowhere", "--resolution", "128", "--trigger", "sks cat")


def test_exit_status_lines_and_files(limner, tmp_path):
    folder = good(tmp_path / "mine")
    fine = limner("check", folder, *FEW, "--strict")
    assert fine.status == 0 and "10 images, 0 left out: 0 problems" in fine.out
    assert (tmp_path / "runs" / "mine" / "check" / "check.html").is_file()
    plant(folder, "soft.png", blurred(20))
    found = limner("check", folder, *FEW, "--json", "--out", "here", "--fix", "mended")
    told = json.loads(found.out)
    assert found.status == 1 and told["problem"] == 1 and told["findings"][0]["image"] == "soft.png"
    assert (tmp_path / "here" / "check.png").is_file() and told["fixed"]["copies"]
    assert limner("check", folder, *FEW, "--fix", "mended").status == 2
    assert limner("check", tmp_path / "none").status == 2


def test_advice_fails_only_when_strict(limner, tmp_path):
    folder = good(tmp_path / "mine", 5)
    assert limner("check", folder, *FEW).status == 0
    strict = limner("check", folder, *FEW, "--strict")
    assert strict.status == 1 and "5 images for the concept" in strict.out


def test_problems_exit_zero_where_that_is_asked(limner, tmp_path):
    folder = good(tmp_path / "mine", 3)
    plant(folder, "soft.png", blurred(20))
    outcome = limner("check", folder, *FEW, "--exit-zero")
    assert outcome.status == 0 and "1 problem" in outcome.out
    both = limner("check", folder, "--strict", "--exit-zero")
    assert both.status == 2 and "--strict and --exit-zero do not go together" in both.err


def test_what_holds_alike_of_many_images_is_one_line(limner, tmp_path):
    folder = good(tmp_path / "mine", 10)
    for file in folder.glob("*.txt"):
        file.unlink()
    output = limner("check", folder, *FEW[:4]).out
    lines = [line for line in output.splitlines() if "no-caption" in line]
    assert len(lines) == 1 and "and 7 more: no-caption: has no caption" in lines[0]


def test_the_name_of_kohyas_folder_is_a_caption(limner, tmp_path):
    folder = good(tmp_path / "img" / "10_zqx cat", 3)
    for file in folder.glob("*.txt"):
        file.unlink()
    outcome = limner("check", tmp_path / "img", *FEW)
    assert outcome.status == 0 and "caption" not in outcome.out
