from limner.data.order import QUANTILES
from limner.planning.counts import IMAGES, counts_of
from limner.recipe.schema import Recipe
from limner.recipe.toml import change


def recipe(**changes):
    return change(Recipe(), {key.replace("__", "."): value for key, value in changes.items()})


def test_without_images_their_number_is_a_guess():
    counts = counts_of(recipe())
    assert (counts.images, counts.images_unknown) == (IMAGES, True)


def test_pictures_and_measurements_are_counted():
    none = counts_of(recipe(sample__every=-1))
    assert none.samples == 0
    ends = counts_of(recipe(sample__every=0, sample__prompts=("a", "b")))
    assert ends.samples == 4
    often = counts_of(recipe(sample__every=250, sample__prompts=("a", "b"), train__steps=1000))
    assert often.samples == 2 * 5
    measured = counts_of(recipe(train__steps=1000, train__validation_every=500, data__validation_count=2))
    assert measured.validation_passes == 3 * 2 * len(QUANTILES)
