from typing import get_args

from limner.recipe.schema import Recipe, Train
from limner.recipe.toml import change
from limner.run_folder import RunDir
from limner.training.outputs import OUTPUTS, output_of


def test_every_method_of_training_ends_in_something(tmp_path):
    assert set(get_args(Train.model_fields["method"].annotation)) == set(OUTPUTS)
    run = RunDir(tmp_path)
    for method, ends in (("lora", run.lora_path), ("full", run.model_path)):
        recipe = change(Recipe(), {"train.method": method})
        output = output_of(recipe)
        assert [path for path in output.paths(run).values() if path] == [ends]
        assert not output.complete(run, recipe)
