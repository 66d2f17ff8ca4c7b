"""Caption text: where it lies beside an image, its variants, and the trigger word. No image is opened."""

import re
from pathlib import Path

from limner.errors import BadData
from limner.files import human

SIDECARS = (".txt", ".caption")
"""Endings of a caption beside its image, the first that exists wins."""

MAX_CAPTION_LENGTH = 8000
"""Of one caption. T5 reads 512 tokens, about 2,500 characters; more is a file in the wrong place."""

MAX_VARIANTS = 64
"""Of one image. Each becomes its own cached text."""

_MAX_BYTES = 4 * MAX_CAPTION_LENGTH * MAX_VARIANTS
_PLACEHOLDER = re.compile(r"\[trigger\]|\{trigger\}", re.IGNORECASE)


def read_text(path: Path, max_bytes: int = _MAX_BYTES) -> str:
    """The text of a UTF-8 file, with or without byte order mark, of at most ``max_bytes`` bytes.

    Raises:
        BadData: Unreadable, too large, or not UTF-8.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise BadData(
                f"{path.name} has {human(size)}; at most {human(max_bytes)} are read. Is it really captions?"
            )
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadData(f"{path.name} is not UTF-8 (byte {error.start}). Save it as UTF-8.") from error
    except OSError as error:
        raise BadData(f"{path.name} cannot be read ({error.strerror}). Check its permissions.") from error


def read_sidecar(path: Path) -> tuple[str, ...]:
    """The caption variants in a text file, one a line, empty lines left out.

    Raises:
        BadData: The file cannot be used.
    """
    text = read_text(path).replace("\r\n", "\n").replace("\r", "\n")
    try:
        return variants(text.split("\n"))
    except BadData as error:
        raise BadData(f"{path.name}: {error}") from error


def variants(texts: list[str]) -> tuple[str, ...]:
    """Captions with white space collapsed, without empty ones and repetitions, in their order.

    Raises:
        BadData: A caption or their number is too large, or a caption is not text.
    """
    captions = tuple(dict.fromkeys(" ".join(text.split()) for text in texts if text.strip()))
    if len(captions) > MAX_VARIANTS:
        raise BadData(f"{len(captions)} captions for one image; at most {MAX_VARIANTS}. Remove some lines.")
    for caption in captions:
        if len(caption) > MAX_CAPTION_LENGTH:
            raise BadData(
                f"A caption of {len(caption)} characters; at most {MAX_CAPTION_LENGTH}. Shorten it."
            )
        if "\0" in caption or any("\ud800" <= letter <= "\udfff" for letter in caption):
            raise BadData("A caption holds bytes that are no text. Save it as UTF-8.")
    return captions


def has_word(word: str, caption: str) -> bool:
    """Whether ``word``, or words, stand in a caption as a whole, in any case."""
    return count_word(word, caption) > 0


def count_word(word: str, caption: str) -> int:
    """How often ``word``, or words, stand in a caption as a whole, in any case."""
    return len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", caption, re.IGNORECASE))


def with_trigger(caption: str, trigger: str) -> str:
    """Replace ``[trigger]`` and ``{trigger}``; put the trigger in front where it is missing as a whole word.

    Raises:
        BadData: The caption has a placeholder and there is no trigger.
    """
    if not trigger:
        if _PLACEHOLDER.search(caption):
            raise BadData(
                f"The caption {caption[:60]!r} has a placeholder, but there is no trigger. Set data.trigger."
            )
        return caption
    caption = _PLACEHOLDER.sub(lambda _: trigger, caption)
    if has_word(trigger, caption):
        return caption
    return f"{trigger}, {caption}" if caption else trigger


def final(captions: tuple[str, ...], *, trigger: str, default: str) -> tuple[str, ...]:
    """What the model will read: at least one caption; ``default``, or the trigger, where there was none."""
    return tuple(dict.fromkeys(with_trigger(caption, trigger) for caption in captions or (default,)))
