"""What stands beside images in words: caption text and crops, in files of their own or in a metadata file.

Captions have variants and the trigger word. Of metadata.jsonl and metadata.csv, of imagefolder and DiffSynth,
nothing is trusted. No image is opened.
"""

import csv
import io
import json
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from limner.data.formats import SUFFIXES
from limner.errors import BadData
from limner.files import human
from limner.recipe.toml import PLACEHOLDER

SIDECARS = (".txt", ".caption")
"""Endings of a caption beside its image, the first that exists wins."""

MAX_CAPTION_LENGTH = 8000
"""Of one caption. T5 reads 512 tokens, about 2,500 characters; more is a file in the wrong place."""

MAX_VARIANTS = 64
"""Of one image. Each becomes its own cached text."""

_MAX_BYTES = 4 * MAX_CAPTION_LENGTH * MAX_VARIANTS
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
_SPACELESS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31a0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
"""Letters of scripts that are written without spaces: Thai, Lao, Burmese, Khmer, Chinese, Japanese."""
_PARTICLES = re.compile(
    "(?:들|님|씨)?(?:은|는|이|가|을|를|의|에|께|도|만|와|과|랑|로|나|든|야|아|여|며|인|란|뿐|처럼|같이|같은|보다|마다|까지|부터|조차|마저|밖에"
    "|에서|에게|에겐|에는|에도|께서|한테|하고|이랑|으로|이나|이든|든지|이라|라는|라고|이며|인데|인가|이다|이고|하는|(?:으?로)[서써]"
    "|이?입니다|이?었던|이?였던|이?라도){0,3}(?![가-힣])"
)
"""What Korean attaches to a noun, one or several, up to the end of the word: 미케가, 미케에게는, 미케들의."""
_INVISIBLE = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and symbols that show nothing: Hangul fillers, the empty pattern of Braille."""


def read_text(path: Path | str, max_bytes: int = _MAX_BYTES) -> str:
    """The text of a UTF-8 file, with or without byte order mark, of at most ``max_bytes`` bytes.

    Raises:
        BadData: Unreadable, too large, or not UTF-8.
    """
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  half of a Path's time, of each of 100,000
            size = os.fstat(file.fileno()).st_size
            if size > max_bytes:
                name, sizes = Path(path).name, (human(size), human(max_bytes))
                raise BadData(f"{name} has {sizes[0]}; at most {sizes[1]} are read. Is it really captions?")
            return (file.read() if size else b"").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        name = Path(path).name
        raise BadData(f"{name} is not UTF-8 (byte {error.start}). Save it as UTF-8.") from error
    except OSError as error:
        name = Path(path).name
        raise BadData(f"{name} cannot be read ({error.strerror}). Check its permissions.") from error


def read_sidecar(path: Path | str) -> tuple[str, ...]:
    """The caption variants in a text file, as ``split`` tells them.

    Raises:
        BadData: The file cannot be used.
    """
    text = read_text(path)
    try:
        return variants(split(text))
    except BadData as error:
        raise BadData(f"{Path(path).name}: {error}") from error


def split(text: str) -> list[str]:
    """The captions in one text, wherever it stands: each line is a variant, but paragraphs are one caption.

    A blank line between two lines makes paragraphs. Blank lines before the first and after the last do not.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    return [text] if _BLANK_LINE.search(text) else text.split("\n")


def variants(texts: list[str]) -> tuple[str, ...]:
    """Captions with white space collapsed, without repetitions and those that show nothing, in their order.

    Raises:
        BadData: A caption or their number is too large, or a caption is not text.
    """
    captions = tuple(dict.fromkeys(" ".join(text.split()) for text in texts if shows(text) or "\0" in text))
    if len(captions) > MAX_VARIANTS:
        raise BadData(f"{len(captions)} captions for one image; at most {MAX_VARIANTS}. Remove some lines.")
    for caption in captions:
        if len(caption) > MAX_CAPTION_LENGTH:
            raise BadData(
                f"A caption of {len(caption)} characters; at most {MAX_CAPTION_LENGTH}. Shorten it."
            )
        if _NO_TEXT.search(caption):
            raise BadData("A caption holds bytes that are no text. Save it as UTF-8.")
    return captions


