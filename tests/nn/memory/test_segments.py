import os
import sys
from types import SimpleNamespace

import pytest

from limner.nn.memory import segments
from limner.nn.memory.segments import EXPANDABLE, NAMES, configure, expandable


@pytest.fixture
def platform(monkeypatch):
    def become(system="linux", release="6.8.0-generic", torch="2.13.0"):
        expandable.cache_clear()
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=release), raising=False)
        monkeypatch.setattr(segments, "version", lambda name: torch)

    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    yield become
    expandable.cache_clear()


@pytest.mark.parametrize(
    ("facts", "grows"),
    [
        ({}, True),
        ({"system": "win32"}, False),
        ({"release": "5.15.153.1-microsoft-standard-WSL2"}, False),
        ({"release": "5.15.148-tegra"}, False),
        ({"torch": "2.13.0+rocm7.0"}, False),
    ],
)
def test_segments_grow_where_the_platform_has_them(platform, facts, grows):
    platform(**facts)
    assert expandable() is grows
    configure()
    assert {os.environ.get(name) for name in NAMES} == {EXPANDABLE if grows else None}


def test_what_the_user_says_stands_everywhere(platform, monkeypatch):
    platform("win32")
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")
    configure()
    assert {os.environ[name] for name in NAMES} == {"max_split_size_mb:64"}
