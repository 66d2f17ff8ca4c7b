"""What was read of a folder, in a few lines: layout, captions by source, repeats, and what was not read."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

from limner.data.captions import SIDECARS
from limner.data.control import ControlImage
from limner.data.folder import Example, Folder
from limner.data.images import small_remedy
from limner.data.masks import named_as_mask
from limner.data.views import Scale, closest, sizes_at

MAX_NAMES = 3
SHAPE_TOLERANCE = 1.05
"""A control image that is longer or wider than its target by more than this factor has another shape."""
LAYOUTS = {"sidecar": "text files beside the images", "kohya": "kohya folders"}


def what_was_read(folder: Folder, *, trigger: str = "", default_caption: str = "") -> list[str]:
    """The lines that ``train`` and ``check`` begin with: what was read, what was not, what has no caption.

    Args:
        folder: What ``read_folder`` found.
        trigger: ``data.trigger``.
        default_caption: ``data.default_caption``.
    """
    lines = [_read(folder)]
    if folder.masks:
        unread = any(map(named_as_mask, folder.masks)) and not any(item.mask for item in folder.examples)
        hint = " To train by the masks beside images: --set data.masks=sidecar" if unread else ""
        lines.append(
            f"Ignored: {_counted(folder.masks, 'mask or control image', 'masks or control images')}.{hint}"
        )
    if folder.surplus_controls:
        files = [path.name for path in folder.surplus_controls]
        count = _counted(files, "control image", "control images")
        lines.append(f"Not used: {count} that no image bears the name of.")
    lines += _masks(folder)
    for split, count in sorted(folder.splits.items()):
        lines.append(
            f"Not trained: {split}/, {_number(count, 'image')} of another split. "
            f"To measure on them: --set data.validation_images={folder.root / split}"
        )
    if folder.unread:
        lines.append(f"Not read: {_counted(folder.unread, 'file', 'files')}.{_hint(folder)}")
    lines += _small(folder)
    lines += _shapes(folder)
    lines += _shared(folder)
    lines += [folder.advice] if folder.advice else []
    lines += _missing(folder, trigger, default_caption)
    return lines


def not_filling(examples: Sequence[Example], scales: Sequence[Scale]) -> list[str]:
    """A line on images that are not seen at the largest of several resolutions, as they are smaller."""
    if len(scales) == 1:
        return []

    def is_smaller(example: Example) -> bool:
        left, top, right, bottom = example.extent
        sides = right - left, bottom - top
        return sizes_at(*sides, scales)[-1] != closest(*sides, scales[-1].buckets)

    if count := sum(map(is_smaller, examples)):
        return [
            f"{count} of {_number(len(examples), 'image')} do not fill the largest resolution, and are "
            "seen at the next smaller one in its place."
        ]
    return []


def shared_captions(folder: Folder) -> dict[str, list[Example]]:
    """Text file -> the images, two at least, that have their captions from it: ``a.jpg`` and ``a.png``."""
    counts = Counter(example.caption_file for example in folder.examples)
    sharing: dict[str, list[Example]] = defaultdict(list)
    for example in folder.examples:
        if counts[example.caption_file] > 1 and _ending(example.caption_file) in SIDECARS:
            sharing[example.caption_file].append(example)
    return sharing


def _masks(folder: Folder) -> list[str]:
    """Lines on masks that count, and on those that no image bears the name of."""
    count, total = sum(example.mask is not None for example in folder.examples), len(folder.examples)
    lines: list[str] = []
    if count:
        rest = "; where there is none, all counts" if count < total else ""
        lines.append(
            f"Masks: {count} of {_number(total, 'image')} {'has' if count == 1 else 'have'} one{rest}."
        )
    if folder.surplus_masks:
        files = [path.name for path in folder.surplus_masks]
        lines.append(f"Not used: {_counted(files, 'mask', 'masks')} that no image bears the name of.")
    return lines


def _read(folder: Folder) -> str:
    examples = folder.examples
    kinds = Counter(map(_kind, examples))
    parts = [f"{count} {kind}" for kind, count in kinds.items() if kind]
    if kinds[""]:
        parts.append(f"{kinds['']} without")
    variants = sum(len(example.source_captions) > 1 for example in examples)
    note = f" ({variants} of them in several variants, a line each)" if variants else ""
    controls = len(examples[0].controls)
    pairs = f", each with {_number(controls, 'control image')}" if controls else ""
    return (
        f"Read: {_number(len(examples), 'image')}{pairs} ({_layout(folder)}); captions: "
        f"{', '.join(parts)}{note}."
    )


def _kind(example: Example) -> str:
    """What kind of source an image's captions have."""
    file = example.caption_file
    if file.endswith("/"):
        return "by the folder's name"
    if not file:
        return ""
    return f"in {ending if (ending := _ending(file)) in SIDECARS else PurePosixPath(file).name}"


