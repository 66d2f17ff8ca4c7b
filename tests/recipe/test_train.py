from limner.recipe import Recipe, Train
from limner.recipe.toml import change
from limner.recipe.train import Prior


def test_no_steps_is_a_recipe_because_it_is_the_control():
    assert Recipe(train=Train(steps=0)).train.steps == 0


def test_checkpoints_held_are_those_kept_the_best_and_the_one_being_written():
    assert Train(steps=1000, save_every=100, keep=3).checkpoints_held == 5
    assert Train(steps=150, save_every=100).checkpoints_written == 2
    assert Train(steps=150, save_every=100).checkpoints_held == 3
    assert Train(steps=100, validation_every=10, patience=2).checkpoints_written == 1 + 10


def test_class_images_are_as_many_as_asked_for_from_few_prompts_and_from_many():
    """As diffusers' num_class_images counts them."""
    recipe = change(Recipe(), {"prior.prompts": ["a cat", "a dog", "a cow"], "num_class_images": 5})
    assert recipe.prior.counts == (2, 2, 1)
    assert Prior(prompts=("a cat", "a dog", "a cow"), count=2).counts == (1, 1, 0)
    assert Prior(prompts=("a cat", "a dog"), images_per_prompt=3).counts == (3, 3)
