"""One image: ask, look at what comes back, ask again; then captions, or the reason for none."""

from dataclasses import dataclass, field

from limner.captions import prompts, validators
from limner.captions.answer import Captions, Malformed, read, schema, without_reasoning
from limner.captions.client import Declined, Patience, Provider, Reply, Request
from limner.captions.prompt_image import PromptImage
from limner.captions.spec import CaptionSpec, add_trigger
from limner.data import caption_faults
from limner.data.captions import has_word

MAX_REQUESTS = 3
MAX_TOKENS = 1024
"""Of the first answer; some models think before they write, and it counts. Doubled when it was not enough."""


@dataclass
class Outcome:
    """What became of one image."""

    captions: tuple[str, ...] = ()
    flag: str = ""
    """Why there are no captions."""
    note: str = ""
    """What was mended in the captions."""
    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    model: str = ""
    refusal: list[str] = field(default_factory=list)
    """Why answers were set aside, one by one."""


def caption(provider: Provider, spec: CaptionSpec, image: PromptImage, patience: Patience) -> Outcome:
    """Captions of one picture, as many as wished for, each without a flaw that is known here.

    Raises:
        BadProvider: No picture will get any.
    """
    plain = is_plain(provider, spec)
    outcome, tokens, reason = Outcome(), MAX_TOKENS, ""
    system = prompts.for_image(spec, plain=plain).text
    while outcome.requests < MAX_REQUESTS:
        text = f"Caption this image.\n\n{prompts.again(reason)}" if reason else "Caption this image."
        request = Request(
            system=system,
            text=text,
            images=(image,),
            schema={} if plain else schema(Captions),
            tokens=tokens,
        )
        try:
            reply = patience.ask(provider, request)
        except Declined as error:
            outcome.flag = str(error)
            return outcome
        _count(outcome, reply)
        if reply.cut:
            tokens *= 2
        captions, reason = taken(reply, spec, plain=plain)
        if not reason:
            outcome.captions = captions
            return outcome
        outcome.refusal.append(reason)
        if provider.takes == "nothing":
            break  # it would say the same again
        if repair := _with_name(captions, spec, last=outcome.requests == MAX_REQUESTS):
            outcome.captions, outcome.note = repair, f"the name {spec.trigger!r} was put in front"
            return outcome
    outcome.flag = f"no usable caption in {outcome.requests} answers; the last: {reason}"
    return outcome


def is_plain(provider: Provider, spec: CaptionSpec) -> bool:
    """Whether the text of an answer is the caption itself."""
    return provider.takes == "nothing" or (provider.takes == "text" and spec.variants == 1)


def taken(reply: Reply, spec: CaptionSpec, *, plain: bool) -> tuple[tuple[str, ...], str]:
    """The captions in a reply, and what is wrong with it; nothing is when that is empty."""
    if reply.refusal:
        return (), reply.refusal
    if reply.cut:
        return (), "it was cut off before its end"
    answer = without_reasoning(reply.text)
    if plain:
        texts = [validators.without_opening(answer) if spec.by_rule else answer]
    else:
        try:
            texts = read(Captions, answer).captions
        except Malformed as error:
            refusal = caption_faults.REFUSAL.search(answer)
            return (), "it is a refusal or an apology instead of a caption" if refusal else str(error)
    captions = tuple(dict.fromkeys(" ".join(text.split()) for text in texts))
    for text in texts:
        if reason := validators.find_fault(text, spec):
            return captions, reason
    if len(captions) != spec.variants and not plain:
        return captions, f"it has {len(captions)} different captions; {spec.variants} are wanted"
    return tuple(add_trigger(text, spec) for text in captions), ""


def _with_name(captions: tuple[str, ...], spec: CaptionSpec, *, last: bool) -> tuple[str, ...]:
    """Captions whose only flaw is the missing name, with it in front: as training would do it, but seen."""
    if not last or not spec.names_trigger or len(captions) != spec.variants:
        return ()
    texts = tuple(text if has_word(spec.trigger, text) else f"{spec.trigger}, {text}" for text in captions)
    return texts if not any(validators.find_fault(text, spec) for text in texts) else ()


def _count(outcome: Outcome, reply: Reply) -> None:
    outcome.requests += 1
    outcome.tokens_in += reply.tokens_in
    outcome.tokens_out += reply.tokens_out
    outcome.model = reply.model or outcome.model
