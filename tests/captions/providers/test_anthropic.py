import pytest

from limner.captions.client import Request, Retry
from limner.captions.prompt_image import PromptImage
from limner.captions.providers import Options, provider
from limner.errors import BadProvider
from scribe import KEY, Raw, Say, Status, answers, serving


@pytest.fixture
def claude(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    made = []

    def make(**more):
        made.append(provider(Options(**{"name": "anthropic", "timeout": 60.0, **more})))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_images_are_labelled_where_there_are_several(claude):
    pictures = (PromptImage(b"1", 1, 1), PromptImage(b"2", 1, 1))
    with serving(answers(Say("so"))) as scribe:
        one = claude(url=scribe.url)
        reply = one.ask(Request(system="s", text="t", images=pictures, labels=("A:", "B:"), tokens=7))
    body = scribe.requests[0].body
    kinds = [part["type"] for part in body["messages"][0]["content"]]
    assert kinds == ["text", "image", "text", "image", "text"]
    assert (body["system"], body["max_tokens"], "output_config" in body) == ("s", 7, False)
    assert (reply.text, reply.tokens_in, reply.tokens_out, reply.cut) == ("so", 100, 20, False)


def test_it_goes_to_anthropic_unless_told_otherwise(claude):
    one = claude()
    assert (one.destination, one.name) == ("Anthropic at api.anthropic.com", "claude")


def test_a_stream_that_breaks_off_is_no_answer(claude):
    start = (
        b'event: message_start\ndata: {"type": "message_start", "message": {"id": "m", "type": "message", '
    )
    rest = b'"role": "assistant", "model": "m", "content": [], "usage": {"output_tokens": 1}}}\n\n'
    with serving(answers(Raw(start + rest, "text/event-stream"))) as scribe:
        one = claude(url=scribe.url, stream=True)
        with pytest.raises(Retry, match="broke off its answer"):
            one.ask(Request(system="", text="t"))


def test_a_broken_configuration_is_told(claude, monkeypatch, tmp_path):
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(BadProvider, match="configuration is broken: .*Mend it, or set ANTHROPIC_API_KEY"):
        claude()


def test_a_server_without_schemas_is_asked_without_one_from_then_on(claude):
    def script(asked, number):
        return (
            Status(400, "output_config: Extra inputs are not permitted")
            if "output_config" in asked.body
            else Say("so")
        )

    with serving(script) as scribe:
        one = claude(url=scribe.url)
        request = Request(system="s", text="t", schema={"type": "object"})
        with pytest.raises(Retry, match="no schema") as caught:
            one.ask(request)
        assert caught.value.after == 0
        assert [one.ask(request).text, one.ask(request).text] == ["so", "so"]
    assert len(scribe.requests) == 3


def test_this_machine_is_never_asked_through_a_proxy(claude, monkeypatch):
    with serving(answers(Say("by the proxy"))) as proxy, serving(answers(Say("here"))) as scribe:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert claude(url=scribe.url).ask(Request(system="", text="t")).text == "here"
    assert not proxy.requests
