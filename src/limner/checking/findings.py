"""From figures to findings: what is wrong with an image or a set, why, and what to do about it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from limner.checking import variety, watermark
from limner.checking.caption_stats import CaptionStats, caption_stats
from limner.checking.image_stats import ImageStats
from limner.data import near_duplicates
from limner.data.caption_faults import caption_fault
from limner.data.formats import BROKEN_PROFILE
from limner.data.subject import MAX_CROP_LOSS
from limner.reporter import counted

PROBLEM, ADVICE, NOTE = "problem", "advice", "note"
MAX_BLUR, MAX_MOTION_BLUR = 1.8, 1.35
"""Pixels of blur, at the size of training. Sharp pictures have 0 to 1.2, whatever their grounds."""
MOTION_RATIO = 0.7
"""Blur of the sharpest direction, as a share of the softest, below which the camera moved."""
UPSCALE_LEVELS = (1.05, 2.0)
"""Times that an image is enlarged: advice, problem."""
MIN_JPEG_QUALITY = ((1.5, 40), (3.0, 25), (np.inf, 10))
"""(times reduced, JPEG quality): the more an image is reduced, the less of its damage is left."""
MAX_BLOCKINESS = 1.75
MIN_IMAGES = {"subject": 10, "face": 10, "object": 8, "style": 20, "concept": 20}
"""Images from which a LoRA generalises, as the guides of the trainers have it: see ``models.presets``."""
MIN_FOR_VARIETY = 8
"""Images below which nothing is said about variety."""
MAX_FOR_VARIETY = 1500
"""Images that are compared each with each, spread evenly over the set: so a share is right to 2 %."""
MAX_ONE_KIND = 0.6
"""Share of the images that may be of one kind."""
MAX_NAMES = 6
PLAIN_MODES = ("RGB", "RGBA", "L", "LA", "P")


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    image: str
    """Path below the folder; empty: the set as a whole."""
    level: str
    """``problem``: costs quality for certain; ``advice``: probably; ``note``: training undoes it."""
    kind: str
    reason: str
    remedy: str
    copy_of: str = ""
    """The better image of the same scene, the same way round, so that this one's caption fits it as well."""


def of_image(look: ImageStats, name: str) -> list[Finding]:
    """What is wrong with one image by itself."""
    faults = [*_size(look), *_light(look), *_damage(look), *_made(look)]
    return [Finding(name, *fault) for fault in faults]


Fault = tuple[str, str, str, str]
FramesAgain = Callable[[Sequence[int]], Iterator[tuple[int, np.ndarray]]]
"""From indices of images to the index and the ``frames`` of each that can be read."""


def _size(look: ImageStats) -> list[Fault]:
    faults: list[Fault] = []
    left, top, right, bottom = look.cut.crop
    extent = look.example.extent
    if look.upscale > UPSCALE_LEVELS[0]:
        level = PROBLEM if look.upscale > UPSCALE_LEVELS[1] else ADVICE
        crop_size = _by((right - left, bottom - top))
        reason = f"{crop_size} pixels are enlarged {look.upscale:.1f} times to {_by(look.size)}"
        faults.append((level, "small", reason, "Use a larger copy, or lower data.resolution."))
    crop_loss = 1 - (right - left) * (bottom - top) / ((extent[2] - extent[0]) * (extent[3] - extent[1]))
    if crop_loss > MAX_CROP_LOSS:
        reason = f"the crop to {_by(look.size)} loses {crop_loss:.0%} of it"
        faults.append((ADVICE, "aspect", reason, "Crop it yourself, or say what counts in a .crop file."))
    cut_faces = [face for face in look.cut.faces if not _inside(face, look.cut.crop)]
    if cut_faces:
        reason = (
            f"{len(cut_faces)} of {len(look.cut.faces)} faces do not fit into the crop to {_by(look.size)}"
        )
        faults.append((PROBLEM, "face", reason, "Crop it yourself, or say what counts in a .crop file."))
    return faults


