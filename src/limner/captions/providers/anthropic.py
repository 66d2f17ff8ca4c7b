"""Claude, by Anthropic's SDK. The key is found as the SDK finds it: ANTHROPIC_API_KEY, or its own profile."""

import os
import re
from typing import Any
from urllib.parse import urlsplit

from limner.captions.client import ANSWER_AT_MOST, Declined, Provider, Reply, Request, Retry, Takes, scrub
from limner.captions.providers import Options, package
from limner.captions.providers.http import (
    ODD_ANSWER,
    broken_lines,
    by_connection,
    by_status,
    count_of,
    describe_destination,
    host_of,
    http_client,
    key_in,
    member,
    sound_key,
    text_of,
)
from limner.errors import BadProvider

OFFICIAL_HOST = "api.anthropic.com"
NO_KEY = "none"
"""What another server is sent. ANTHROPIC_API_KEY goes to Anthropic, or to the ANTHROPIC_BASE_URL."""
MODEL = "claude-sonnet-5-5"
REMEDY = "Check ANTHROPIC_API_KEY, and the model's name (--model)."


def provider(options: Options) -> Provider:
    """Claude.

    Raises:
        BadProvider: The package or the key is missing.
    """
    return Claude(package("anthropic", "Captions by Claude", "caption"), options)


class Claude:
    """The messages API, with structured output."""

    parallel = 4
    reads_sets = True
    takes: Takes = "json"

    def __init__(self, sdk: Any, options: Options) -> None:
        """Connect; nothing is sent yet."""
        self.name = "claude"
        self.model = options.model or MODEL
        self._sdk = sdk
        self._options = options
        self._schema = True
        credentials = {"api_key": key_in(options.key_env)} if options.key_env and options.sends else {}
        if options.url and not options.key_env and urlsplit(options.url).hostname != OFFICIAL_HOST:
            credentials = {"api_key": NO_KEY}
        if not options.sends:
            credentials = {"api_key": NO_KEY}
        endpoint = {"base_url": options.url} if options.url else {}
        sound_key(os.environ.get("ANTHROPIC_API_KEY", "").strip(), "ANTHROPIC_API_KEY")
        http = http_client(sdk, options.url or os.environ.get("ANTHROPIC_BASE_URL", ""))
        # Retries are ours, so that one thread that is told to wait holds the others back too.
        try:
            self._client = sdk.Anthropic(
                **credentials, **endpoint, max_retries=0, timeout=options.timeout, http_client=http
            )
        except sdk.AnthropicError as error:
            http.close()
            raise BadProvider(
                f"Anthropic's own configuration is broken: {scrub(str(error))}. "
                "Mend it, or set ANTHROPIC_API_KEY."
            ) from None
        if not (self._client.api_key or self._client.auth_token or self._client.credentials):
            self.close()
            raise BadProvider(
                "There is no key for Claude. Run: export ANTHROPIC_API_KEY=..., or name another variable "
                "with --key-env."
            )
        self._host = host_of(str(self._client.base_url))
        self.destination = describe_destination("Anthropic", str(self._client.base_url))

    def close(self) -> None:
        """See ``Provider``."""
        self._client.close()

    def ask(self, request: Request) -> Reply:
        """See ``Provider``."""
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/jpeg", "data": part.base64},
            }
            for part in request.parts()
        ]
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": request.tokens,
            "system": request.system,
            "messages": [{"role": "user", "content": content}],
        }
        if request.schema and self._schema:
            body["output_config"] = {"format": {"type": "json_schema", "schema": request.schema}}
        try:
            return self._reply(self._message(body))
        except Declined as error:
            if "output_config" not in body or not re.search(
                r"output_?config|schema|format|extra", str(error)
            ):
                raise
            self._schema = False  # the prompt asks for JSON as well, and every answer is checked
            raise Retry("the server takes no schema", after=0) from None

    def _message(self, body: dict[str, Any]) -> Any:
        try:
            return self._stream(body) if self._options.stream else self._client.messages.create(**body)
        except self._sdk.APIStatusError as error:
            by_status(error, REMEDY, self._client.api_key, self._client.auth_token)
        except self._sdk.APIConnectionError as error:
            timed_out = isinstance(error, self._sdk.APITimeoutError)
            by_connection(error, self._host, self._options.timeout, timed_out=timed_out)
        except (
            self._sdk.APIError,
            ValueError,
            *ODD_ANSWER,
            broken_lines(self._sdk),
        ) as error:  # a broken stream; JSON that is none; fields of other types
            raise Retry(f"{self._host} gave a broken answer ({type(error).__name__})") from None

    def _stream(self, body: dict[str, Any]) -> Any:
        with self._client.messages.stream(**body) as stream:
            size, last = 0, ""
            for event in stream:
                last = event.type
                size += len(event.text) if event.type == "text" else 0
                if size > ANSWER_AT_MOST:
                    return stream.current_message_snapshot
            if last != "message_stop":
                raise Retry(f"{self._host} broke off its answer")
            return stream.current_message_snapshot

    def _reply(self, message: Any) -> Reply:
        blocks = member(message, "content")
        if not isinstance(blocks, list):
            raise Retry(f"{self._host} gave an answer that is no message")
        text = text_of([block for block in blocks if member(block, "type") == "text"])
        usage, name, end = (member(message, key) for key in ("usage", "model", "stop_reason"))
        inputs = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        return Reply(
            text=text,
            model=name if isinstance(name, str) and name else self.model,
            tokens_in=sum(count_of(member(usage, key)) for key in inputs),
            tokens_out=count_of(member(usage, "output_tokens")),
            cut=end in ("max_tokens", "model_context_window_exceeded") or len(text) > ANSWER_AT_MOST,
            refusal="the model refused" if end == "refusal" else "",
        )
