"""What the SDKs of remote servers have in common: how their errors are to be taken, where keys are from."""

import email.utils
import importlib
import ipaddress
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn
from urllib.parse import urlsplit

from limner.captions.client import ANSWER_AT_MOST, Declined, Retry, Unreachable, scrub
from limner.errors import BadProvider

PAUSE = {408, 409, 425, 429}
"""Status codes, besides those from 500, after which one may ask again."""
BYTES_AT_MOST = 16 * ANSWER_AT_MOST
"""Of a whole response."""
STREAM_AT_MOST = 64 * BYTES_AT_MOST
"""Of one that is read as it is written: a frame of JSON around each token, those of reasoning too."""
ODD_ANSWER = (AttributeError, TypeError, LookupError, AssertionError, RuntimeError)
"""What the SDKs raise for an answer of a form that they do not know: they check none of its fields."""


def host_of(url: str) -> str:
    """Host and port of an address, without user and password: what may be shown."""
    parts = urlsplit(url)
    return f"{parts.hostname or ''}:{parts.port}" if parts.port else parts.hostname or ""


def is_loopback(url: str) -> bool:
    """Whether an address is this machine, by its name or number."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def http_client(sdk: Any, url: str) -> Any:
    """The HTTP client for an SDK. What goes to this machine passes no proxy; answers come as they are.

    Args:
        sdk: The module ``openai`` or ``anthropic``.
        url: The address; empty: the SDK's own.
    """
    hooks = {"response": [refuse_endless]}
    headers = {"Accept-Encoding": "identity"}
    if not is_loopback(url):
        return sdk.DefaultHttpxClient(event_hooks=hooks, headers=headers)
    direct = dict.fromkeys(
        ("all://", "http://", "https://")
    )  # Anthropic's reads the environment all the same
    return sdk.DefaultHttpxClient(event_hooks=hooks, headers=headers, trust_env=False, mounts=direct)


def member(value: Any, name: str) -> Any:
    """A field of an answer, whether the SDK made an object of it or left it a mapping; None: not there."""
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def text_of(content: Any) -> str:
    """The text of a message: a string, or the texts in a list of parts; empty where there is none."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = (part if isinstance(part, str) else member(part, "text") for part in parts)
    return "".join(text for text in texts if isinstance(text, str))


def count_of(value: Any) -> int:
    """A number of tokens; 0 where a server gives none, or something else."""
    if isinstance(value, str) and value.isdecimal():
        return int(value[:12])
    return value if type(value) is int and value > 0 else 0


def describe_destination(service: str, url: str) -> str:
    """Where images go, for people; says so when it is this machine."""
    host = host_of(url)
    note = ", this machine" if is_loopback(url) else ""
    return f"{service} at {host}{note}"


def key_in(variable: str) -> str:
    """The key in an environment variable.

    Raises:
        BadProvider: The variable is not set.
    """
    key = os.environ.get(variable, "").strip()
    if not key:
        raise BadProvider(f"--key-env is {variable}, and no such variable is set. Run: export {variable}=...")
    return sound_key(key, variable)


def sound_key(key: str, variable: str) -> str:
    """The key itself.

    Raises:
        BadProvider: It has a space, a line break, or a letter that no key has, such as a curly quote.
    """
    odd = next((letter for letter in key if not "!" <= letter <= "~"), None)
    if odd is not None:
        raise BadProvider(
            f"The key in {variable} has the character U+{ord(odd):04X}, which no key has. Copy it again."
        )
    return key


def pause_of(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait that a response asks for: retry-after-ms, or retry-after in seconds or as a date."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        return max(0.0, seconds) if seconds == seconds else None
    date = email.utils.parsedate_tz(headers.get("retry-after"))
    return None if date is None else max(0.0, email.utils.mktime_tz(date) - time.time())


def by_status(error: Any, remedy: str, *secrets: str | None) -> NoReturn:
    """Raise what an ``APIStatusError`` of either SDK means.

    Args:
        error: The error: status_code, response, message.
        remedy: What to do about a key or a model that is wrong.
        secrets: What may not be repeated.

    Raises:
        Retry: Busy, or broken for a moment.
        BadProvider: Key, account, model or address are wrong.
        Declined: Anything else: this question is not taken.
    """
    status: int = error.status_code
    reason = scrub(_message(error), *secrets)
    if status in (401, 402, 403, 404) or _broke(error):
        raise BadProvider(f"The server refused ({status}): {reason or 'no reason given'}. {remedy}") from None
    if (status in PAUSE or status >= 500) and error.response.headers.get("x-should-retry") != "false":
        busy = status in (429, 503, 529)
        event = "is busy" if busy else "failed"
        raise Retry(
            f"the server {event} ({status})", after=pause_of(error.response.headers), everyone=busy
        ) from None
    raise Declined(f"the server did not take the question ({status}): {reason}") from None


def by_connection(error: Exception, host: str, timeout: float, *, timed_out: bool) -> NoReturn:
    """Raise what a connection that failed means."""
    if timed_out:
        raise Retry(f"{host} gave no answer in {timeout:g} s") from None
    cause = error.__cause__ or error
    raise Unreachable(f"{host} cannot be reached: {scrub(str(cause)) or type(cause).__name__}") from None


def broken_lines(sdk: Any) -> type[Exception]:
    """What the HTTP library under an SDK raises while an answer is read, which the SDK lets through."""
    library = sdk.DefaultHttpxClient.__bases__[0].__module__.partition(".")[0]
    return importlib.import_module(library).HTTPError


def refuse_endless(response: Any) -> None:
    """A hook of the HTTP client: do not read an answer that is far larger than captions can be.

    A compressed one, which was not asked for, would only show its size once it has filled the memory.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        response.close()
        raise Declined(f"the answer is compressed ({encoding[:20]}), which was not asked for")
    size = response.headers.get("content-length", "")
    if size.isdecimal() and int(size) > BYTES_AT_MOST:
        response.close()
        raise Declined(f"the answer has {size} bytes; at most {BYTES_AT_MOST} are read")
    is_stream = response.headers.get("content-type", "").startswith("text/event-stream")
    response.stream = _limited(response.stream, STREAM_AT_MOST if is_stream else BYTES_AT_MOST)


def _limited(stream: Any, limit: int) -> Any:
    """The body of a response, which breaks off where it is longer than any answer: chunks name no size."""
    library = importlib.import_module(type(stream).__module__.partition(".")[0])

    class Limited(library.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for chunk in stream:
                size += len(chunk)
                if size > limit:
                    raise Declined(f"the answer has more than {limit} bytes, which is all that is read")
                yield chunk

        def close(self) -> None:
            stream.close()

    return Limited()


def _message(error: Any) -> str:
    body = error.body
    if isinstance(body, dict):
        inner = body.get("error", body)
        message = inner.get("message") if isinstance(inner, dict) else inner
        return str(message or "")
    return str(body or "")


def _broke(error: Any) -> bool:
    """Whether a 429 says that the account is empty, which waiting does not mend."""
    body = error.body if isinstance(error.body, dict) else {}
    inner = body.get("error", body)
    return isinstance(inner, dict) and "insufficient_quota" in (inner.get("code"), inner.get("type"))
