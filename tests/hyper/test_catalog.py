import pytest

from limner.errors import BadLora, BadUsage
from limner.hyper.catalog import HUB_PREDICTORS, expert_paths, hub_predictor, predictor_path
from limner.models.registry import embedded_predictors
from messages import raises


def path_of(name: str, base: str, family: str):
    return predictor_path(name, base, family, print)


def test_a_name_and_a_hub_id_mean_the_same():
    for known in HUB_PREDICTORS:
        assert hub_predictor(known.name) is hub_predictor(known.hub_id) is known
    assert hub_predictor("") is None and hub_predictor("owner/z-image-i2l") is None
    assert path_of("", "glyph", "flux") == embedded_predictors()["glyph"]


@pytest.mark.parametrize(
    ("name", "base", "family"),
    [
        ("", "z-image-turbo", "z-image"),
        ("", "sdxl", "sdxl"),
        ("z-image-i2l", "qwen-image", "qwen-image"),
        ("Qwen-Image-i2L", "sdxl", "sdxl"),
    ],
)
def test_what_is_not_for_the_base_is_told(name, base, family):
    with raises(BadUsage):
        path_of(name, base, family)


def test_what_cannot_be_fetched_is_told_with_its_size(capsys):
    with raises(BadLora):
        path_of("z-image-i2l", "z-image", "z-image")
    assert "(3.2 GB, Apache-2.0)" in capsys.readouterr().out


def test_experts_are_named_alone_in_a_folder_of_published_files(tmp_path):
    for name in ("Qwen-Image-i2L-Coarse", "Qwen-Image-i2L-Fine", "own"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"")
    text = "coarse,Qwen-Image-i2L-Fine:0.5,own"
    paths = expert_paths(text, str(tmp_path), "qwen-image", "qwen-image", print)
    assert [path.stem for path, _ in paths.values()] == [
        "Qwen-Image-i2L-Coarse",
        "Qwen-Image-i2L-Fine",
        "own",
    ]
    assert [strength for _, strength in paths.values()] == [1, 0.5, 1]
    wrong = [("coarse,bias", str(tmp_path)), ("coarse,none", "qwen-image-i2l")]
    wrong += [(f"coarse:{strength},own", str(tmp_path)) for strength in ("much", "0", "")]
    for experts, name in wrong:
        with raises(BadUsage):
            expert_paths(experts, name, "qwen-image", "qwen-image", print)