def _light(look: ImageStats) -> list[Fault]:
    faults: list[Fault] = []
    blur, softest, sharpest = look.sharpness
    if (
        softest is not None
        and sharpest is not None
        and softest > MAX_MOTION_BLUR
        and sharpest < min(MAX_BLUR, MOTION_RATIO * softest)  # the other way it is sharp
    ):
        reason = f"it is smeared in one direction, over {3.5 * softest:.0f} pixels or so at {_by(look.size)}"
        faults.append((PROBLEM, "motion", reason, "Leave it out, or use one taken with a steadier hand."))
    elif blur is not None and blur > MAX_BLUR:
        reason = f"its sharpest edges are {2 * blur:.0f} pixels wide at {_by(look.size)}"
        faults.append((PROBLEM, "blur", reason, "Leave it out, or use a sharper one."))
    exposure_faults = {
        "dark": ("hardly anything in it is brighter than black", "Lighten it, or leave it out."),
        "burnt": ("its lights are burnt out to white", "Darken it from the raw file, or leave it out."),
        "flat": ("it has next to no contrast", "Raise its contrast, or leave it out."),
    }
    if look.exposure:
        faults.append((ADVICE, "exposure", *exposure_faults[look.exposure]))
    return faults


def _damage(look: ImageStats) -> list[Fault]:
    faults: list[Fault] = []
    reduction = 1 / look.upscale
    limit = next(quality for times, quality in MIN_JPEG_QUALITY if reduction < times)
    remedy = "Use the original instead of a copy that was saved again."
    if look.quality is not None and look.quality < limit:
        faults.append((PROBLEM, "jpeg", f"it is a JPEG of quality {look.quality}", remedy))
    elif look.blocks > MAX_BLOCKINESS:
        reason = f"it shows JPEG's blocks: steps between them are {look.blocks:.1f} times those inside"
        faults.append((PROBLEM, "jpeg", reason, remedy))
    if any(look.borders):
        sides = zip(("left", "top", "right", "bottom"), look.borders, strict=True)
        bars = ", ".join(f"{side} {share:.0%}" for side, share in sides if share)
        faults.append((PROBLEM, "border", f"it has a plain bar around it ({bars})", "Crop the bar away."))
    return faults


def _made(look: ImageStats) -> list[Fault]:
    facts = [
        (look.format_info.turn != 1, "turned", "it is stored turned, with a note to turn it"),
        (look.format_info.transparent, "transparent", "its transparent parts become white"),
        (look.format_info.moving, "moving", "only the first of its frames is read"),
        (
            look.format_info.mode not in PLAIN_MODES,
            "samples",
            f"its {look.format_info.mode} samples become RGB",
        ),
        (
            look.format_info.profile == BROKEN_PROFILE,
            "profile",
            "its ICC colour profile cannot be read, and its colours are taken for sRGB",
        ),
        (
            look.format_info.profile not in ("", BROKEN_PROFILE),
            "profile",
            f'its colours become sRGB, from "{look.format_info.profile}"',
        ),
    ]
    fix = "Nothing needs doing; --fix writes it as training reads it."
    return [(NOTE, kind, reason, fix) for holds, kind, reason in facts if holds]


def of_set(
    looks: Sequence[ImageStats],
    names: Sequence[str],
    concept: str,
    frames_again: FramesAgain = lambda indices: iter(()),
) -> list[Finding]:
    """What is wrong with the images together: copies, bursts, shared marks, too few, too alike.

    Args:
        looks: One for each image.
        names: Their paths below the folder.
        concept: ``subject``, ``face``, ``object``, ``style`` or ``concept``.
        frames_again: Reads the ``frames`` of those that kept none, by index; asked only where others share
            a mark.
    """
    findings = [*_copies(looks, names), *_marks(looks, names, frames_again)]
    minimum = MIN_IMAGES[concept]
    if largest := max((look.upscale for look in looks if look.upscale > UPSCALE_LEVELS[0]), default=0.0):
        findings.append(_enlarged(looks, largest))
    if len(looks) < minimum:
        reason = f'{counted(len(looks), "image")} for the concept "{concept}", which takes about {minimum}'
        findings.append(Finding("", ADVICE, "count", reason, "Add more, of other places, poses and light."))
    return findings


