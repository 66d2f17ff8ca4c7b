from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from limner.bases import make_turbo
from limner.bases.make_turbo import FILE, FREE, NAME, UPDATES, install, prompts, recipe
from limner.models.registry import EMBEDDED, registered_bases
from limner.recipe.toml import parse


def test_every_noun_is_asked_for_in_every_style_and_alone_and_no_prompt_twice() -> None:
    texts = prompts(50)
    assert len(texts) == len(set(texts)) and "" not in texts
    assert {"twemoji style cat", "noto style cat", "cat"} <= set(texts)
    assert 64 * 5 + 40 <= len(texts) <= 64 * 5 + 50
    assert any("background" in text for text in texts)


def test_it_is_installed_where_the_package_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_turbo, "EMBEDDED", tmp_path / "bases")
    (tmp_path / "bases").mkdir()
    for name in (FILE, "recipe.toml"):
        (tmp_path / name).write_text(name)
    place = install(tmp_path)
    assert sorted(path.name for path in place.iterdir()) == sorted([FILE, "recipe.toml"])
    assert registered_bases()[NAME].lora == (place / FILE).relative_to(tmp_path / "bases").as_posix()


def test_the_shipped_file_is_small_and_finite_and_the_recipe_makes_it() -> None:
    folder = EMBEDDED / NAME
    weights = load_file(folder / FILE)
    assert (folder / FILE).stat().st_size <= 4e6
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert all(tensor.isfinite().all() for tensor in weights.values())
    shipped = parse((folder / "recipe.toml").read_text(encoding="utf-8"))
    wished = recipe(UPDATES, FREE)
    assert shipped.model_copy(update={"data": wished.data}) == wished
    base = registered_bases()[NAME]
    assert base.steps == wished.distill.steps and base.changes["limner"]["guidance"] == 1.0
