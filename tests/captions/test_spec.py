import pytest

from limner.captions.spec import STYLES, CaptionSpec, add_trigger, strip_trigger, style_of
from limner.errors import BadUsage
from messages import raises


@pytest.mark.parametrize(
    ("base", "style"),
    [
        ("glyph", "brief"),
        ("flux-dev", "sentences"),
        ("Qwen/Qwen-Image", "sentences"),
        ("Tongyi-MAI/Z-Image-Turbo", "sentences"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "phrases"),
        ("sd15", "phrases"),
    ],
)
def test_each_family_has_the_style_that_it_learned(base, style):
    assert style_of(base) is STYLES[style]


def test_a_folder_says_itself_what_it_is(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    assert style_of(str(tmp_path)).name == "phrases"
    (tmp_path / "model_index.json").write_text("[]")
    with raises(BadUsage):
        style_of(str(tmp_path))
    with raises(BadUsage):
        style_of("my-model")


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
        CaptionSpec(**values)


@pytest.mark.parametrize(
    ("wish", "bare", "whole"),
    [
        (CaptionSpec(trigger="sks"), "sks sits.", "sks sits."),
        (CaptionSpec(), "A cat.", "A cat."),
        (
            CaptionSpec(concept_type="style", trigger="inkwash"),
            "A fox in a forest.",
            "A fox in a forest, inkwash",
        ),
        (CaptionSpec(concept_type="style", trigger="ink", style=STYLES["brief"]), "cat", "ink style cat"),
        (CaptionSpec(trigger="mia", style=STYLES["tags"]), "1girl, solo", "mia, 1girl, solo"),
        (CaptionSpec(trigger="mia", by_rule=True), "a woman on a chair", "mia, a woman on a chair"),
        (CaptionSpec(trigger="mia", by_rule=True, style=STYLES["brief"]), "a chair", "mia, a chair"),
    ],
)
def test_a_trigger_has_one_role(wish, bare, whole):
    assert add_trigger(bare, wish) == whole
    assert strip_trigger(whole, wish) == (bare.rstrip(".") if whole != bare else bare)
