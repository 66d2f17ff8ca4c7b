"""What a picture of the base's training set shows, as choices; and the sentence that says so.

Whatever is varied is said, so that style, look, colour and ground can be told apart from the noun: a LoRA
moves one and leaves the others only in a base that keeps them apart.
"""

import random
from dataclasses import dataclass

COLOURS = {
    "red": 0.0,
    "orange": 0.075,
    "yellow": 0.15,
    "green": 0.33,
    "teal": 0.5,
    "blue": 0.61,
    "purple": 0.77,
    "pink": 0.91,
}
"""Colour word -> hue in [0, 1)."""

GROUNDS = {
    "white": (255, 255, 255),
    "grey": (150, 150, 150),
    "black": (12, 12, 14),
    "cream": (250, 240, 215),
    "brown": (110, 70, 40),
    "red": (200, 40, 45),
    "maroon": (95, 15, 35),
    "orange": (245, 150, 50),
    "yellow": (250, 220, 80),
    "green": (70, 170, 80),
    "dark green": (15, 60, 35),
    "teal": (40, 150, 150),
    "sky blue": (150, 205, 245),
    "blue": (50, 90, 210),
    "purple": (120, 60, 160),
    "pink": (250, 180, 205),
}
"""Background word -> sRGB. Navy is missing on purpose: it belongs to the held-out look."""

LOOKS = ("none", "sepia", "outline", "silhouette", "neon", "tones", "negative", "chalk")
"""Looks of the base. ``blueprint`` is drawn by ``looks.py`` as well, and held out.

Two of them turn light into dark: a base in which white is always the brightest cannot learn a style that
does so and keep what it draws.
"""

OPAQUE_STYLES = ("sepia", "neon", "tones", "negative", "chalk")
"""Looks that bring their own ground."""

WORDS = {
    "sepia": ("sepia", "old sepia photo"),
    "outline": ("outline drawing", "line drawing"),
    "silhouette": ("silhouette",),
    "neon": ("neon lines", "neon sign"),
    "tones": ("{tone} tones", "tinted {tone}"),
    "negative": ("inverted colours", "photo negative"),
    "chalk": ("chalk drawing", "chalk on a blackboard"),
}


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """One way to show one drawing. Every field is said in the caption, but for the placement."""

    look: str = "none"
    tone: str = "blue"
    """Colour of the look ``tones``."""
    colour: str | None = None
    """Colour that the drawing itself is given."""
    ground: str = "white"
    flip: bool = False
    scale: float = 0.92
    shift: tuple[float, float] = (0.0, 0.0)
    """Of the middle, as a share of half the picture."""


def choose(seed: int) -> Appearance:
    """A choice, as a pure function of ``seed``."""
    draw = random.Random(seed)
    look = draw.choices(LOOKS, weights=(72, 3, 5, 3, 3, 4, 5, 5))[0]
    names = list(GROUNDS)
    ground = "white" if draw.random() < 0.5 else draw.choice(names)
    scale = draw.uniform(0.85, 1.0)
    slack = 1.0 - scale
    return Appearance(
        look=look,
        tone=draw.choice(list(COLOURS)),
        colour=draw.choice(list(COLOURS)) if look == "none" and draw.random() < 0.15 else None,
        ground=ground,
        flip=draw.random() < 0.3,
        scale=scale,
        shift=(draw.uniform(-slack, slack), draw.uniform(-slack, slack)),
    )


def caption(noun: str, style: str, choice: Appearance, seed: int, *, strange: bool = False) -> str:
    """A sentence about the picture, in one of several forms; now and then without the style, or empty.

    ``strange``: one in four has a word that means nothing in place of the style, or now and then of the
    noun. A base that never met an unknown word loses the noun beside it, and a trigger is one.
    """
    draw, odd = random.Random(seed ^ 0x5EED), random.Random(seed ^ 0x0DD)
    if draw.random() < 0.1:
        return ""
    unknown = odd.random() if strange else 1.0
    noun = made_up(odd) if unknown < 0.04 else noun
    thing = f"{choice.colour} {noun}" if choice.colour else noun
    form = draw.randrange(4)
    style_word = None if draw.random() < 0.06 else style
    style_word = made_up(odd) if 0.04 <= unknown < 0.25 else style_word
    look = draw.choice(WORDS[choice.look]).format(tone=choice.tone) if choice.look != "none" else None
    ground_words = _where(choice, draw)
    head = {
        0: f"{style_word} style {thing}" if style_word else thing,
        1: f"{one(thing)} in {style_word} style" if style_word else one(thing),
        2: thing,
        3: f"{style_word} {thing}" if style_word else f"picture of {one(thing)}",
    }[form]
    rest = [part for part in (look, ground_words) if part]
    if form == 2:
        rest += [f"{style_word} style"] if style_word else []
        draw.shuffle(rest)
    return ", ".join([head, *rest])


def made_up(draw: random.Random) -> str:
    """A word of two or three syllables that means nothing."""
    syllables = [
        draw.choice("bcdfghjklmnprstvwxz") + draw.choice("aeiou") for _ in range(draw.choice((2, 2, 3)))
    ]
    return "".join(syllables) + draw.choice(("", "", "n", "r", "x", "k", "s", "l"))


def one(thing: str) -> str:
    """With its article: ``an owl``, ``a blue owl``, ``scissors``."""
    if thing.endswith("s") and not thing.endswith(("us", "ss")):
        return thing
    return f"an {thing}" if thing[0] in "aeiou" and not thing.startswith(("uni", "one")) else f"a {thing}"


def _where(choice: Appearance, draw: random.Random) -> str | None:
    if choice.look in OPAQUE_STYLES:
        return None
    if choice.ground == "white" and draw.random() < 0.7:
        return None
    return draw.choice((f"on {one(choice.ground)} background", f"{choice.ground} background"))
