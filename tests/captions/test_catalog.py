import importlib.util
import sys
from types import ModuleType

import pytest

from limner.captions import catalog
from limner.captions.catalog import ALIASES, PROVIDERS, ProviderRecord, provider_record
from limner.captions.client import Reply
from limner.captions.price import Price, price_of
from limner.doctor import doctor
from limner.errors import BadUsage
from messages import raises
from scribe import captions

ECHO = ProviderRecord(
    name="echo",
    title="an echo",
    module="echo_captioner",
    package="echo-sdk",
    extra="echo",
    prices={"echo-1": (2.0, 4.0)},
)


class Echo:
    name, model, destination, parallel, reads_sets, takes = (
        "echo",
        "echo-1",
        "Echo (echo.example)",
        1,
        False,
        "json",
    )

    def ask(self, request) -> Reply:
        return Reply(text=captions("a red square").text, model=self.model, tokens_in=10, tokens_out=5)

    def close(self) -> None:
        pass


def test_each_is_found_by_its_name_and_by_its_alias():
    assert all(provider_record(name) is record and record.name == name for name, record in PROVIDERS.items())
    assert all(provider_record(alias) is PROVIDERS[name] for alias, name in ALIASES.items())
    with raises(BadUsage):
        provider_record("nobody")


def test_each_has_its_module_without_importing_it():
    for record in PROVIDERS.values():
        assert importlib.util.find_spec(record.module, "limner.captions.providers") is not None
        assert bool(record.package) == bool(record.extra)


def test_a_package_is_told_of_once():
    uses = catalog.optional_packages()
    assert uses["openai"] == ("caption", "limner caption --with openai, and servers like it")
    assert uses["anthropic"] == ("caption", "limner caption --with claude")


def test_one_that_is_added_to_the_table_alone_writes_captions(tmp_path, photos, monkeypatch, capsys):
    from limner.cli import main

    for caption in photos.glob("*.txt"):
        caption.unlink()
    monkeypatch.setitem(PROVIDERS, "echo", ECHO)
    module = ModuleType("echo_captioner")
    monkeypatch.setattr(module, "provider", lambda options: Echo(), raising=False)
    monkeypatch.setitem(sys.modules, "echo_captioner", module)
    monkeypatch.setattr(sys, "argv", ["limner", "caption", str(photos), "--with", "echo", "--no-consistency"])
    with pytest.raises(SystemExit) as ending:
        main()
    shown = capsys.readouterr()
    assert ending.value.code == 0, shown.err
    assert {path.read_text() for path in photos.glob("*.txt")} == {"a red square\n"}
    assert "Echo (echo.example)" in shown.err
    assert price_of("echo-1") == Price(2.0, 4.0) and "tokens read" in shown.out
    (finding,) = [finding for finding in doctor() if finding.name == "echo-sdk"]
    assert finding.remedy == 'pip install "limner[echo]"' and "limner caption --with echo" in finding.detail
