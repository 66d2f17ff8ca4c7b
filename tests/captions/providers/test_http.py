import email.utils
import importlib
import time
from types import SimpleNamespace

import pytest

from limner.captions.client import Declined, Retry, Unreachable
from limner.captions.providers.http import (
    BYTES_AT_MOST,
    broken_lines,
    by_connection,
    by_status,
    describe_destination,
    host_of,
    is_loopback,
    key_in,
    pause_of,
    refuse_endless,
)
from limner.errors import BadProvider
from messages import raises


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": email.utils.formatdate(0, usegmt=True)}, 0.0),
    ],
)
def test_pauses_are_read_from_headers(headers, seconds):
    assert pause_of(headers) == seconds


def test_a_pause_can_be_a_date():
    date = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert 55 < (pause_of({"retry-after": date}) or 0) <= 60


def failed(status, body=None, **headers):
    response = SimpleNamespace(headers={name.replace("_", "-"): value for name, value in headers.items()})
    return SimpleNamespace(status_code=status, response=response, body=body)


@pytest.mark.parametrize(
    ("error", "kind", "match"),
    [
        (failed(401, {"error": {"message": "bad key"}}), BadProvider, "refused .401.: bad key. Do this"),
        (failed(402), BadProvider, "refused .402.: no reason given"),
        (failed(429, {"error": {"type": "insufficient_quota"}}), BadProvider, "refused .429."),
        (failed(429), Retry, "is busy .429."),
        (failed(529), Retry, "is busy .529."),
        (failed(500), Retry, "failed .500."),
        (failed(408), Retry, "failed .408."),
        (failed(500, x_should_retry="false"), Declined, "did not take the question .500."),
        (failed(400, {"error": "odd"}), Declined, "did not take the question .400.: odd"),
        (failed(413, "<html>too large</html>"), Declined, "too large"),
    ],
)
def test_a_status_has_a_meaning(error, kind, match):
    with pytest.raises(kind, match=match) as caught:
        by_status(error, "Do this.")
    assert getattr(caught.value, "everyone", False) == (error.status_code in (429, 529) and kind is Retry)


def test_connections_fail_in_two_ways():
    with pytest.raises(Retry, match="host gave no answer in 5 s"):
        by_connection(OSError(), "host", 5.0, timed_out=True)
    with pytest.raises(Unreachable, match="host cannot be reached: refused"):
        by_connection(OSError("refused"), "host", 5.0, timed_out=False)


def test_addresses_are_shown_without_secrets():
    assert host_of("http://me:secret@box:8000/v1") == "box:8000"
    assert describe_destination("OpenAI", "https://api.openai.com/v1/") == "OpenAI at api.openai.com"
    assert (
        describe_destination("a server", "http://localhost:1234/v1")
        == "a server at localhost:1234, this machine"
    )


def test_keys_are_named_by_their_variable(monkeypatch):
    monkeypatch.setenv("MY_KEY", " abc\n")
    assert key_in("MY_KEY") == "abc"
    monkeypatch.setenv("MY_KEY", "")
    with raises(BadProvider):
        key_in("MY_KEY")


@pytest.mark.parametrize("name", ["anthropic", "openai"])
def test_the_library_under_an_sdk_is_known(name):
    assert broken_lines(importlib.import_module(name)).__module__.startswith("httpx")


@pytest.mark.parametrize("encoding", ["gzip", "br", " Deflate", "zstd"])
def test_a_compressed_answer_is_not_unpacked(encoding):
    closed = []
    response = SimpleNamespace(headers={"content-encoding": encoding}, close=lambda: closed.append(1))
    with pytest.raises(Declined, match="compressed"):
        refuse_endless(response)
    assert closed


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://localhost:8000/v1", True),
        ("http://127.0.0.1", True),
        ("http://127.5.6.7:1/", True),
        ("http://[::1]:80", True),
        ("http://box", False),
        ("http://192.168.0.2", False),
        ("http://localhost.evil.com", False),
        ("", False),
    ],
)
def test_this_machine_is_known_by_its_names_and_numbers(url, here):
    assert is_loopback(url) is here


def test_an_answer_in_endless_chunks_is_broken_off():
    sdk = importlib.import_module("openai")
    library = importlib.import_module(sdk.DefaultHttpxClient.__bases__[0].__module__.partition(".")[0])
    chunks = []

    def endless():
        while True:
            chunks.append(65536)
            yield b"x" * 65536

    transport = library.MockTransport(lambda request: library.Response(200, content=endless()))
    with (
        library.Client(transport=transport, event_hooks={"response": [refuse_endless]}) as client,
        pytest.raises(Declined, match=f"more than {BYTES_AT_MOST} bytes"),
    ):
        client.get("http://box/")
    assert sum(chunks) <= BYTES_AT_MOST + 2 * 65536
    plain = {"content-encoding": "identity"}
    fine = library.MockTransport(
        lambda request: library.Response(200, headers=plain, content=iter([b"a", b"b"]))
    )
    with library.Client(transport=fine, event_hooks={"response": [refuse_endless]}) as client:
        assert client.get("http://box/").content == b"ab"
