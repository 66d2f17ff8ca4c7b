import pytest
from PIL import Image

from limner.assembly.base import ImageSizes, ResolvedBase, Shape, family_at, fp16_of, shape_at
from limner.errors import BadRecipe
from limner.lora.location import locate_base
from limner.models.bundled import known
from limner.models.facts import Objective
from limner.recipe.schema import Data, Recipe
from limner.recipe.toml import change
from messages import raises

FLUX = change(Recipe(), {"base": "flux-dev"})


def resolved(recipe: Recipe = FLUX) -> ResolvedBase:
    source = known(recipe.base)
    shape = shape_at(source, family_at(source))
    return ResolvedBase(recipe=recipe, source=source, shape=shape, kind="cuda", compute="bf16")


def test_the_sizes_of_images_are_the_recipes_or_the_bases_own():
    shape = Shape(multiple=16, resolution=512)
    sizes = ImageSizes(Data(), shape)
    assert (sizes.resolution, sizes.min_side) == (512, 256) and (512, 512) in sizes.buckets
    sizes = ImageSizes(Data(resolution=256, min_side=8), shape)
    assert (sizes.resolution, sizes.min_side) == (256, 8) and (256, 256) in sizes.buckets


def test_several_resolutions_come_in_order_with_whole_numbers_of_draws():
    shape = Shape(multiple=16, resolution=512)
    sizes = ImageSizes(Data(resolution=(256, 64, 128), resolution_shares=(0.6, 0.2, 0.2)), shape)
    assert (sizes.resolution, sizes.min_side) == (256, 32)
    assert [(scale.draws, max(scale.buckets)) for scale in sizes.scales] == [
        (scale.draws, max(ImageSizes(Data(resolution=side), shape).buckets))
        for scale, side in zip(sizes.scales, (64, 128, 256), strict=True)
    ]
    assert [scale.draws for scale in sizes.scales] == [1, 1, 3] and sizes.buckets == sizes.scales[-1].buckets


def test_a_base_may_say_another_resolution_than_its_family():
    assert resolved().shape == Shape(16, 1024)
    glyph = locate_base("glyph")
    assert shape_at(glyph, family_at(glyph)).resolution == 64


def test_the_objective_is_the_recipes_with_its_words_turned_into_numbers():
    assert resolved().objective == Objective()
    recipe = change(
        FLUX, {"train.time_shift": "none", "train.guidance": 3.5, "train.time_density": "uniform"}
    )
    assert resolved(recipe).objective == Objective(time_shift=1.0, guidance=3.5, time_density="uniform")


def test_the_models_are_described_once_and_sides_of_samples_are_checked():
    base = resolved()
    assert base.spec is base.spec and base.spec.family.name == "flux" and base.spec.kind == "cuda"
    with pytest.raises(BadRecipe, match="width is 65"):
        assert resolved(change(FLUX, {"sample.width": 65})).spec


@pytest.mark.parametrize(("base", "able"), [("flux-dev", True), ("sdxl", True), ("z-image", False)])
def test_fp16_is_for_bases_whose_activations_stay_below_its_end(base: str, *, able: bool):
    source = known(base)
    assert fp16_of(source) == able
    if not able:
        with pytest.raises(BadRecipe, match="which ends at 65504, and z-image is not known"):
            fp16_of(source, "fp16")


def test_what_cannot_be_sampled_with_a_gradient_is_not_distilled():
    with pytest.raises(BadRecipe, match='train.objective is "distill", and sd15 is no base'):
        _ = resolved(Recipe(base="sd15", train={"objective": "distill"})).spec.units


def test_class_images_without_controls_are_no_part_of_pairs(tmp_path):
    for folder in ("targets", "controls"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (64, 64)).save(tmp_path / folder / "cat.png")
    pairs = {"data.images": tmp_path / "targets", "data.control": (tmp_path / "controls",)}
    recipe = change(Recipe(), {"base": "flux-kontext", **pairs})
    assert resolved(recipe).controls == 1
    with raises(BadRecipe):
        _ = resolved(change(recipe, {"prior.prompts": ("a cat",)})).controls
