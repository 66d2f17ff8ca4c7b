"""Pictures that are in order, of fourteen kinds, some of them traps."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Size = tuple[int, int]


def noise(draw: np.random.Generator, size: Size, rough: float = 1.0, channels: int = 3) -> np.ndarray:
    """(H, W, C) float32 of mean 0 and deviation 1, of all scales; ``rough`` is the slope of its spectrum."""
    width, height = size
    sheet = np.zeros((height, width, channels), np.float32)
    for scale in (256, 128, 64, 32, 16, 8, 4, 2, 1):
        coarse = draw.standard_normal((height // scale + 2, width // scale + 2, channels)).astype(np.float32)
        for channel in range(channels):
            layer = Image.fromarray(coarse[..., channel]).resize(size, Image.Resampling.BICUBIC)
            sheet[..., channel] += scale**rough * np.asarray(layer)
    return (sheet - sheet.mean()) / sheet.std()


def picture(values: np.ndarray) -> Image.Image:
    """(H, W, 3) of any numbers, cut to 0..255."""
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def textured(draw: np.random.Generator, size: Size, spread: float, rough: float = 0.8) -> Image.Image:
    """A colour with texture on it."""
    colour = draw.uniform(50, 200, 3)
    gray = noise(draw, size, rough, 1) * spread
    return picture(colour + gray + noise(draw, size, rough) * spread * 0.3)


def blob(draw: np.random.Generator, size: Size) -> Image.Image:
    """A mask of one round, irregular thing near the middle."""
    width, height = size
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    wave = sum(draw.normal(0, 0.12) * np.cos(k * angle + draw.uniform(0, 6)) for k in range(2, 6))
    radius = min(size) * draw.uniform(0.22, 0.36) * (1 + wave)
    middle = width * draw.uniform(0.4, 0.6), height * draw.uniform(0.42, 0.6)
    points = list(zip(middle[0] + radius * np.cos(angle), middle[1] + radius * np.sin(angle), strict=True))
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).polygon(points, fill=255)
    return mask.filter(ImageFilter.GaussianBlur(0.7))


def landscape(draw: np.random.Generator, size: Size) -> Image.Image:
    """Sky, ridges, ground."""
    width, height = size
    fade = np.linspace(0, 1, height)[:, None, None]
    sky = draw.uniform(120, 220, 3) * (1 - fade) + draw.uniform(170, 250, 3) * fade
    page = picture(np.broadcast_to(sky, (height, width, 3)) + noise(draw, size, 1.2) * 5)
    for layer in range(3):
        line = height * (0.35 + 0.17 * layer) + noise(draw, (width, 8), 1.1, 1)[4, :, 0] * height * 0.06
        mask = (np.arange(height)[:, None] > line[None]).astype(np.uint8) * 255
        page.paste(textured(draw, size, 14 + 8 * layer, 0.5), mask=Image.fromarray(mask))
    return page


def portrait(draw: np.random.Generator, size: Size) -> Image.Image:
    """One sharp thing before a backdrop far out of focus."""
    page = textured(draw, size, 45, 0.9).filter(ImageFilter.GaussianBlur(14))
    page.paste(textured(draw, size, 30, 0.5), mask=blob(draw, size))
    return page


def product(draw: np.random.Generator, size: Size) -> Image.Image:
    """A thing with its shadow on pure white: much white, and nothing burnt."""
    page = Image.new("RGB", size, "white")
    mask = blob(draw, size)
    shadow = mask.filter(ImageFilter.GaussianBlur(18)).point(lambda value: value // 4)
    page.paste((60, 60, 70), (20, 24), shadow)
    page.paste(textured(draw, size, 25, 0.6), mask=mask)
    return page


def night(draw: np.random.Generator, size: Size) -> Image.Image:
    """Black, with lamps and windows."""
    page = picture(8 + np.abs(noise(draw, size, 1.0)) * 5)
    pen = ImageDraw.Draw(page)
    for _ in range(30):
        x, y = draw.uniform(0, size[0]), draw.uniform(0, size[1])
        side = draw.uniform(6, 26)
        pen.rectangle((x, y, x + side, y + side * 1.4), fill=tuple(draw.integers(140, 255, 3).tolist()))
    return page


def flat(draw: np.random.Generator, size: Size) -> Image.Image:
    """An illustration of plain shapes, the upper half one colour."""
    page = Image.new("RGB", size, tuple(draw.integers(30, 240, 3).tolist()))
    pen = ImageDraw.Draw(page)
    pen.rectangle((0, size[1] * 0.62, *size), fill=tuple(draw.integers(30, 240, 3).tolist()))
    for _ in range(7):
        x, y = draw.uniform(0, size[0] * 0.8), draw.uniform(0, size[1] * 0.8)
        box = (x, y, x + draw.uniform(50, 250), y + draw.uniform(50, 250))
        shape = (pen.ellipse, pen.rectangle)[int(draw.integers(2))]
        shape(box, fill=tuple(draw.integers(0, 255, 3).tolist()))
    return page


def pixel_art(draw: np.random.Generator, size: Size) -> Image.Image:
    """Squares of eight pixels: a grid like JPEG's, and no fault."""
    cells = draw.integers(0, 255, (6, 3), dtype=np.uint8)[draw.integers(0, 6, (size[1] // 8, size[0] // 8))]
    return Image.fromarray(cells).resize((size[0] // 8 * 8, size[1] // 8 * 8), Image.Resampling.NEAREST)


def page_of_text(draw: np.random.Generator, size: Size) -> Image.Image:
    """Black on paper."""
    page = Image.new("RGB", size, tuple(draw.integers(225, 250, 3).tolist()))
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(22)
    letters = "abcdefghijklmnopqrstuvwxyz   "
    for y in range(40, size[1] - 40, 34):
        line = "".join(draw.choice(list(letters), int(draw.integers(20, size[0] // 14))))
        pen.text((40, y), line, fill=(25, 25, 30), font=font)
    return page


def texture(draw: np.random.Generator, size: Size) -> Image.Image:
    """Grass, gravel, fur: detail everywhere."""
    return textured(draw, size, 45, 0.3)


def high_key(draw: np.random.Generator, size: Size) -> Image.Image:
    """Nearly white, with one dark thing."""
    page = picture(232 + noise(draw, size, 1.2) * 6)
    page.paste(textured(draw, size, 30, 0.5), mask=blob(draw, size))
    return page


def low_key(draw: np.random.Generator, size: Size) -> Image.Image:
    """A thing lit from one side, in the dark."""
    side = np.linspace(0.1, 1.2, size[0])[None, :, None]
    lit = picture(np.asarray(textured(draw, size, 30, 0.5), np.float32) * side)
    page = picture(6 + noise(draw, size, 1.0) * 2)
    page.paste(lit, mask=blob(draw, size))
    return page


def waves(draw: np.random.Generator, size: Size) -> Image.Image:
    """Bands that run one way: every edge has the same direction."""
    y = np.arange(size[1])[:, None, None] / draw.uniform(9, 30)
    bend = noise(draw, size, 1.3, 1) * 2
    return picture(
        120 + 70 * np.sign(np.sin(y + bend)) * draw.uniform(0.5, 1, 3) + noise(draw, size, 0.4) * 6
    )


def fog(draw: np.random.Generator, size: Size) -> Image.Image:
    """Trunks in mist: sharp and faint."""
    page = picture(185 + noise(draw, size, 1.3) * 9)
    pen = ImageDraw.Draw(page)
    for _ in range(12):
        x, wide, gray = draw.uniform(0, size[0]), draw.uniform(8, 40), int(draw.integers(60, 150))
        pen.polygon([(x, 0), (x + wide, 0), (x + wide * 1.2, size[1]), (x - 6, size[1])], fill=(gray,) * 3)
    return page


def line_art(draw: np.random.Generator, size: Size) -> Image.Image:
    """Ink on white paper."""
    page = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(page)
    for _ in range(25):
        points = [(draw.uniform(0, size[0]), draw.uniform(0, size[1])) for _ in range(3)]
        pen.line(points, fill=(20, 20, 20), width=int(draw.integers(2, 6)), joint="curve")
    return page.filter(ImageFilter.GaussianBlur(0.6))


def room(draw: np.random.Generator, size: Size) -> Image.Image:
    """Walls, a bright window, furniture."""
    page = textured(draw, size, 6, 1.2)
    pen = ImageDraw.Draw(page)
    pen.rectangle((size[0] * 0.6, size[1] * 0.15, size[0] * 0.85, size[1] * 0.5), fill=(252, 252, 248))
    for _ in range(6):
        x, y = draw.uniform(0, size[0] * 0.7), draw.uniform(size[1] * 0.5, size[1] * 0.8)
        box = (round(x), round(y), round(x + draw.uniform(80, 260)), size[1])
        page.paste(textured(draw, (box[2] - box[0], box[3] - box[1]), 12, 0.6), box[:2])
    return page


KINDS: tuple[Callable[[np.random.Generator, Size], Image.Image], ...] = (
    *(landscape, portrait, product, night, flat, pixel_art, page_of_text),
    *(texture, high_key, low_key, waves, fog, line_art, room),
)
SIZES: tuple[Size, ...] = ((768, 768), (960, 640), (640, 960), (900, 720), (720, 900))


def clean(number: int) -> Image.Image:
    """The picture of that number: the kinds in turn, each time another."""
    draw = np.random.default_rng(number)
    return KINDS[number % len(KINDS)](draw, SIZES[number % len(SIZES)])
