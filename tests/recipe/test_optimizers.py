import importlib.metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from limner.errors import BadRecipe
from limner.planning.planner import plan
from limner.recipe import Recipe, Train, optimizers, toml
from limner.recipe.optimizers import OPTIMIZERS, Optimizer, optimizer_of
from limner.run_folder import RunDir
from limner.runs import train
from messages import raises
from small import Told, losses, wish

RADAM = Optimizer(
    name="radam",
    title="RAdam",
    source="Liu 2019, arXiv 1908.03265",
    factory="torch.optim:RAdam",
    options={"decoupled_weight_decay": True},
    state_bytes=8,
)


def test_each_is_found_under_its_own_name() -> None:
    assert all(optimizer_of(name) is record and record.name == name for name, record in OPTIMIZERS.items())
    with raises(BadRecipe):
        optimizer_of("lion")


def test_each_package_is_brought_by_the_extra_that_is_named() -> None:
    lines = [Requirement(line) for line in importlib.metadata.requires("limner") or []]
    for record in OPTIMIZERS.values():
        assert bool(record.package) == bool(record.extra)
        assert not record.package or any(
            line.name == record.package and line.marker and line.marker.evaluate({"extra": record.extra})
            for line in lines
        )


def test_the_one_in_8_bits_has_smaller_state() -> None:
    pairs = [(record, optimizer_of(record.in_8_bits)) for record in OPTIMIZERS.values() if record.in_8_bits]
    assert pairs
    assert all(small.probed and 0 < small.state_bytes < record.state_bytes for record, small in pairs)


def test_the_page_of_the_recipe_names_all_with_their_sources() -> None:
    text = Train.model_fields["optimizer"].description or ""
    assert text == optimizers.described()
    assert all(f"{record.name} ({record.source})" in text for record in OPTIMIZERS.values())


def test_one_that_is_added_to_the_table_alone_is_planned_and_trains(
    monkeypatch: pytest.MonkeyPatch, tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    with raises(BadRecipe):
        Train(optimizer="radam")
    monkeypatch.setitem(OPTIMIZERS, "radam", RADAM)
    recipe = wish(tiny_base, photos, train={"optimizer": "radam"})
    assert toml.parse(toml.dump(recipe)) == recipe
    assert (
        "radam" in Recipe.model_json_schema()["$defs"]["Train"]["properties"]["optimizer"]["anyOf"][0]["enum"]
    )
    planned = plan(recipe, Told(), card="RTX 4090")
    assert planned.choice and planned.choice.needs["train"].causes["optimizer"] > 0
    whole = train(recipe, tmp_path / "run", Told())
    assert whole.steps == 4 and RunDir(tmp_path / "run").lora_path.is_file()
    rows = losses(tmp_path / "run")
    assert rows and all(loss is None or loss > 0 for _, loss, _ in rows)
