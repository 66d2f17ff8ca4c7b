import json

import pytest
import torch

from limner.errors import BadLora, BadUsage, RunBusy
from limner.files import write_json
from limner.judging.choose import choose, scaled
from limner.lora import file
from limner.lora.adapters import Dora, Loha, Lokr, LokrRows, to_lora
from limner.lora.factors import Factors
from limner.run_folder import RunDir
from limner.runs import train
from messages import raises
from small import Told


def changes(path) -> dict[str, torch.Tensor]:
    """What a file adds to each weight."""
    return {
        name: to_lora(change).dense()
        for adapter in file.read(path).components.values()
        for name, change in adapter.items()
    }


def test_the_lora_of_a_step_becomes_the_runs_with_its_strength_in_it_for_all_tools(run):
    folder, told = RunDir(run), Told()
    paths = choose(run, 2, 0.5, told)
    assert paths == [folder.lora_path, folder.lora_path_for("kohya")]
    expected = changes(folder.step_lora_path(2))
    for path in paths:
        result = changes(path)
        assert result.keys() == expected.keys()
        assert all(torch.allclose(result[name], 0.5 * expected[name], rtol=1e-5) for name in expected)
    metadata = file.read(folder.lora_path).metadata
    assert metadata["ss_steps"] == "2" and metadata["limner.chosen_strength"] == "0.5"
    assert not file.read(folder.lora_path).notes
    assert "lora.safetensors of step 2 at 0.5" in told.text


def test_training_leaves_the_choice_until_the_run_goes_on(run):
    from limner.recipe import toml

    folder = RunDir(run)
    choose(run, 2, None, Told())
    chosen = folder.lora_path.read_bytes()
    recipe = toml.load(folder.recipe_path)
    train(recipe, run, Told())
    assert folder.lora_path.read_bytes() == chosen
    train(toml.change(recipe, {"train.steps": 6}), run, Told())
    assert file.read(folder.lora_path).metadata["ss_steps"] == "6"
    assert "limner.chosen_of" not in file.read(folder.lora_path).metadata


def test_the_recommendation_can_be_chosen(run):
    folder = RunDir(run)
    with raises(BadUsage):
        choose(run, "recommended", None, Told())
    write_json(folder.judge_path, {"recommendation": {"step": None, "strength": None}})
    with raises(BadUsage):
        choose(run, "recommended", None, Told())
    write_json(folder.judge_path, {"recommendation": {"step": 2, "strength": 0.8}})
    choose(run, "recommended", None, Told())
    assert file.read(folder.lora_path).metadata["limner.chosen_strength"] == "0.8"
    assert json.loads(folder.judge_path.read_text())["chosen"] == {"step": 2, "strength": 0.8}
    choose(run, "recommended", 1.0, Told())
    assert json.loads(folder.judge_path.read_text())["chosen"] == {"step": 2, "strength": 1.0}


def test_what_cannot_be_chosen_is_told(run):
    with raises(BadUsage):
        choose(run, 3, None, Told())
    with raises(BadUsage):
        choose(run, 2, 0.0, Told())
    before = RunDir(run).lora_path.read_bytes()
    with RunDir(run).lock(), pytest.raises(RunBusy):
        choose(run, 2, None, Told())
    assert RunDir(run).lora_path.read_bytes() == before


def test_every_kind_but_dora_scales():
    torch.manual_seed(0)
    kronecker = Lokr((torch.randn(2, 2),), (torch.randn(4, 2), torch.randn(2, 3)))
    adapter = {
        "plain": Factors(torch.randn(2, 6), torch.randn(8, 2)),
        "hadamard": Loha(torch.randn(8, 2), torch.randn(2, 6), torch.randn(8, 2), torch.randn(2, 6)),
        "kronecker": kronecker,
        "first": LokrRows(kronecker, 0, 3),
        "second": LokrRows(kronecker, 3, 8),
    }
    result = scaled(adapter, 0.3)
    for name, change in adapter.items():
        assert type(result[name]) is type(change)
        assert torch.allclose(to_lora(result[name]).dense(), 0.3 * to_lora(change).dense(), rtol=1e-5)
    assert result["first"].whole is result["second"].whole
    dora = {"norms": Dora(adapter["plain"], torch.ones(8), "out")}
    assert scaled(dora, 1.0) == dora
    with raises(BadLora):
        scaled(dora, 0.5)
