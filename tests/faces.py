"""A drawn face that OpenCV's cascades take for one."""

from PIL import Image, ImageDraw, ImageFilter


def face(side: int) -> Image.Image:
    """Skin, hair, brows, eyes, nose, mouth; about ``side`` pixels, on nothing."""
    big = Image.new("RGBA", (400, 400))
    draw = ImageDraw.Draw(big)
    draw.ellipse((60, 10, 340, 395), fill=(205, 165, 140, 255))
    draw.chord((50, 0, 350, 260), 180, 360, fill=(60, 42, 35, 255))
    draw.ellipse((78, 70, 322, 400), fill=(214, 172, 146, 255))
    for left in (105, 225):
        draw.rounded_rectangle((left, 138, left + 72, 152), 7, fill=(70, 48, 40, 255))
        draw.ellipse((left + 4, 160, left + 68, 194), fill=(150, 110, 95, 255))
        draw.ellipse((left + 10, 164, left + 62, 190), fill=(235, 230, 225, 255))
        draw.ellipse((left + 22, 162, left + 50, 190), fill=(45, 30, 25, 255))
    draw.polygon([(190, 180), (210, 180), (228, 258), (172, 258)], fill=(192, 150, 126, 255))
    draw.ellipse((172, 244, 228, 266), fill=(170, 124, 104, 255))
    draw.ellipse((150, 296, 250, 334), fill=(150, 80, 76, 255))
    return big.filter(ImageFilter.GaussianBlur(3)).resize((side, side), Image.Resampling.LANCZOS)
