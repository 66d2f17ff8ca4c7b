import pytest

from limner.captions.spec import MANNERS, Wish, manner_of, signed, unsigned
from limner.errors import BadUsage
from messages import raises


@pytest.mark.parametrize(
    ("base", "manner"),
    [
        ("glyph", "brief"),
        ("flux-dev", "sentences"),
        ("Qwen/Qwen-Image", "sentences"),
        ("Tongyi-MAI/Z-Image-Turbo", "sentences"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "phrases"),
        ("sd15", "phrases"),
    ],
)
def test_each_family_has_the_manner_that_it_learned(base, manner):
    assert manner_of(base) is MANNERS[manner]


def test_a_folder_says_itself_what_it_is(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    assert manner_of(str(tmp_path)).name == "phrases"
    (tmp_path / "model_index.json").write_text("[]")
    with raises(BadUsage):
        manner_of(str(tmp_path))
    with raises(BadUsage):
        manner_of("my-model")


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"concept_type": "cats"}, '--concept-type is "cats"; it must be one of subject'),
        ({"variants": 0}, "--variants is 0; it must be 1 to 8"),
        ({"variants": 9}, "--variants is 9"),
        ({"trigger": "a\nb"}, "one line"),
        ({"trigger": "x" * 201}, "200 characters"),
    ],
)
def test_wishes_that_mean_nothing_are_refused(values, match):
    with pytest.raises(BadUsage, match=match):
        Wish(**values)


@pytest.mark.parametrize(
    ("wish", "bare", "whole"),
    [
        (Wish(trigger="sks"), "sks sits.", "sks sits."),
        (Wish(), "A cat.", "A cat."),
        (Wish(concept_type="style", trigger="inkwash"), "A fox in a forest.", "A fox in a forest, inkwash"),
        (Wish(concept_type="style", trigger="ink", manner=MANNERS["brief"]), "cat", "ink style cat"),
        (Wish(trigger="mia", manner=MANNERS["tags"]), "1girl, solo", "mia, 1girl, solo"),
        (Wish(trigger="mia", by_rule=True), "a woman on a chair", "mia, a woman on a chair"),
        (Wish(trigger="mia", by_rule=True, manner=MANNERS["brief"]), "a chair", "mia, a chair"),
    ],
)
def test_a_trigger_has_one_role(wish, bare, whole):
    assert signed(bare, wish) == whole
    assert unsigned(whole, wish) == (bare.rstrip(".") if whole != bare else bare)
