import pytest

from limner.captions.catalog import PROVIDERS
from limner.captions.client import Declined, Request, Retry
from limner.captions.providers import Options, provider
from limner.errors import BadProvider, BadUsage
from scribe import KEY, Raw, Say, answers, serving


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