def shows(text: str) -> bool:
    """Whether a text has a letter, a digit or a symbol: white space, full stops and commas say nothing."""
    return any(
        unicodedata.category(letter) in ("Co", "Cs") or unicodedata.category(letter)[0] in "LNS"
        for letter in text
        if letter not in _INVISIBLE
    )


def has_word(word: str, caption: str) -> bool:
    """Whether ``word``, or words, stand in a caption as a whole, in any case."""
    return count_word(word, caption) > 0


def count_word(word: str, caption: str) -> int:
    """How often ``word``, or words, stand in a caption as a whole, in any case."""
    return len(word_spans(word, caption))


def word_spans(word: str, caption: str, flags: int = re.IGNORECASE) -> list[tuple[int, int]]:
    """Where ``word``, or words, stand as a whole: start and end of each in a caption.

    A letter beside it makes another word, unless one of the two is of a script that is written without
    spaces, or they are of different scripts ("zxq가", "الzxq"), or what follows is a Korean particle.
    """
    spans: list[tuple[int, int]] = []
    form, position = re.compile(re.escape(word), flags), 0
    while word and (match := form.search(caption, position)):
        start, end = match.span()
        before, after = caption[start - 1 : start], caption[end : end + 1]
        particle = _script(after) == "HANGUL" and _PARTICLES.match(caption, end)
        if _joined(word, word[0], before) or (_joined(word[::-1], word[-1], after) and not particle):
            position = start + 1
        else:
            spans.append((start, end))
            position = end
    return spans


def _joined(letters: str, edge: str, neighbour: str) -> bool:
    """Whether a letter beside a word makes it another one; ``letters`` of the word, from that edge on."""
    if not re.match(r"\w", edge) or not re.match(r"\w", neighbour):
        return False
    if _SPACELESS.match(edge) or _SPACELESS.match(neighbour):
        return False
    scripts = [script for letter in letters if (script := _script(letter))]
    return not scripts or _script(neighbour) in ("", scripts[0])


def _script(letter: str) -> str:
    """Of a letter: LATIN, CYRILLIC, HANGUL, and so on; empty for digits, marks and what is no letter."""
    is_letter = letter and unicodedata.category(letter)[0] == "L"
    return unicodedata.name(letter, "").split(" ")[0] if is_letter else ""


def with_trigger(caption: str, trigger: str) -> str:
    """Replace ``[trigger]`` and ``{trigger}``; put the trigger in front where it is missing as a whole word.

    Raises:
        BadData: The caption has a placeholder and there is no trigger.
    """
    if not trigger:
        if PLACEHOLDER.search(caption):
            raise BadData(
                f"The caption {caption[:60]!r} has a placeholder, but there is no trigger. Set data.trigger."
            )
        return caption
    caption = PLACEHOLDER.sub(lambda _: trigger, caption)
    if has_word(trigger, caption):
        return caption
    return f"{trigger}, {caption}" if caption else trigger


def without_trigger(caption: str, trigger: str, word: str = "") -> str:
    """The caption with ``word`` in place of the trigger, or with nothing: "sks cat, asleep" -> "asleep"."""
    text = replaced(caption, word_spans(trigger, caption), word)
    text = re.sub(r"\s+([,;.])", r"\1", " ".join(text.split()))
    return re.sub(r"([,;])(\s*[,;])+", r"\1", text).strip(" ,;")


def replaced(text: str, spans: list[tuple[int, int]], word: str) -> str:
    """A text with ``word`` in place of each span, in order; for a blank, particles behind it go, too."""
    for start, end in reversed(spans):
        particle = None if word.strip() else _PARTICLES.match(text, end)
        text = text[:start] + word + text[particle.end() if particle else end :]
    return text


