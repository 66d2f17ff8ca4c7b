import dataclasses
from pathlib import Path

import numpy as np
import pytest

from limner.checking import findings
from limner.checking.image_stats import ImageStats, jpeg_of
from limner.checking.sharpness import Sharpness
from limner.checking.variety import features
from limner.checking.watermark import frames
from limner.data.folder import Example
from limner.data.images import FormatInfo
from limner.data.near_duplicates import perceptual_hash
from limner.data.subject import Crop
from scenes import scene

TURNED = FormatInfo("RGB", 6, transparent=False, moving=False, profile="", coarseness=())
INK = FormatInfo("CMYK", 1, transparent=False, moving=False, profile="", coarseness=())


def look(seed: int = 0, **changes) -> ImageStats:
    picture = scene(seed)
    rgb = np.asarray(picture)
    plain = ImageStats(
        Example(Path(f"{seed}.png"), f"{seed}", 160, 160, ("x",)),
        (128, 128),
        Crop((0, 0, 160, 160), "centre"),
        FormatInfo("RGB", 1, transparent=False, moving=False, profile="", coarseness=()),
        0.8,
        None,
        1.0,
        Sharpness(0.5, 0.6),
        "",
        (0, 0, 0, 0),
        perceptual_hash(rgb),
        features(rgb),
        frames(picture),
        jpeg_of(picture),
    )
    return dataclasses.replace(plain, **changes)


@pytest.mark.parametrize(
    ("changes", "kind", "level", "said"),
    [
        ({"upscale": 1.3}, "small", "advice", "enlarged 1.3 times"),
        ({"upscale": 2.5}, "small", "problem", "enlarged 2.5 times"),
        ({"cut": Crop((0, 0, 160, 100), "centre")}, "aspect", "advice", "loses 38%"),
        ({"cut": Crop((0, 0, 160, 130), "faces", ((0, 100, 50, 150),))}, "face", "problem", "1 of 1 faces"),
        ({"sharpness": Sharpness(2.6, 2.7, 2.5)}, "blur", "problem", "5 pixels wide"),
        ({"sharpness": Sharpness(2.1, 2.5, 0.9)}, "motion", "problem", "one direction"),
        ({"exposure": "dark"}, "exposure", "advice", "black"),
        ({"quality": 20}, "jpeg", "problem", "quality 20"),
        ({"blocks": 2.2}, "jpeg", "problem", "2.2 times"),
        ({"borders": (0, 0.1, 0, 0.1)}, "border", "problem", "top 10%, bottom 10%"),
        (
            {"format_info": TURNED},
            "turned",
            "note",
            "turned",
        ),
        (
            {"format_info": INK},
            "samples",
            "note",
            "CMYK",
        ),
    ],
)
def test_each_fault_is_named_with_its_number_and_remedy(changes, kind, level, said):
    (found,) = findings.of_image(look(**changes), "a.png")
    assert (found.image, found.kind, found.level) == ("a.png", kind, level)
    assert said in found.reason and found.remedy.endswith(".")
    assert findings.of_image(look(), "a.png") == []


def test_the_more_an_image_is_reduced_the_less_its_jpeg_matters():
    assert not findings.of_image(look(quality=20, upscale=0.25), "a.png")
    assert findings.of_image(look(quality=8, upscale=0.25), "a.png")


def test_of_copies_the_sharpest_stays():
    soft, sharp = look(0, sharpness=Sharpness(1.6, 1.6)), look(0)
    sharp = dataclasses.replace(sharp, example=dataclasses.replace(sharp.example, sha256="other"))
    found = findings.of_set([soft, sharp, look(1), look(1)], ["a", "b", "c", "d"], "style")
    kinds = {(each.image, each.kind): each.reason for each in found}
    assert "nearly the same as b" in kinds["a", "near-duplicate"]
    assert "same file as c" in kinds["d", "duplicate"]
    assert "4 images" in kinds["", "count"] and len(found) == 3


def test_variety_is_judged_of_enough_images():
    same = np.ones((9, 4), np.float32) / 2
    (found,) = findings.of_variety(same, list("abcdefghi"), max_distance=0.2, basis="looks")
    assert "9 of 9 images are of one kind, by looks: a, b, c, d, e, f and 3 more" in found.reason
    assert findings.of_variety(same[:7], list("abcdefg"), max_distance=0.2, basis="looks") == []
    assert (
        findings.of_variety(np.eye(9, dtype=np.float32), list("abcdefghi"), max_distance=0.2, basis="x") == []
    )


def test_captions():
    texts = [("sks cat on a red sofa",), (), ("red sofa with sks cat",), ("a red sofa",), ("SKS cat, red",)]
    found = findings.of_captions(texts, list("abcde"), "sks cat")
    assert [(each.image, each.kind, each.level) for each in found] == [
        ("b", "no-caption", "problem"), ("d", "trigger", "advice"), ("e", "trigger", "advice"),
        ("", "fused", "advice"),
    ]  # fmt: skip
    assert {each.level for each in findings.of_captions([(), ()], ["a", "b"], "sks cat")} == {"advice"}
    assert {each.level for each in findings.of_captions([(), ()], ["a", "b"], "")} == {"problem"}
    (long,) = findings.of_lengths({"a": (90, 77), "b": (77, 77)})
    assert long.image == "a" and "90 tokens; 77 are read" in long.reason


def test_images_that_get_the_default_caption_are_told_it():
    (first, second) = findings.of_captions([(), ()], ["a", "b"], "sks", "a thing")
    assert first.level == second.level == "advice" and first.reason.endswith('training sees "a thing" alone')


def test_the_resolution_that_enlarges_no_image_is_said():
    looks = [look(1, upscale=1.0, size=(512, 512)), look(2, upscale=1.9, size=(448, 576))]
    (found,) = [item for item in findings.of_set(looks, ["a", "b"], "concept") if item.kind == "small"]
    assert found.reason == "1 of 2 images are enlarged, 1.9 times at most"
    assert found.remedy == "data.resolution = 256 enlarges none of them."


def test_captions_that_describe_nothing_are_problems_and_syntax_is_advice():
    captions = [
        ["a cat"],
        ["```json", '{"caption": "a cat"}', "```"],
        ["a cat <lora:x:1>", "None"],
        ["TOK cat"],
        [],
    ]
    found = [
        (f.image, f.level, f.reason)
        for f in findings.of_captions(captions, list("abcde"), "")
        if f.kind == "caption"
    ]
    assert found == [
        ("b", "problem", "its caption has JSON in it"),
        ("c", "problem", 'its caption is the word "None"'),
        ("d", "advice", "its caption has the placeholder TOK in it, which is not replaced"),
    ]
