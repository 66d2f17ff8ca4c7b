import numpy as np
import pytest
from PIL import Image

from encoders import save_clip, save_dino
from limner.bases.demo_sets import folder
from limner.errors import BadBase, BadUsage
from limner.judging.encoders import EmbeddedViewer, EncoderViewer, fetch, is_embedded, viewer_for
from limner.recipe import Recipe
from messages import raises
from scenes import scene


@pytest.fixture(scope="module")
def embedded() -> EmbeddedViewer:
    return EmbeddedViewer(of_style=True)


def images(name: str) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in sorted(folder(name).glob("*.png"))]


def test_the_embedded_judge_tells_styles_and_nouns(embedded):
    sets = [images("blueprint"), images("ink")]
    features, fits = embedded.view(sets[0] + sets[1], ["a turtle", "a big elephant, running", "nothing"])
    assert features.shape[0] == 20 and np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    blue, ink = features[:10], features[10:]
    assert (blue @ blue.T).mean() > (blue @ ink.T).mean() + 0.2
    assert fits.shape == (20, 3) and np.isnan(fits[:, 2]).all()
    drawn, _ = EmbeddedViewer(of_style=False).view(sets[0] + sets[1], ["a cat"])
    assert drawn.shape != features.shape and (drawn[:10] * drawn[10:]).sum(1).mean() > 0.6
    turtles, elephants = fits[[0, 10], 0].mean(), fits[[2, 12], 0].mean()
    assert turtles > elephants + 0.2


def test_nouns_are_whole_words_and_some_have_two(embedded):
    assert embedded.nouns("a caterpillar in a car-park, Light  bulb") == ["car", "light bulb"]
    assert embedded.nouns("") == []


def test_the_first_encoder_looks_and_the_first_with_a_text_tower_reads(tmp_path):
    dino, clip = str(save_dino(tmp_path / "dino")), str(save_clip(tmp_path / "clip"))
    frames = [scene(seed) for seed in range(3)]
    seen, fits = EncoderViewer([dino, clip]).view(iter(frames), ["cat", ""])
    alone, nothing = EncoderViewer([dino]).view(iter(frames), ["cat", ""])
    both, clip_fits = EncoderViewer([clip]).view(iter(frames), ["cat", ""])
    assert np.allclose(seen, alone) and nothing is None and not np.allclose(seen, both)
    assert np.allclose(fits[:, 0], clip_fits[:, 0], atol=1e-6) and np.isnan(fits[:, 1]).all()
    assert EncoderViewer([dino, clip]).name == "dino, clip"


def test_who_looks_depends_on_the_base_and_on_what_is_asked_for(tmp_path):
    assert is_embedded("glyph", ()) and not is_embedded("glyph", ("x",)) and not is_embedded("sdxl", ())
    assert isinstance(viewer_for(Recipe(), (), print), EmbeddedViewer)
    assert isinstance(viewer_for(Recipe(), (str(save_clip(tmp_path)),), print), EncoderViewer)


def test_an_encoder_that_is_not_here_is_told_and_nothing_is_fetched_without_network(tmp_path):
    with raises(BadUsage):
        fetch("no-such-folder", print)
    with raises(BadBase):
        viewer_for(Recipe(base="sdxl"), (), print)
    with pytest.raises(BadBase, match="no folder here and no valid hub id"):
        fetch("a b/c d", print)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_another_kind_is_told(tmp_path, tiny_base):
    with pytest.raises(BadBase, match="text_encoder cannot be used") as caught:
        viewer_for(Recipe(base="sdxl"), (str(tiny_base / "text_encoder"),), print)
    assert "\n" not in str(caught.value)
