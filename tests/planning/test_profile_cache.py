import json
import subprocess
import sys
from pathlib import Path

import pytest

from blueprints import flux
from limner.assembly.base import ResolvedBase, Shape
from limner.errors import BadBase
from limner.files import user_cache
from limner.planning import profile_cache
from limner.planning.profile import to_json
from limner.planning.profile_cache import opened, profile_of, shape_of
from limner.planning.request import ProfileRequest
from limner.recipe.schema import Recipe
from limner.recipe.toml import change
from messages import raises

FLUX = change(Recipe(), {"base": "flux-dev"})


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def source(name="flux-dev"):
    return opened(change(Recipe(), {"base": name}), lambda line: None)


def base(name="flux-dev"):
    return ResolvedBase(recipe=FLUX, source=source(name), shape=Shape(16, 1024), kind="cuda", compute="bf16")


def test_a_family_says_of_sizes_once(monkeypatch):
    assert shape_of(source()) == Shape(16, 1024)
    monkeypatch.setattr(profile_cache, "family_at", lambda source: pytest.fail("looked up twice"))
    assert shape_of(source()) == Shape(16, 1024)
    with pytest.raises(pytest.fail.Exception):
        shape_of(source("sdxl"))


def test_a_base_may_be_made_for_another_resolution_than_its_family():
    assert shape_of(source("glyph")).resolution == 64


class Traces:
    """What was traced, and what was said before."""

    def __init__(self, monkeypatch):
        self.count, self.lines = 0, []
        monkeypatch.setattr(profile_cache, "_traced", self._trace)

    def _trace(self, request):
        assert len(self.lines) == self.count + 1, "somebody who waits is told why, before"
        self.count += 1
        return flux(512)

    def needed(self, request):
        before = self.count
        assert profile_of(request, self.lines.append) == flux(512)
        return self.count > before


@pytest.fixture
def traces(monkeypatch):
    return Traces(monkeypatch)


def test_a_torn_or_foreign_file_is_traced_anew(traces):
    request = ProfileRequest(base(), (512, 512))
    assert traces.needed(request)
    assert traces.lines == ["Tracing a step of flux-dev at 512 x 512: about ten seconds, kept for next time."]
    assert not traces.needed(request)
    (path,) = (path for path in user_cache("profiles").iterdir() if "family" not in path.name)
    assert json.loads(path.read_text()) == json.loads(json.dumps(to_json(flux(512))))
    for text in ("{", "{}", "[]", "null"):
        path.write_text(text)
        assert traces.needed(request)


def test_other_configs_other_libraries_and_other_code_are_other_profiles(traces, monkeypatch):
    request = ProfileRequest(base(), (512, 512))
    assert traces.needed(request)
    assert not traces.needed(request)
    assert traces.needed(ProfileRequest(base("flux-schnell"), (512, 512)))
    assert traces.needed(ProfileRequest(base(), (512, 512), whole=True))
    profile_cache._made_by.cache_clear()
    monkeypatch.setattr(profile_cache, "version", lambda name: "99")
    assert traces.needed(request)
    profile_cache._made_by.cache_clear()


def test_every_room_whose_code_decides_a_profile_is_there():
    home = Path(profile_cache.__file__).parents[1]
    assert all(profile_cache._files(home / name) for name in profile_cache.MADE_BY)


def test_what_is_known_is_answered_without_torch(tmp_path, monkeypatch):
    monkeypatch.setattr(profile_cache, "_traced", lambda asked: flux(1024, doubles=2, singles=2))
    shape_of(source())
    profile_of(ProfileRequest(base(), (1024, 1024)))
    program = """
import sys
from pathlib import Path
from limner.recipe.schema import Recipe
from limner.recipe.toml import change
from limner.planning.planner import plan
from limner.reporter import Reporter
recipe = change(Recipe(), {"base": "flux-dev", "limits.vram": "12GB"})
assert plan(recipe, Reporter(), card="RTX 4070").fits
print([name for name in ("torch", "diffusers", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_base_that_nobody_knows_is_told():
    with raises(BadBase):
        opened(change(Recipe(), {"base": "flux-pro"}), lambda line: None)
