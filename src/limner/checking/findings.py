"""From figures to findings: what is wrong with an image or a set, why, and what to do about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from limner.checking import near_duplicates, watermark
from limner.checking.caption_stats import Wording, wording
from limner.checking.image_stats import Look

PROBLEM, ADVICE, NOTE = "problem", "advice", "note"
SOFT, SMEARED = 1.8, 1.9
"""Pixels of blur, at the size of training. Sharp pictures have 0 to 1.2, whatever their grounds."""
UNLIKE = 0.7
"""Blur of the sharpest direction, as a share of the softest, below which the camera moved."""
ENLARGED = (1.05, 2.0)
"""Times that an image is enlarged: advice, problem."""
LOST = 0.25
"""Share of an image that a crop may take."""
COARSE = ((1.5, 40), (3.0, 25), (np.inf, 10))
"""(times reduced, JPEG quality): the more an image is reduced, the less of its damage is left."""
BLOCKS = 1.75
ENOUGH = {"subject": 10, "face": 10, "object": 8, "style": 20}
"""Images from which a LoRA generalises, as the guides of the trainers have it: see ``models.presets``."""
FEW = 8
"""Images below which nothing is said about variety."""
ONE_KIND = 0.6
"""Share of the images that may be of one kind."""
LISTED = 6
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


def of_image(look: Look, name: str) -> list[Finding]:
    """What is wrong with one image by itself."""
    found = [*_size(look), *_light(look), *_damage(look), *_made(look)]
    return [Finding(name, *each) for each in found]


Said = tuple[str, str, str, str]


def _size(look: Look) -> list[Said]:
    found: list[Said] = []
    left, top, right, bottom = look.cut.crop
    extent = look.example.extent
    if look.enlarged > ENLARGED[0]:
        level = PROBLEM if look.enlarged > ENLARGED[1] else ADVICE
        own = _by((right - left, bottom - top))
        why = f"{own} pixels are enlarged {look.enlarged:.1f} times to {_by(look.size)}"
        found.append((level, "small", why, "Use a larger copy, or lower data.resolution."))
    lost = 1 - (right - left) * (bottom - top) / ((extent[2] - extent[0]) * (extent[3] - extent[1]))
    if lost > LOST:
        why = f"the crop to {_by(look.size)} loses {lost:.0%} of it"
        found.append((ADVICE, "aspect", why, "Crop it yourself, or say what counts in a .crop file."))
    gone = [face for face in look.cut.faces if not _inside(face, look.cut.crop)]
    if gone:
        why = f"{len(gone)} of {len(look.cut.faces)} faces do not fit into the crop to {_by(look.size)}"
        found.append((PROBLEM, "face", why, "Crop it yourself, or say what counts in a .crop file."))
    return found


def _light(look: Look) -> list[Said]:
    found: list[Said] = []
    blur, smear, steady = look.sharpness
    if smear is not None and steady is not None and smear > SMEARED and steady < UNLIKE * smear:
        why = f"it is smeared in one direction, over {3.5 * smear:.0f} pixels or so at {_by(look.size)}"
        found.append((PROBLEM, "motion", why, "Leave it out, or use one taken with a steadier hand."))
    elif blur is not None and blur > SOFT:
        why = f"its sharpest edges are {2 * blur:.0f} pixels wide at {_by(look.size)}"
        found.append((PROBLEM, "blur", why, "Leave it out, or use a sharper one."))
    said = {
        "dark": ("hardly anything in it is brighter than black", "Lighten it, or leave it out."),
        "burnt": ("its lights are burnt out to white", "Darken it from the raw file, or leave it out."),
        "flat": ("it has next to no contrast", "Raise its contrast, or leave it out."),
    }
    if look.exposure:
        found.append((ADVICE, "exposure", *said[look.exposure]))
    return found


def _damage(look: Look) -> list[Said]:
    found: list[Said] = []
    reduced = 1 / look.enlarged
    limit = next(quality for times, quality in COARSE if reduced < times)
    again = "Use the original instead of a copy that was saved again."
    if look.quality is not None and look.quality < limit:
        found.append((PROBLEM, "jpeg", f"it is a JPEG of quality {look.quality}", again))
    elif look.blocks > BLOCKS:
        why = f"it shows JPEG's blocks: steps between them are {look.blocks:.1f} times those inside"
        found.append((PROBLEM, "jpeg", why, again))
    if any(look.borders):
        sides = zip(("left", "top", "right", "bottom"), look.borders, strict=True)
        which = ", ".join(f"{side} {share:.0%}" for side, share in sides if share)
        found.append((PROBLEM, "border", f"it has a plain bar around it ({which})", "Crop the bar away."))
    return found


def _made(look: Look) -> list[Said]:
    facts = [
        (look.make.turn != 1, "turned", "it is stored turned, with a note to turn it"),
        (look.make.transparent, "transparent", "its transparent parts become white"),
        (look.make.moving, "moving", "only the first of its frames is read"),
        (
            look.make.mode not in PLAIN_MODES,
            "samples",
            f"its {look.make.mode} samples become RGB",
        ),
    ]
    fix = "Nothing needs doing; --fix writes it as training reads it."
    return [(NOTE, kind, why, fix) for holds, kind, why in facts if holds]


def of_set(looks: Sequence[Look], names: Sequence[str], goal: str) -> list[Finding]:
    """What is wrong with the images together: copies, bursts, shared marks, too few, too alike.

    Args:
        looks: One for each image.
        names: Their paths below the folder.
        goal: ``subject``, ``face``, ``object`` or ``style``.
    """
    found = [*_copies(looks, names), *_marks(looks, names)]
    least = ENOUGH[goal]
    if len(looks) < least:
        why = f'{len(looks)} images for the goal "{goal}", which takes about {least} to be learned in general'
        found.append(Finding("", ADVICE, "count", why, "Add more, of other places, poses and light."))
    return found


def of_variety(points: np.ndarray, names: Sequence[str], *, within: float, means: str) -> list[Finding]:
    """Whether most images are of one kind.

    Args:
        points: (N, D), each of length 1.
        names: N paths.
        within: Distance, 1 minus the cosine, below which images are of one kind.
        means: What the points were made by, for the reason.
    """
    if len(points) < FEW:
        return []
    largest = near_duplicates.clusters(points, within)[0]
    if len(largest) <= ONE_KIND * len(points):
        return []
    why = f"{len(largest)} of {len(points)} images are of one kind, by {means}: {_names(largest, names)}"
    remedy = "Vary place, pose, distance and light: what never changes is learned as part of the subject."
    return [Finding("", ADVICE, "variety", why, remedy)]


def _copies(looks: Sequence[Look], names: Sequence[str]) -> list[Finding]:
    found: list[Finding] = []
    first: dict[str, int] = {}
    kept = [at for at, each in enumerate(looks) if first.setdefault(each.example.sha256, at) == at]
    for at, each in enumerate(looks):
        if (own := first[each.example.sha256]) != at:
            why = f"is the same file as {names[own]}"
            found.append(Finding(names[at], PROBLEM, "duplicate", why, "Remove one of the two.", names[own]))
    for group in near_duplicates.groups([looks[at].print for at in kept]):
        members = [kept[at] for at in group]
        best = best_of(looks, members)
        for at in members:
            if at == best:
                continue
            mirrored = near_duplicates.near(looks[best].print, looks[at].print) == "mirrored"
            word = "is a mirror image of" if mirrored else "is nearly the same as"
            why = f"{word} {names[best]}{_better(looks[best], looks[at])}"
            same = "" if mirrored else names[best]
            found.append(Finding(names[at], PROBLEM, "near-duplicate", why, "Remove it; --fix does.", same))
    return found


def best_of(looks: Sequence[Look], members: Sequence[int]) -> int:
    """Of shots of one scene the sharpest; of equally sharp ones the largest, then the first."""
    return min(members, key=lambda at: (*_rank(looks[at]), at))


def _rank(look: Look) -> tuple[float, float]:
    """The smaller, the better: how soft it is, and how small."""
    blur, smear, _ = look.sharpness
    worst = max(blur or 0.0, smear or 0.0) if blur is not None else np.inf
    return round(worst * max(1.0, look.enlarged), 1), look.enlarged


def _better(best: Look, other: Look) -> str:
    """What the better of two shots has over the other; nothing where it only comes first."""
    (soft, small), (softer, smaller) = _rank(best), _rank(other)
    return ", the sharper of the two" * (soft < softer) or ", the larger of the two" * (small < smaller)


def _marks(looks: Sequence[Look], names: Sequence[str]) -> list[Finding]:
    found: list[Finding] = []
    scenes = list(range(len(looks)))
    for group in near_duplicates.groups([each.print for each in looks]):
        for at in group:
            scenes[at] = group[0]
    for mark in watermark.shared([each.frames for each in looks], scenes):
        seen = [
            at for at in mark.images if _meet(watermark.lies(mark, *_whole(looks[at])), looks[at].cut.crop)
        ]
        why = f"it and {len(mark.images) - 1} others carry one mark, {mark.place}"
        remedy = (
            "Use pictures without it, or crop it away: a mark that repeats is learned before the subject."
        )
        found += [Finding(names[at], PROBLEM, "watermark", why, remedy) for at in seen]
    return found


def _whole(look: Look) -> tuple[int, int]:
    return look.example.width, look.example.height


def _meet(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def of_captions(captions: Sequence[Sequence[str]], names: Sequence[str], trigger: str) -> list[Finding]:
    """What is wrong with the captions, as they stand in the files.

    Args:
        captions: The variants of each image; none where it has none.
        names: Paths of the images below the folder.
        trigger: ``data.trigger``; empty: there is none.
    """
    said = wording(captions, trigger)
    write = "Write one, or run: limner caption"
    none = f'training sees "{trigger}" alone' if trigger else "training sees the empty caption"
    # Training on the trigger alone is a known way; some images with captions and some without is none.
    level = ADVICE if trigger and len(said.missing) == len(captions) else PROBLEM
    found = [Finding(names[at], level, "no-caption", f"has no caption: {none}", write) for at in said.missing]
    for group in said.repeated:
        why = f"{len(group)} images have one caption: {_names(group, names)}"
        found.append(Finding("", ADVICE, "same-caption", why, "Say of each what is different in it."))
    for at in said.untriggered:
        why = f'lacks "{trigger}", which others have; training puts it in front'
        found.append(
            Finding(names[at], ADVICE, "trigger", why, "Write the trigger where the others have it.")
        )
    for at in said.respelled:
        why = f'writes the trigger in other letters than "{trigger}"'
        found.append(Finding(names[at], ADVICE, "trigger", why, "Write it the same everywhere."))
    for at in said.displaced:
        why = f'has "{trigger}" elsewhere in the sentence than most captions'
        found.append(Finding(names[at], ADVICE, "trigger", why, "Give it the same role everywhere."))
    return found + _bound(said, trigger)


def _bound(said: Wording, trigger: str) -> list[Finding]:
    found: list[Finding] = []
    fix = "Vary these words, or leave out what always holds: it is learned with the trigger."
    if said.openings:
        found.append(Finding("", ADVICE, "opening", f'captions begin alike: "{said.openings} .."', fix))
    words = [word for word in said.fused if word not in said.openings.split()]
    if words and trigger:
        why = f'in every caption beside "{trigger}": {", ".join(words[:LISTED])}'
        found.append(Finding("", ADVICE, "fused", why, fix))
    return found


def of_lengths(counts: Mapping[str, tuple[int, int]]) -> list[Finding]:
    """Captions that the text encoder would cut.

    Args:
        counts: Image -> (tokens of its longest caption, tokens that are read).
    """
    remedy = "Shorten it: the end is never read."
    return [
        Finding(name, PROBLEM, "long-caption", f"has a caption of {tokens} tokens; {most} are read", remedy)
        for name, (tokens, most) in counts.items()
        if tokens > most
    ]


def _inside(inner: tuple[int, ...], outer: tuple[int, ...]) -> bool:
    return inner[0] >= outer[0] and inner[1] >= outer[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def _names(which: Sequence[int], names: Sequence[str]) -> str:
    more = f" and {len(which) - LISTED} more" if len(which) > LISTED else ""
    return ", ".join(names[at] for at in which[:LISTED]) + more


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