def final(captions: tuple[str, ...], *, trigger: str, default: str) -> tuple[str, ...]:
    """What the model will read: at least one caption; ``default``, or the trigger, where there was none."""
    return tuple(dict.fromkeys(with_trigger(caption, trigger) for caption in captions or (default,)))


NAMES = ("metadata.jsonl", "metadata.csv")
"""Files that list images and captions."""

UNSUPPORTED_NAMES = ("metadata.parquet", "metadata.json")
"""Files that do so elsewhere, and that Limner does not read."""

FILE_COLUMNS = ("file_name", "image", "video")
CAPTION_COLUMNS = ("text", "caption", "prompt")
CONTROL_COLUMNS = ("control", "control_image", "control_path", "edit_image")
"""Optional: control images, as ai-toolkit, musubi-tuner and DiffSynth name them; or ``control_path_1`` .."""
CROP_COLUMN = "crop"
"""Optional: the part of the image that counts."""

SEED_COLUMN = "seed"
"""Optional: of the start noise of a picture that a teacher sampled."""

METADATA_BYTES = 1 << 28
_CSV_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


class MetadataRow(NamedTuple):
    """One usable line: where it stands, the image relative to the metadata's folder ("/"), its captions."""

    line: int
    file: str
    captions: tuple[str, ...]
    crop: str = ""
    """As written: four numbers, or nothing."""
    companions: tuple[str, ...] = ()
    """Names of images in its other columns, which go with this one, such as its mask."""
    seed: int | None = None
    """Of the start noise of an image that was sampled."""
    controls: tuple[str, ...] = ()
    """Its control images, relative to the metadata's folder."""


class BrokenRow(NamedTuple):
    """One line that cannot be used, and why."""

    line: int
    reason: str


def read_metadata(path: Path) -> list[MetadataRow | BrokenRow]:
    """The lines of a metadata file in their order; the captions of a row may be none.

    A caption is the first of ``text``, ``caption``, ``prompt`` that says something: a string or null, whose
    variants ``captions.split`` tells, in JSON also a list of strings, its variants. A second line for an
    image is broken: it would be unclear which one counts.

    Raises:
        BadData: The file as a whole cannot be read: encoding, size, columns, CSV quoting.
    """
    try:
        text = read_text(path, METADATA_BYTES)
    except BadData as error:
        raise BadData(f"{path.parent}: {error}") from error
    rows: list[MetadataRow | BrokenRow] = []
    first: dict[str, int] = {}
    for line, entry in _csv(path, text) if path.suffix == ".csv" else _jsonl(text):
        try:
            if isinstance(entry, BadData):
                raise entry
            row = _row(line, entry)
            if row.file in first:
                raise BadData(f"names {row.file} again, after line {first[row.file]}. Remove one of the two.")
        except BadData as error:
            rows.append(BrokenRow(line, f"line {line}: {error}"))
        else:
            first[row.file] = line
            rows.append(row)
    return rows


def inside(name: str) -> str:
    """``name`` as a normal path relative to the metadata's folder, with "/".

    Raises:
        BadData: It is empty, absolute, or leads out of the folder.
    """
    flat = name.strip().replace("\\", "/")
    if not flat or "\0" in flat or any("\ud800" <= letter <= "\udfff" for letter in flat):
        raise BadData(f"the file name {name[:60]!r} is none. Write it relative to the metadata file.")
    if flat.startswith("/") or re.match(r"[A-Za-z]:|\w+://", flat):
        raise BadData(f"{name[:120]!r} is not relative. Write it relative to the metadata file.")
    flat = posixpath.normpath(flat)
    if flat == ".." or flat.startswith("../"):
        raise BadData(
            f"{name[:120]!r} leads out of the folder, which is refused. Move the image into the folder."
        )
    return flat


