import pytest

from limner.captions.catalog import PROVIDERS
from limner.captions.client import Declined, Request, Retry
from limner.captions.providers import Options, provider
from limner.errors import BadProvider, BadUsage
from scribe import KEY, Raw, Say, Status, answers, serving


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = []

    def make(**more):
        made.append(provider(Options(**{"name": "openai", "timeout": 60.0, **more})))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_openai_is_asked_with_its_own_names(server):
    one = server()
    assert one.destination == "OpenAI at api.openai.com"
    assert one.model == "gpt-6.1-terra"


def test_servers_have_their_usual_addresses(server, monkeypatch):
    for name, port in (("ollama", 11434), ("lmstudio", 1234), ("vllm", 8000), ("llamacpp", 8080)):
        one = server(name=name, model="m")
        assert one.destination == f"a server at localhost:{port}, this machine"
        assert PROVIDERS[name].url.endswith(f":{port}/v1")
    with serving(answers(Say("so"))) as scribe:
        monkeypatch.setenv("VLLM_API_KEY", "its-own-key")
        server(name="vllm", url=f"{scribe.url}/v1").ask(Request(system="", text="t"))
        server(name="llamacpp", url=f"{scribe.url}/v1").ask(Request(system="", text="t"))
    sent = [asked.headers["authorization"] for asked in scribe.requests]
    assert sent == ["Bearer its-own-key", "Bearer none"]


def test_the_address_of_the_environment_gets_the_key_of_the_environment(server, monkeypatch):
    with serving(answers(Say("so"))) as scribe:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{scribe.url}/v1")
        server(model="m").ask(Request(system="", text="t"))
    assert scribe.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_a_stream_that_breaks_off_is_no_answer(server):
    with serving(answers(Raw(b"data: [DONE]\n\n", "text/event-stream"))) as scribe:
        one = server(url=f"{scribe.url}/v1", stream=True)
        with pytest.raises(Retry, match="broke off its answer"):
            one.ask(Request(system="", text="t"))


def test_an_endless_answer_is_cut(server):
    with serving(answers(Say("x" * 300_000))) as scribe:
        reply = server(url=f"{scribe.url}/v1", stream=True).ask(Request(system="", text="t"))
        assert reply.cut
        scribe.script = answers(Say("x" * 2_000_000))
        with pytest.raises(Declined, match="the answer has 2000... bytes"):
            server(url=f"{scribe.url}/v1").ask(Request(system="", text="t"))


def test_wrong_addresses_and_keys_are_told(server, monkeypatch):
    with pytest.raises(BadUsage, match="--url is .* begin with http"):
        server(url="ftp://box")
    with serving(answers(), models=()) as scribe, pytest.raises(BadProvider, match="It has none. Name one"):
        server(url=f"{scribe.url}/v1")
    with pytest.raises(BadProvider, match="cannot be reached: .*which models it has: start the server"):
        server(url=f"{scribe.url}/v1")  # it is down by now, as a server is that nobody has started
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(BadProvider, match="no key for OpenAI"):
        server()


def refusing(*words):
    """A script that refuses questions whose body has a word, with a message that names it."""

    def script(asked, number):
        text = str(asked.body)
        word = next((word for word in words if f"'{word}'" in text), None)
        return Say("so") if word is None else Status(400, f"unknown value: {word}")

    return script


def ask_until_taken(one):
    """Ask as `Patience` does: again after a `Retry` that need not wait."""
    for _ in range(5):
        try:
            return one.ask(Request(system="be brief", text="t", schema={"type": "object"}))
        except Retry as reason:
            assert reason.after == 0
    raise AssertionError("the server was never asked as it wants")


@pytest.mark.parametrize(
    ("words", "gone"),
    [
        (("max_tokens",), ["max_tokens"]),
        (("json_schema",), ["response_format"]),
        (("max_tokens", "json_schema", "system"), ["max_tokens", "response_format"]),
    ],
)
def test_what_a_server_does_not_know_is_left_away_from_then_on(server, words, gone):
    with serving(refusing(*words)) as scribe:
        one = server(url=f"{scribe.url}/v1", model="m")
        assert ask_until_taken(one).text == "so"
        assert len(scribe.requests) == 1 + len(words)
        assert one.ask(Request(system="be brief", text="t", schema={"type": "object"})).text == "so"
    last = scribe.requests[-1]
    assert not set(gone) & last.body.keys() and "be brief" in last.text
    assert len(scribe.requests) == 2 + len(words), "what was found to work is kept"


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_this_machine_is_never_asked_through_a_proxy(server, monkeypatch, name):
    with serving(answers(Say("by the proxy"))) as proxy, serving(answers(Say("here"))) as scribe:
        monkeypatch.setenv(name, proxy.url)
        assert server(url=f"{scribe.url}/v1", model="m").ask(Request(system="", text="t")).text == "here"
    assert not proxy.requests


def test_a_user_and_password_are_never_shown(server):
    for url in ("me:secret@box:80", "ftp://me:secret@box"):
        with pytest.raises(BadUsage) as caught:
            server(url=url)
        assert "secret" not in str(caught.value) and "box" in str(caught.value)


def test_keys_that_cannot_be_are_told_at_once(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "\u201csk-1234\u201d")
    with pytest.raises(BadProvider, match=r"MY_KEY has the character U\+201C.* Copy it again"):
        server(url="http://127.0.0.1:9/v1", key_env="MY_KEY", model="m")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-12\n34")
    with pytest.raises(BadProvider, match=r"OPENAI_API_KEY has the character U\+000A"):
        server(model="m")
