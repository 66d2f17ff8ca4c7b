"""Asking: what goes to a captioner, what comes back, and how long one is patient with it."""

import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from limner.captions.prompt_image import PromptImage
from limner.errors import BadProvider

ANSWER_AT_MOST = 100_000
"""Characters. What is longer is not read to its end."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question."""

    system: str
    """Who is asked to do what; the same for every image of a set."""
    text: str
    images: tuple[PromptImage, ...] = ()
    labels: tuple[str, ...] = ()
    """What is said before each picture; nothing where there is one."""
    schema: dict[str, Any] = field(default_factory=dict)
    """JSON schema of the answer, for servers that can hold a model to it."""
    tokens: int = 1024
    """At most so many in the answer."""

    def parts(self) -> list[str | PromptImage]:
        """Pictures with their labels, then the text, as they are shown."""
        content: list[str | PromptImage] = []
        for number, image in enumerate(self.images):
            content += [self.labels[number], image] if self.labels else [image]
        return [*content, self.text]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer."""

    text: str
    model: str
    """As the server names it."""
    tokens_in: int = 0
    tokens_out: int = 0
    cut: bool = False
    """It ended because it had no tokens left."""
    refusal: str = ""
    """Why the server or the model would not answer, where it says so outside of the text."""


class Retry(Exception):
    """Not now: worth asking again."""

    def __init__(self, reason: str, *, after: float | None = None, everyone: bool = False) -> None:
        """Say why, after how many seconds if that was said, and whether it holds for all questions."""
        super().__init__(reason)
        self.after = after
        self.everyone = everyone


NOTICED = 3.0
"""Seconds of a pause from which on it is told."""


class Unreachable(Retry):
    """Nobody there. Still so after all tries, it ends the work: no image would fare better."""


class Declined(Exception):
    """This question is not answered; another may be."""


Takes = Literal["json", "text", "nothing"]


class Provider(Protocol):
    """Who writes captions. One small file each, see ``providers``."""

    name: str
    model: str
    destination: str
    """Where the images go, for the privacy line: "Anthropic (api.anthropic.com)"; empty: nowhere."""
    parallel: int
    """Questions that it takes at once."""
    reads_sets: bool
    """Whether it can read a whole set at once and answer in JSON, as the set pass needs."""
    takes: Takes
    """What it can be told: to answer in JSON; to describe, in text that is the caption itself (JSON for
    several variants); nothing, as captioners and taggers that know one task."""

    def ask(self, request: Request) -> Reply:
        """Answer one question.

        Raises:
            Retry: Try again later.
            Declined: Not this one.
            BadProvider: Key, model or address are wrong; nothing will be answered.
        """
        ...

    def close(self) -> None:
        """Let go of connections and memory."""
        ...


@dataclass
class Patience:
    """How often and how long to try. One for all threads: who is told to wait makes all of them wait."""

    tries: int = 6
    first: float = 1.0
    """Seconds before the second try; then twice as long each time, give or take a quarter."""
    longest: float = 300.0
    """Seconds. A server that wants more is given up."""
    sleep: Callable[[float], object] = time.sleep
    tell: Callable[[str], object] = lambda line: None
    """Hears of pauses that a person would notice, of several threads' at once only once."""
    wait_seconds: float = 0.0
    """Seconds that questions waited, in all."""
    _open_at: float = 0.0
    _quiet_until: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, provider: Provider, request: Request) -> Reply:
        """Ask until there is an answer.

        Raises:
            Declined: There will be none for this question.
            BadProvider: There will be none for any.
        """
        for attempt in range(1, self.tries + 1):
            self._wait(self._open_at - time.monotonic())
            try:
                return provider.ask(request)
            except Retry as reason:
                pause = self.first * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
                pause = min(pause, self.longest) if reason.after is None else reason.after
                if attempt == self.tries or pause > self.longest:
                    raise _given_up(reason, attempt, too_long=pause > self.longest) from None
                self._tell_pause(reason, pause)
                if reason.everyone:
                    with self._lock:
                        self._open_at = max(self._open_at, time.monotonic() + pause)
                else:
                    self._wait(pause)
        raise AssertionError("the last try returns or raises")

    def _tell_pause(self, reason: Retry, pause: float) -> None:
        now = time.monotonic()
        with self._lock:
            if pause < NOTICED or now < self._quiet_until:
                return
            self._quiet_until = now + pause
        self.tell(f"Waiting {pause:.0f} s: {reason}.")

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            with self._lock:
                self.wait_seconds += seconds
            self.sleep(seconds)


def _given_up(reason: Retry, tries: int, *, too_long: bool) -> Exception:
    if too_long:
        wait = f"it asks to wait {reason.after:.0f} s. Run the same command again then"
        return Declined(f"{reason}; {wait}")
    if isinstance(reason, Unreachable):
        return BadProvider(f"{reason} ({tries} tries). Check the address and the network, then run again.")
    return Declined(f"{reason} ({tries} tries)")


_SECRETS = re.compile(
    r"\b(?:sk|pk|key|api)[-_][\w*.-]{6,}|(?<=Bearer )\S+|(?<=//)[^/@\s]+@|\beyJ[\w-]{10,}[\w.-]*",
    re.IGNORECASE,
)


def scrub(text: str, *secrets: str | None) -> str:
    """A server's words in one short line, without keys: those that are known, and what looks like one."""
    for secret in secrets:
        if secret and len(secret) >= 4:
            text = text.replace(secret, "[key]")
    return " ".join(_SECRETS.sub("[key]", text).split())[:240]