def _row(line: int, entry: Any) -> MetadataRow:
    if isinstance(entry, list):
        raise BadData(
            "begins a JSON array. Write one object a line, without brackets and commas around them."
        )
    if not isinstance(entry, dict):
        raise BadData(
            f'is {type(entry).__name__}, not an object such as {{"file_name": "a.jpg", "text": "a cat"}}.'
        )
    file = _first(entry, FILE_COLUMNS)
    if not isinstance(file, str):
        raise BadData(f"file_name is {file!r:.60}, not a string. Write it in quotes.")
    name = inside(file)
    caption = _first(entry, CAPTION_COLUMNS)
    texts = caption if isinstance(caption, list) else [] if caption is None else [caption]
    if not all(isinstance(text, str) for text in texts):
        raise BadData(f"the caption of {name} is {caption!r:.60}, not a string. Write it in quotes.")
    captions = variants(texts if isinstance(caption, list) else split("".join(texts)))
    values = (value for value in entry.values() if isinstance(value, str) and value != file)
    companions = tuple(value for value in values if PurePosixPath(value).suffix.lower() in SUFFIXES)
    controls = _controls(entry)
    companions = tuple(dict.fromkeys((*companions, *controls)))
    crop = _crop(entry.get(CROP_COLUMN))
    return MetadataRow(line, name, captions, crop, companions, _seed(entry), controls)


def _seed(entry: Mapping[str, Any]) -> int | None:
    """The seed that a teacher's picture began from; of others what it says means nothing here."""
    text = str(entry.get(SEED_COLUMN, ""))
    return int(text) if text.isdecimal() and text.isascii() and int(text) < 2**63 else None


def _controls(entry: dict[str, Any]) -> tuple[str, ...]:
    """The control images that a row names: in one column, a list in one, or in columns that are counted."""
    columns = [column for column in entry if re.sub(r"_\d+$", "", column) in CONTROL_COLUMNS]
    values = [entry[column] for column in sorted(columns)]
    names = [name for value in values for name in (value if isinstance(value, list) else [value]) if name]
    if not all(isinstance(name, str) for name in names):
        raise BadData(f"{columns[0]} is {values[0]!r:.60}, and is to name a control image. Write its path.")
    return tuple(inside(name) for name in names)


def _crop(value: Any) -> str:
    """As a sidecar would have it; what it means is told where it is used."""
    return " ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def _first(entry: dict[str, Any], columns: tuple[str, ...]) -> Any:
    """The first value that says something; one that is there and empty where none does."""
    values = [entry[column] for column in columns if column in entry]
    if values:
        return next((value for value in values if value not in (None, "", [])), values[0])
    raise BadData(
        f"has none of {', '.join(columns)}, only {', '.join(map(repr, entry))[:120] or 'nothing'}. Add one."
    )


def _jsonl(text: str) -> Iterator[tuple[int, Any]]:
    for line, piece in enumerate(text.split("\n"), 1):  # splitlines would cut at U+2028 inside a caption
        if not piece.strip():
            continue
        try:
            yield line, json.loads(piece)
        except (ValueError, RecursionError) as error:
            detail = str(error).split(":")[0][:80]
            yield line, BadData(f"is not JSON ({detail}). Write one object a line, or remove the line.")


def _csv(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        for columns in (FILE_COLUMNS, CAPTION_COLUMNS):
            if not set(columns) & set(header):
                separator = next(
                    (
                        words
                        for sign, words in _CSV_SEPARATORS.items()
                        if any(sign in name for name in header)
                    ),
                    "",
                )
                state = (
                    f"is separated by {separator}" if separator else f"has only {', '.join(header)[:120]!r}"
                )
                raise BadData(
                    f"{path} has no column {' or '.join(columns)}: it {state}. "
                    "Name the columns in its first line, separated by commas."
                )
        if len(set(header)) < len(header):
            raise BadData(f"{path} has two columns of one name in {', '.join(header)[:120]!r}. Rename one.")
        for cells in reader:
            if not any(cells):
                continue
            if len(cells) != len(header):
                problem = f"has {len(cells)} cells, not {len(header)}. Put captions with commas in quotes."
                yield reader.line_num, BadData(problem)
            else:
                yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise BadData(
            f"{path} breaks off at line {reader.line_num} ({error}). Check the quotes there."
        ) from error
