import pytest

from limner.captions.client import Declined, Patience, Reply, Request, Retry, Unreachable, scrub
from limner.captions.prompt_image import PromptImage
from limner.errors import BadProvider
from messages import raises
from scribe import KEY

REQUEST = Request(system="", text="what?")


class Moody:
    """Raises what it is told to, then answers."""

    name = model = destination = "moody"
    parallel, several, takes = 1, False, "json"

    def __init__(self, *moods):
        self.moods = list(moods)

    def ask(self, request):
        if self.moods:
            raise self.moods.pop(0)
        return Reply(text="so", model="moody")

    def close(self):
        pass


def patience(**more):
    slept = []
    return Patience(sleep=slept.append, **more), slept


def test_pauses_grow_and_vary_by_a_quarter():
    one, slept = patience(tries=5)
    assert one.ask(Moody(*[Retry("busy") for _ in range(4)]), REQUEST).text == "so"
    for pause, middle in zip(slept, (1, 2, 4, 8), strict=True):
        assert 0.75 * middle <= pause <= 1.25 * middle


def test_what_the_server_says_is_kept_to():
    one, slept = patience()
    one.ask(Moody(Retry("busy", after=7.5), Retry("busy", after=0)), REQUEST)
    assert slept == [7.5]


def test_all_wait_when_one_is_told_to():
    one, slept = patience()
    with pytest.raises(Declined, match=r"busy \(2 tries\)"):
        Patience(tries=2, sleep=lambda _: None).ask(Moody(*[Retry("busy", after=0)] * 2), REQUEST)
    one.ask(Moody(Retry("busy", after=300, everyone=True)), REQUEST)
    one.ask(Moody(), REQUEST)
    assert len(slept) == 2  # the sleep is not real, so the gate is still closed
    assert all(200 < pause <= 300 for pause in slept)


def test_patience_ends():
    one, slept = patience(tries=3)
    with pytest.raises(Declined, match="broken .3 tries."):
        one.ask(Moody(*[Retry("broken")] * 3), REQUEST)
    with pytest.raises(Declined, match="asks to wait 3600 s. Run the same command again then"):
        one.ask(Moody(Retry("busy", after=3600)), REQUEST)
    with raises(BadProvider):
        one.ask(Moody(*[Unreachable("nobody there")] * 3), REQUEST)
    assert len(slept) == 4


def test_other_errors_pass():
    one, slept = patience()
    with pytest.raises(Declined, match="no"):
        one.ask(Moody(Declined("no")), REQUEST)
    assert not slept


@pytest.mark.parametrize(
    "text",
    [
        f"Incorrect key {KEY}",
        "Incorrect API key provided: sk-abc*****wxyz.",
        "Authorization: Bearer abcdef",
        "http://me:secret-word@host/v1 said no",
        "token eyJhbGciOiJIUzI1NiJ9.payload.sign",
    ],
)
def test_keys_are_taken_out_of_what_servers_say(text):
    clean = scrub(text)
    assert "[key]" in clean
    for secret in (KEY, "abc*", "abcdef", "secret", "payload"):
        assert secret not in clean


def test_known_keys_go_whatever_they_look_like():
    assert scrub("your key hunter22 is bad", "hunter22", None, "") == "your key [key] is bad"
    assert len(scrub("x" * 1000)) == 240


def test_pictures_come_with_their_labels_before_the_text():
    one, two = PromptImage(b"1", 1, 1), PromptImage(b"2", 1, 1)
    assert Request(system="", text="t", images=(one,)).parts() == [one, "t"]
    labelled = Request(system="", text="t", images=(one, two), labels=("Image 1:", "Image 2:"))
    assert labelled.parts() == ["Image 1:", one, "Image 2:", two, "t"]


def test_waiting_is_told_once_for_all_threads_and_short_pauses_are_not():
    lines: list[str] = []
    patience = Patience(sleep=lambda _: None, tell=lines.append)
    busy = Retry("the server is busy (429)", after=20, everyone=True)
    patience.ask(Moody(busy, busy), REQUEST)
    patience.ask(Moody(Retry("it broke off", after=0)), REQUEST)
    assert lines == ["Waiting 20 s: the server is busy (429)."]