def _enlarged(looks: Sequence[ImageStats], largest: float) -> Finding:
    """What resolution enlarges none: the buckets' areas go with the square of it."""
    count = sum(look.upscale > UPSCALE_LEVELS[0] for look in looks)
    side = max((look.size[0] * look.size[1]) ** 0.5 for look in looks) / largest
    resolution = max(16, int(side) // 16 * 16)
    reason = f"{count} of {len(looks)} images are enlarged, {largest:.1f} times at most"
    return Finding("", ADVICE, "small", reason, f"data.resolution = {resolution} enlarges none of them.")


def of_variety(points: np.ndarray, names: Sequence[str], *, max_distance: float, basis: str) -> list[Finding]:
    """Whether most images are of one kind.

    Args:
        points: (N, D), each of length 1.
        names: N paths.
        max_distance: Distance, 1 minus the cosine, below which images are of one kind.
        basis: What the points were made by, for the reason.
    """
    if len(points) < MIN_FOR_VARIETY:
        return []
    sample = spread(len(points), MAX_FOR_VARIETY)
    largest = variety.clusters(points[sample], max_distance)[0]
    if len(largest) <= MAX_ONE_KIND * len(sample):
        return []
    whole = "" if len(sample) == len(points) else f" (looked at of {len(points)})"
    members = _names([sample[position] for position in largest], names)
    reason = f"{len(largest)} of {len(sample)} images{whole} are of one kind, by {basis}: {members}"
    remedy = "Vary place, pose, distance and light: what never changes is learned as part of the subject."
    return [Finding("", ADVICE, "variety", reason, remedy)]


def _copies(looks: Sequence[ImageStats], names: Sequence[str]) -> list[Finding]:
    findings: list[Finding] = []
    first: dict[str, int] = {}
    unique = [
        index for index, item in enumerate(looks) if first.setdefault(item.example.sha256, index) == index
    ]
    for index, item in enumerate(looks):
        if (original := first[item.example.sha256]) != index:
            reason = f"is the same file as {names[original]}"
            findings.append(
                Finding(names[index], PROBLEM, "duplicate", reason, "Remove one of the two.", names[original])
            )
    for group in near_duplicates.groups([looks[index].phash for index in unique]):
        members = [unique[index] for index in group]
        best = best_of(looks, members)
        for index in members:
            if index == best:
                continue
            is_mirror = near_duplicates.near(looks[best].phash, looks[index].phash) == "mirrored"
            word = "is a mirror image of" if is_mirror else "is nearly the same as"
            reason = f"{word} {names[best]}{_better(looks[best], looks[index])}"
            caption_from = "" if is_mirror else names[best]
            findings.append(
                Finding(
                    names[index], PROBLEM, "near-duplicate", reason, "Remove it; --fix does.", caption_from
                )
            )
    return findings


def best_of(looks: Sequence[ImageStats], members: Sequence[int]) -> int:
    """Of shots of one scene the sharpest; of equally sharp ones the largest, then the first."""
    return min(members, key=lambda index: (*_rank(looks[index]), index))


def _rank(look: ImageStats) -> tuple[float, float]:
    """The smaller, the better: how soft it is, and how small."""
    blur, smear, _ = look.sharpness
    blur_rank = max(blur or 0.0, smear or 0.0) if blur is not None else np.inf
    return round(blur_rank * max(1.0, look.upscale), 1), look.upscale


def _better(best: ImageStats, other: ImageStats) -> str:
    """What the better of two shots has over the other; nothing where it only comes first."""
    (soft, small), (softer, smaller) = _rank(best), _rank(other)
    return ", the sharper of the two" * (soft < softer) or ", the larger of the two" * (small < smaller)


def _marks(looks: Sequence[ImageStats], names: Sequence[str], frames_again: FramesAgain) -> list[Finding]:
    findings: list[Finding] = []
    scenes = list(range(len(looks)))
    for group in near_duplicates.groups([item.phash for item in looks]):
        for index in group:
            scenes[index] = group[0]
    kept = [(index, item.frames) for index, item in enumerate(looks) if item.frames is not None]
    numbers = [index for index, _ in kept]
    marks = watermark.find_watermarks([frames for _, frames in kept], [scenes[index] for index in numbers])
    carriers = [[numbers[position] for position in mark.images] for mark in marks]
    rest = [index for index, item in enumerate(looks) if item.frames is None]
    for index, frames in frames_again(rest) if marks else ():
        for mark, images in zip(marks, carriers, strict=True):
            if watermark.carries(mark, frames):
                images.append(index)
    for mark, images in zip(marks, carriers, strict=True):
        visible = [
            index
            for index in sorted(images)
            if _meet(watermark.location(mark, *_whole(looks[index])), looks[index].cut.crop)
        ]
        reason = f"it and {len(images) - 1} others carry one mark, {mark.position}"
        remedy = (
            "Use pictures without it, or crop it away: a mark that repeats is learned before the subject."
        )
        findings += [Finding(names[index], PROBLEM, "watermark", reason, remedy) for index in visible]
    return findings


def _whole(look: ImageStats) -> tuple[int, int]:
    return look.example.width, look.example.height


def _meet(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def of_captions(
    captions: Sequence[Sequence[str]], names: Sequence[str], trigger: str, default: str = ""
) -> list[Finding]:
    """What is wrong with the captions, as they stand in the files.

    Args:
        captions: The variants of each image; none where it has none.
        names: Paths of the images below the folder.
        trigger: ``data.trigger``; empty: there is none.
        default: ``data.default_caption``, which training shows for an image that has none.
    """
    stats = caption_stats(captions, trigger)
    remedy, sight = "Write one, or run: limner caption", default or trigger
    effect = f'training sees "{sight}" alone' if sight else "training sees the empty caption"
    # Training on the trigger alone is a known way; some images with captions and some without is none.
    level = ADVICE if sight and len(stats.missing) == len(captions) else PROBLEM
    findings = [
        Finding(names[index], level, "no-caption", f"has no caption: {effect}", remedy)
        for index in stats.missing
    ]
    findings += _faulty(captions, names, trigger)
    for group in stats.duplicates:
        reason = f"{len(group)} images have one caption: {_names(group, names)}"
        findings.append(Finding("", ADVICE, "same-caption", reason, "Say of each what is different in it."))
    for index in stats.without_trigger:
        reason = f'lacks "{trigger}", which others have; training puts it in front'
        findings.append(
            Finding(names[index], ADVICE, "trigger", reason, "Write the trigger where the others have it.")
        )
    for index in stats.trigger_case:
        reason = f'writes the trigger in other letters than "{trigger}"'
        findings.append(Finding(names[index], ADVICE, "trigger", reason, "Write it the same everywhere."))
    for index in stats.trigger_position:
        reason = f'has "{trigger}" elsewhere in the sentence than most captions'
        findings.append(Finding(names[index], ADVICE, "trigger", reason, "Give it the same role everywhere."))
    return findings + _bound(stats, trigger)


def _faulty(captions: Sequence[Sequence[str]], names: Sequence[str], trigger: str) -> list[Finding]:
    """Captions that describe nothing, or hold what training reads as words."""
    remedies = {
        "no-description": (PROBLEM, "Write what is to be seen, or delete it and run: limner caption"),
        "syntax": (ADVICE, "Take it out: training reads captions letter by letter."),
    }
    findings: list[Finding] = []
    for name, texts in zip(names, captions, strict=True):
        faults = [fault for text in texts if (fault := caption_fault(text, trigger))]
        for fault in sorted(faults)[:1]:  # of one image the worst
            level, remedy = remedies[fault.kind]
            findings.append(Finding(name, level, "caption", f"its caption {fault.reason}", remedy))
    return findings


def _bound(stats: CaptionStats, trigger: str) -> list[Finding]:
    findings: list[Finding] = []
    fix = "Vary these words, or leave out what always holds: it is learned with the trigger."
    if stats.common_opening:
        findings.append(
            Finding("", ADVICE, "opening", f'captions begin alike: "{stats.common_opening} .."', fix)
        )
    words = [word for word in stats.common_words if word not in stats.common_opening.split()]
    if words and trigger:
        reason = f'in every caption beside "{trigger}": {", ".join(words[:MAX_NAMES])}'
        findings.append(Finding("", ADVICE, "fused", reason, fix))
    return findings


def of_lengths(counts: Mapping[str, tuple[int, int]]) -> list[Finding]:
    """Captions that the text encoder would cut.

    Args:
        counts: Image -> (tokens of its longest caption, tokens that are read).
    """
    remedy = "Shorten it: the end is never read."
    return [
        Finding(name, PROBLEM, "long-caption", f"has a caption of {tokens} tokens; {limit} are read", remedy)
        for name, (tokens, limit) in counts.items()
        if tokens > limit
    ]


def spread(count: int, most: int) -> list[int]:
    """The indices of ``count`` things, or of ``most`` of them, spread evenly."""
    return list(range(count)) if count <= most else [position * count // most for position in range(most)]


def _inside(inner: tuple[int, ...], outer: tuple[int, ...]) -> bool:
    return inner[0] >= outer[0] and inner[1] >= outer[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def _names(indices: Sequence[int], names: Sequence[str]) -> str:
    rest = f" and {len(indices) - MAX_NAMES} more" if len(indices) > MAX_NAMES else ""
    return ", ".join(names[index] for index in indices[:MAX_NAMES]) + rest


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
