from pathlib import Path

from limner.data.captions import MAX_VARIANTS
from limner.data.folder import Example
from limner.data.tags import TagRule, with_variants
from limner.errors import BadData
from limner.recipe.schema import Data
from messages import raises

TAGS = ["sks mia", "1girl", "solo", "red hair", "smile", "outdoors", "hat"]


def rule(**values) -> TagRule:
    return TagRule(**{"shuffle": True, "dropout": 0.0, "keep": 0, "count": 16, **values})


def example(*captions: str) -> Example:
    return Example(Path("a.png"), "a", 64, 64, captions)


def test_every_variant_has_all_tags_and_the_orders_differ():
    variants = rule().variants(", ".join(TAGS))
    assert len(variants) == len(set(variants)) == 16
    assert all(sorted(text.split(", ")) == sorted(TAGS) for text in variants)
    assert len({text.split(", ")[0] for text in variants}) >= 5, "each tag may come first"


def test_first_tags_and_those_with_a_trigger_stay_in_front():
    caption = ", ".join([*TAGS[1:4], TAGS[0], *TAGS[4:]])
    for text in rule(keep=1, dropout=0.5, triggers=["sks"]).variants(caption):
        assert text.startswith("1girl, sks mia")


def test_tags_are_dropped_as_often_as_is_said_and_never_all():
    variants = rule(shuffle=False, dropout=0.4, count=64).variants(", ".join(TAGS))
    shares = [sum(tag in text.split(", ") for text in variants) / len(variants) for tag in TAGS]
    assert all(0.35 < share < 0.85 for share in shares) and all(variants)
    assert all([*filter(text.split(", ").__contains__, TAGS)] == text.split(", ") for text in variants)
    assert all(rule(dropout=0.99).variants("a, b"))


def test_a_caption_has_its_variants_wherever_it_stands_and_another_seed_has_others():
    caption = ", ".join(TAGS)
    assert rule().variants(caption) == rule().variants(caption) != rule(seed=1).variants(caption)


def test_what_is_no_list_of_tags_stays_as_it_is():
    assert rule().variants("a photo of a cat") == ["a photo of a cat"]
    assert rule(triggers=["sks"]).variants("sks, sks cat") == ["sks, sks cat"]
    assert set(rule().variants("a, b")) == {"a, b", "b, a"}


def test_an_image_has_the_variants_of_all_its_captions_up_to_the_most():
    data = Data(tag_shuffle=True, tag_variants=40)
    (result,) = with_variants([example(", ".join(TAGS), ", ".join(TAGS[2:]))], data, 0)
    assert len(result.captions) == MAX_VARIANTS
    (result,) = with_variants([example("a, b", "a photo")], data, 0)
    assert sorted(result.captions) == ["a photo", "a, b", "b, a"]


def test_captions_without_tags_are_refused():
    with raises(BadData):
        with_variants([example("a photo of a cat")], Data(tag_shuffle=True), 0)