def _ending(file: str) -> str:
    """Of the name of a caption file, in lower case, with its dot."""
    return f".{file.rpartition('.')[2].lower()}"


def _layout(folder: Folder) -> str:
    if folder.layout != "kohya":
        return LAYOUTS.get(folder.layout, folder.layout)
    repeats = {folder.named(example.path).split("/")[0]: example.repeats for example in folder.examples}
    names = [f"{name} x {count}" for name, count in repeats.items()]
    rest = f" and {len(names) - 2 * MAX_NAMES} more" if len(names) > 2 * MAX_NAMES else ""
    draws = sum(example.repeats for example in folder.examples)
    return f"kohya folders: {', '.join(names[: 2 * MAX_NAMES])}{rest}; {draws} draws an epoch"


def _hint(folder: Folder) -> str:
    """What the name of a text file that no image has should have been."""
    images = {folder.named(example.path) for example in folder.examples if not example.source_captions}
    stems = {image.rpartition(".")[0].casefold(): image for image in images}
    for file in folder.unread:
        stem = file.rpartition(".")[0]
        image = stem if stem in images else stems.get(stem.casefold())
        if image:
            ending = f"{image.rpartition('.')[0]}.txt"
            return f" Captions of {image} stand in {ending}." if ending != file else ""
    return ""


def _shared(folder: Folder) -> list[str]:
    lines: list[str] = []
    for file, examples in list(shared_captions(folder).items())[:MAX_NAMES]:
        names = " and ".join(folder.named(example.path) for example in examples[:MAX_NAMES])
        lines.append(
            f"{file} is the caption of {names}: they share one text file. Give one of them another name."
        )
    return lines


def _missing(folder: Folder, trigger: str, default_caption: str) -> list[str]:
    mute = sum(not example.caption_file for example in folder.examples)
    if not mute:
        return []
    count = len(folder.examples)
    start = "The image has no caption" if count == 1 else f"{mute} of {count} images have no caption"
    if not trigger and not default_caption:
        return [
            f"{start}, and there is no trigger: it teaches what the empty prompt generates. "
            "Write captions, or set data.trigger."
        ]
    sight = default_caption or trigger
    return [f'{start}: training sees "{sight}" alone. Write captions, or run: limner caption']


def _small(folder: Folder) -> list[str]:
    """A line on images that are too small, and on the resolution that keeps them all."""
    rejections = [rejection for rejection in folder.rejected if rejection.short_side]
    if not rejections:
        return []
    side = min(rejection.short_side for rejection in rejections)
    files = [folder.named(rejection.path) for rejection in rejections]
    remedy = small_remedy(side).replace("keep it", "keep all")
    return [
        f"Too small: {_counted(files, 'image', 'images')}. {remedy.replace('a larger copy', 'larger copies')}"
    ]


def _shapes(folder: Folder) -> list[str]:
    """A line on control images of another shape than their target."""
    pairs = [(example, control) for example in folder.examples for control in example.controls]
    odd = [pair for pair in pairs if _differs_in_shape(*pair)]
    if not odd:
        return []
    example, control = odd[0]
    left, top, right, bottom = example.extent
    return [
        f"{len(odd)} of {_number(len(pairs), 'control image')} have another shape than their target "
        f"({control.path.name} {control.width} x {control.height}, {folder.named(example.path)} "
        f"{right - left} x {bottom - top}{', ..' * (len(odd) > 1)}). They keep their own shape; where a pair "
        "should line up, crop both alike."
    ]


def _differs_in_shape(example: Example, control: ControlImage) -> bool:
    left, top, right, bottom = example.extent
    ratio = control.width * (bottom - top) / (control.height * (right - left))
    return max(ratio, 1 / ratio) > SHAPE_TOLERANCE


def _counted(files: Sequence[str], singular: str, plural: str) -> str:
    rest = ", .." if len(files) > MAX_NAMES else ""
    return f"{len(files)} {singular if len(files) == 1 else plural} ({', '.join(files[:MAX_NAMES])}{rest})"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
