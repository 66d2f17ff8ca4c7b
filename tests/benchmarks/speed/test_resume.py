import json
import time

from benchmarks.speed import resume
from limner import runs
from limner.recipe import toml
from limner.training import train as verb
from small import wish


def test_clocks_inside_a_run_stand_at_functions_that_it_calls(tiny_base, photos, tmp_path, monkeypatch):
    for name in resume.CLOCKS:
        monkeypatch.setattr(verb, name, getattr(verb, name))  # puts back what the clocks replace
    monkeypatch.setattr(runs, "RunDir", runs.RunDir)
    monkeypatch.setenv(resume.START, repr(time.time()))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(toml.dump(wish(tiny_base, photos)))
    try:
        resume.inside(tmp_path / "parts.json", ["train", str(recipe), "--out", str(tmp_path / "run")])
    except SystemExit as end:
        assert not end.code
    found = json.loads((tmp_path / "parts.json").read_text())
    assert all(found[part] > 0 for part in resume.PARTS)
