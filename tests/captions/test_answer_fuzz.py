"""No answer of a server, however odd, ends in anything but a reply or one of our own errors."""

import copy
import json
import random
from contextlib import closing

import pytest

from limner.captions.client import Declined, Reply, Request, Retry
from limner.captions.providers import provider
from limner.errors import BadProvider
from scribe import KEY, Raw, Say, answers, chunk_events, completion, message, message_events, serving
from writing import PROTOCOLS, options

ODD = [
    None,
    0,
    -3,
    "x",
    "12",
    "",
    True,
    1.5,
    [],
    {},
    [None],
    ["a"],
    {"a": 1},
    [{"type": "text", "text": "hi"}],
]
GOOD = Say('{"captions": ["a cat"]}', refusal="")


def places(value, path=()):
    """Every path into nested JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def mutated(value, draw):
    """A copy in which one to three members are of another kind, or gone."""
    value = copy.deepcopy(value)
    for _ in range(draw.randint(1, 3)):
        paths = list(places(value))
        if not paths:
            break
        *inner, last = draw.choice(paths)
        parent = value
        for key in inner:
            parent = parent[key]
        if draw.random() < 0.25:
            del parent[last]
        else:
            parent[last] = copy.deepcopy(draw.choice(ODD))
    return value


def body(name, stream, draw):
    """A mutated answer in the protocol's form."""
    if not stream:
        whole = message(GOOD) if name == "claude" else completion(GOOD)
        return Raw(json.dumps(mutated(whole, draw) if draw.random() < 0.95 else draw.choice(ODD)).encode())
    events = []
    for event in (message_events if name == "claude" else chunk_events)(GOOD):
        head, _, data = event.partition("data: ")
        if draw.random() < 0.3 and data.strip() != "[DONE]":
            data = json.dumps(mutated(json.loads(data), draw)) + "\n\n"
        if draw.random() < 0.95:
            events.append(f"{head}data: {data}")
    return Raw("".join(events).encode(), "text/event-stream")


def asked_once(scribe):
    with closing(provider(options(scribe, model="m"))) as captioner:
        return captioner.ask(Request(system="", text="t"))


def outcomes(name, stream, count, seed):
    """What becomes of each of ``count`` mutated answers; the good one at the end is read."""
    draw, kinds = random.Random(seed), []
    bodies = [body(name, stream, draw) for _ in range(count)]
    with serving(answers(*bodies, GOOD)) as scribe:
        captioner = provider(options(scribe, name, model="m", stream=stream))
        for _ in bodies:
            try:
                reply = captioner.ask(Request(system="s", text="t", schema={"type": "object"}))
            except (Retry, Declined, BadProvider) as error:
                kinds.append(type(error))
            else:
                assert isinstance(reply.text, str) and isinstance(reply.model, str) and reply.tokens_in >= 0
                kinds.append(Reply)
        assert captioner.ask(Request(system="s", text="t")).text == GOOD.text
        captioner.close()
    return kinds


# Anthropic's SDK copies what it has of a stream, and pydantic notes fields of other types.
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("LIMNER_TEST_KEY", KEY)


@pytest.mark.parametrize(("name", "stream"), PROTOCOLS)
def test_odd_answers_are_read_or_refused(name, stream):
    assert {Reply, Retry} <= set(outcomes(name, stream, 40, seed=1))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stream"), PROTOCOLS)
def test_hundreds_of_odd_answers_are_read_or_refused(name, stream):
    assert {Reply, Retry} <= set(outcomes(name, stream, 120, seed=2))


@pytest.mark.parametrize(
    ("change", "text", "tokens"),
    [
        ({"content": [{"type": "text", "text": "a "}, {"type": "text", "text": "cat"}]}, "a cat", (100, 20)),
        ({"content": None}, "", (100, 20)),
        ({"content": {"a": 1}}, "", (100, 20)),
    ],
)
def test_content_in_parts_is_joined(change, text, tokens):
    whole = completion(GOOD)
    whole["choices"][0]["message"].update(change)
    with serving(answers(Raw(json.dumps(whole).encode()))) as scribe:
        reply = asked_once(scribe)
    assert (reply.text, (reply.tokens_in, reply.tokens_out)) == (text, tokens)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (None, (0, 0)),
        ({"prompt_tokens": "7", "completion_tokens": None}, (7, 0)),
        ("many", (0, 0)),
        ([3], (0, 0)),
    ],
)
def test_tokens_are_counted_as_far_as_they_are_numbers(usage, tokens):
    whole = completion(GOOD) | {"usage": usage}
    with serving(answers(Raw(json.dumps(whole).encode()))) as scribe:
        reply = asked_once(scribe)
    assert (reply.tokens_in, reply.tokens_out) == tokens and reply.text == GOOD.text
