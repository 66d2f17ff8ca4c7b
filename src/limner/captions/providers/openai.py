"""OpenAI, and every server that speaks its chat completions: Ollama, vLLM, LM Studio, llama.cpp, and others.

OPENAI_API_KEY goes to OpenAI, or to the address in OPENAI_BASE_URL, and nowhere else: a server named by --url
gets a key only from --key-env.
"""

import os
import re
from typing import Any
from urllib.parse import urlsplit

from limner.captions.catalog import provider_record
from limner.captions.client import ANSWER_AT_MOST, Declined, Provider, Reply, Request, Retry, Takes
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
from limner.errors import BadProvider, BadUsage, LimnerError

MODEL = "gpt-6.1-terra"
OFFICIAL_HOST = "api.openai.com"
NO_KEY = "none"
"""What servers that want no key are sent; the protocol has no way to send nothing."""


def provider(options: Options) -> Provider:
    """OpenAI or a server like it.

    Raises:
        BadProvider: The package, the key or the model is missing.
    """
    return Server(package("openai", f"Captions by {options.name}", "caption"), options)


class Server:
    """Chat completions, with a JSON schema for the answer where the server takes one."""

    parallel = 4
    reads_sets = True
    takes: Takes = "json"

    def __init__(self, sdk: Any, options: Options) -> None:
        """Connect. Only a server without a usual model is asked anything: which models it has."""
        self.name = options.name
        self._sdk = sdk
        self._options = options
        self._limit = "max_tokens"
        self._schema = self._system_role = True
        self._limit_changed = False
        url = options.url or provider_record(options.name).url or None
        if url and not urlsplit(url).scheme.startswith("http"):
            shown = host_of(url) or host_of(f"//{url}")  # never a user and password
            raise BadUsage(f"--url is {shown}; it must begin with http:// or https://.")
        self._key = _key(options, url)
        http = http_client(sdk, url or os.environ.get("OPENAI_BASE_URL", ""))
        try:
            self._client = sdk.OpenAI(
                api_key=self._key, base_url=url, max_retries=0, timeout=options.timeout, http_client=http
            )
        except sdk.OpenAIError:
            http.close()
            raise BadProvider(
                "There is no key for OpenAI. Run: export OPENAI_API_KEY=..., or name another variable "
                "with --key-env."
            ) from None
        base = str(self._client.base_url)
        self._is_official = urlsplit(base).hostname == OFFICIAL_HOST
        self._host = host_of(base)
        if self._is_official:
            self._limit = "max_completion_tokens"
        self.destination = describe_destination("OpenAI" if self._is_official else "a server", base)
        try:
            self.model = options.model or (MODEL if self._is_official else self._only_model())
        except LimnerError:
            self.close()
            raise

    @property
    def _remedy(self) -> str:
        key = self._options.key_env or ("OPENAI_API_KEY" if self._is_official else "--key-env")
        return f"Check the key ({key}), the model's name (--model) and the address (--url)."

    def _only_model(self) -> str:
        try:
            names = [model.id for model in self._guarded(lambda: list(self._client.models.list()))]
        except (Retry, Declined) as error:
            raise BadProvider(
                f"{error}. It was asked which models it has: start the server, or check the address (--url)."
            ) from None
        if len(names) != 1:
            listing = f"It has {', '.join(names[:12])}." if names else "It has none."
            raise BadProvider(f"Which model of {self._host} shall write? {listing} Name one with --model.")
        return names[0]

    def close(self) -> None:
        """See ``Provider``."""
        self._client.close()

    def ask(self, request: Request) -> Reply:
        """See ``Provider``."""
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{part.base64}"}}
            for part in request.parts()
        ]
        body: dict[str, Any] = {
            "model": self.model,
            "messages": self._messages(request.system, content),
            self._limit: request.tokens,
        }
        if request.schema and self._schema:
            form = {"name": "answer", "schema": request.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        try:
            create = self._client.chat.completions.create
            call = self._stream if self._options.stream else create
            answer = self._guarded(lambda: call(**body))
            return answer if isinstance(answer, Reply) else self._reply(answer)
        except Declined as error:
            if reason := self._adapt(str(error).lower(), has_schema="response_format" in body):
                raise Retry(reason, after=0) from None
            raise

    def _messages(self, system: str, content: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self._system_role:
            return [{"role": "system", "content": system}, {"role": "user", "content": content}]
        return [{"role": "user", "content": [{"type": "text", "text": system}, *content]}]

    def _adapt(self, refusal: str, *, has_schema: bool) -> str:
        """Leave away what a server does not know, for this question and all after it; empty: nothing fits.

        Servers that speak the protocol differ in three points, and say so only by refusing.
        """
        other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}[self._limit]
        if (
            "max_tokens" in refusal
            and not self._limit_changed
            and (self._limit in refusal or other in refusal)
        ):
            self._limit, self._limit_changed = other, True
            return f"the server wants {other}"
        if has_schema and re.search(r"response_?format|schema|grammar|structured|guided", refusal):
            self._schema = False  # the prompt asks for JSON as well, and every answer is checked
            return "the server takes no schema"
        if self._system_role and re.search(r"\bsystem\b|\broles?\b", refusal):
            self._system_role = False
            return "the server knows no system role"
        return ""

    def _guarded(self, call: Any) -> Any:
        try:
            return call()
        except self._sdk.APIStatusError as error:
            if error.code in ("content_filter", "content_policy_violation"):
                return self._sdk.types.chat.ChatCompletion.construct(choices=[], model=self.model, usage=None)
            by_status(error, self._remedy, self._key, self._client.api_key)
        except self._sdk.APIConnectionError as error:
            timed_out = isinstance(error, self._sdk.APITimeoutError)
            by_connection(error, self._host, self._options.timeout, timed_out=timed_out)
        except (
            self._sdk.OpenAIError,
            ValueError,
            *ODD_ANSWER,
            broken_lines(self._sdk),
        ) as error:  # a broken stream; JSON that is none; fields of other types
            raise Retry(f"{self._host} gave a broken answer ({type(error).__name__})") from None

    def _reply(self, answer: Any) -> Reply:
        choices = member(answer, "choices")
        if not isinstance(choices, list):
            raise Retry(f"{self._host} gave an answer that is no completion")
        usage = _usage(answer)
        if not choices:
            return _to_reply("", self._name_in(answer), usage, "content_filter", "")
        message = member(choices[0], "message")
        if message is None:
            raise Retry(f"{self._host} gave an answer without a message")
        refusal = text_of(member(message, "refusal"))
        text = text_of(member(message, "content"))
        return _to_reply(text, self._name_in(answer), usage, member(choices[0], "finish_reason"), refusal)

    def _name_in(self, answer: Any) -> str:
        name = member(answer, "model")
        return name if isinstance(name, str) and name else self.model

    def _stream(self, **body: Any) -> Reply:
        text, refusal, end, usage, model, size = [], "", None, (0, 0), self.model, 0
        with self._client.chat.completions.create(
            **body, stream=True, stream_options={"include_usage": True}
        ) as stream:
            for chunk in stream:
                model = self._name_in(chunk)
                usage = _usage(chunk) if member(chunk, "usage") else usage
                choices = member(chunk, "choices")
                for choice in choices[:1] if isinstance(choices, list) else []:
                    delta = member(choice, "delta")
                    text.append(text_of(member(delta, "content")))
                    refusal += text_of(member(delta, "refusal"))
                    end = member(choice, "finish_reason") or end
                    size += len(text[-1])
                if size > ANSWER_AT_MOST:
                    end = "length"
                    break
        if not end:
            raise Retry(f"{self._host} broke off its answer")
        return _to_reply("".join(text), model, usage, end, refusal)


def _usage(answer: Any) -> tuple[int, int]:
    """Tokens (read, written)."""
    usage = member(answer, "usage")
    return count_of(member(usage, "prompt_tokens")), count_of(member(usage, "completion_tokens"))


def _to_reply(text: str, model: str, usage: tuple[int, int], end: object, refusal: str) -> Reply:
    filter_reason = "the server's content filter stopped it" if end == "content_filter" else ""
    return Reply(
        text=text,
        model=model,
        tokens_in=usage[0],
        tokens_out=usage[1],
        cut=end == "length",
        refusal=filter_reason or ("the model refused" if refusal else ""),
    )


def _key(options: Options, url: str | None) -> str | None:
    """The key to send; None leaves it to the SDK."""
    if not options.sends:
        return NO_KEY
    if options.key_env:
        return key_in(options.key_env)
    if url is None or urlsplit(url).hostname == OFFICIAL_HOST:
        sound_key(os.environ.get("OPENAI_API_KEY", "").strip(), "OPENAI_API_KEY")
        return None
    variable = os.environ.get(f"{options.name.upper()}_API_KEY") if options.name != "openai" else None
    return variable or NO_KEY
