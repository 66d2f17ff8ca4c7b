"""Fixtures that several rooms need. No test reaches a network or the user's own cache."""

import itertools
import os
from collections.abc import Generator, Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from PIL import Image  # noqa: E402

import messages  # noqa: E402
from limner.imports import swiftly  # noqa: E402
from workers import shared_folder  # noqa: E402

calm = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("limner", calm, derandomize=True)
hypothesis.settings.register_profile("search", calm, max_examples=2000, print_blob=True)
hypothesis.settings.load_profile("limner")
"""The same examples every time, however slow the machine; ``--hypothesis-profile search`` seeks more."""
HOMES = itertools.count()


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "write the golden messages of the tests that run, instead of comparing them"
    parser.addoption("--rewrite-messages", action="store_true", help=text)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What the tests import is never garbage: neither while it is imported, nor in each test."""
    with swiftly():
        return (yield)


@pytest.fixture(autouse=True)
def golden_messages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tell `messages.raises` which test runs."""
    if not messages.SESSION:
        rewrite = request.config.getoption("--rewrite-messages")
        messages.SESSION.append(
            messages.Messages(messages.GOLDEN, tmp_path_factory.getbasetemp(), rewrite=rewrite)
        )
    messages.SESSION[0].start(request.node.nodeid)


def pytest_sessionfinish() -> None:
    for session in messages.SESSION:
        if session.rewrite:
            session.save()


def use_cache_of_its_own(factory: pytest.TempPathFactory, profiles: Path, patch: pytest.MonkeyPatch) -> None:
    """An empty cache, but for the traces of training steps: the key of a trace is all that it depends on."""
    home = factory.getbasetemp() / f"home-{next(HOMES)}"  # mktemp looks through all folders for a number
    (home / "limner").mkdir(parents=True)
    patch.setenv("LIMNER_CACHE", str(home / "cache"))
    patch.setenv("XDG_CACHE_HOME", str(home))
    (home / "limner" / "profiles").symlink_to(profiles, target_is_directory=True)


@pytest.fixture(scope="session", autouse=True)
def known_profiles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Traces that all tests share, and a cache for the fixtures that several tests share."""
    folder = shared_folder(tmp_path_factory, "profiles")
    with pytest.MonkeyPatch.context() as patch:
        use_cache_of_its_own(tmp_path_factory, folder, patch)
        yield folder


@pytest.fixture(autouse=True)
def own_cache(
    tmp_path_factory: pytest.TempPathFactory, known_profiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keep every test's frozen values and fingerprints out of the user's home.

    A test that replaces what traces a step has an XDG_CACHE_HOME of its own besides.
    """
    use_cache_of_its_own(tmp_path_factory, known_profiles, monkeypatch)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random FLUX pipeline of a few thousand weights, in diffusers layout."""
    from tiny import save_flux

    return save_flux(tmp_path_factory.mktemp("bases") / "tiny-flux")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six small images of three shapes, with captions, one of them with two."""
    folder = tmp_path / "photos"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number, size in enumerate([(48, 48), (48, 48), (64, 40), (64, 40), (40, 64), (48, 48)]):
        noise = draw.integers(0, 255, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize(size).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(
            f"a thing number {number}\n" + ("another\n" if number == 0 else "")
        )
    return folder
