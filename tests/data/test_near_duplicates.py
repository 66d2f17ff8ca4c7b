import numpy as np
import pytest
from PIL import Image

from limner.data.folder import read_folder
from limner.data.near_duplicates import groups, hold_out, near, near_training, perceptual_hash


def scene(seed: int) -> Image.Image:
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 255, (7, 9, 3), dtype=np.uint8))
    return coarse.resize((360, 280), Image.Resampling.BICUBIC)


def test_copies_are_told_from_others():
    own = perceptual_hash(np.asarray(scene(0)))
    smaller = scene(0).resize((200, 160)).point(lambda value: min(255, value + 12))
    cropped = scene(0).crop((6, 5, 352, 274))
    turned = scene(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert near(own, perceptual_hash(np.asarray(smaller))) == "near"
    assert near(own, perceptual_hash(np.asarray(cropped))) == "near"
    assert near(own, perceptual_hash(np.asarray(turned))) == "mirrored"
    assert not any(near(own, perceptual_hash(np.asarray(scene(seed)))) for seed in range(1, 40))


def test_groups_name_those_that_belong_together():
    prints = [perceptual_hash(np.asarray(scene(seed))) for seed in (0, 1, 0, 2, 1, 0)]
    assert groups(prints) == [[0, 2, 5], [1, 4]]


def photo(seed: int, side: int = 96) -> Image.Image:
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 255, (7, 9, 3), dtype=np.uint8))
    return coarse.resize((side + 20, side), Image.Resampling.BICUBIC)


def near_copy(image: Image.Image, number: int) -> Image.Image:
    """As a burst or a second export has it: brighter, smaller, mirrored, cropped."""
    ways = [
        lambda: image.point(lambda value: min(255, value + 9)),
        lambda: image.resize((image.width * 2 // 3, image.height * 2 // 3)),
        lambda: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda: image.crop((2, 2, image.width - 2, image.height - 1)),
    ]
    return ways[number % len(ways)]()


@pytest.mark.parametrize("copies", [1, 4])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_near_copies_are_never_divided(tmp_path, count, copies):
    for number in range(12):
        photo(number).save(tmp_path / f"{number:02d}.png")
    for number in range(7):
        for turn in range(copies):
            near_copy(photo(number), turn).save(tmp_path / f"{number:02d}-{turn}.png")
    examples = read_folder(tmp_path).examples
    hashes = hold_out(examples, count)
    assert len(hashes) == count
    names = {example.path.name for example in examples if example.sha256 in hashes}
    assert all(int(name[:2]) >= 7 for name in names), "those without copies come first"
    training = [example for example in examples if example.sha256 not in hashes]
    assert near_training(training, [example for example in examples if example.sha256 in hashes]) == []


def test_where_all_have_copies_whole_groups_are_held_out(tmp_path):
    for number in range(4):
        photo(number).save(tmp_path / f"{number}.png")
        near_copy(photo(number), 0).save(tmp_path / f"{number}-copy.png")
    examples = read_folder(tmp_path).examples
    names = sorted(one.path.stem[0] for one in examples if one.sha256 in hold_out(examples, 3))
    assert len(names) == 4 and names[0::2] == names[1::2]


def test_one_burst_cannot_be_divided(tmp_path):
    for number in range(5):
        near_copy(photo(0), number).save(tmp_path / f"{number}.png")
    assert hold_out(read_folder(tmp_path).examples, 2) == set()


def test_names_do_not_change_the_choice(tmp_path):
    for number in range(9):
        photo(number).save(tmp_path / f"{number}.png")
    before = hold_out(read_folder(tmp_path).examples, 3)
    for number in range(9):
        (tmp_path / f"{number}.png").rename(tmp_path / f"{chr(122 - number)}.png")
    examples = read_folder(tmp_path).examples
    assert hold_out(examples, 3) == before == set(sorted(one.sha256 for one in examples)[:3])


def test_validation_images_that_training_nearly_has_are_found(tmp_path):
    for number in range(3):
        (tmp_path / "train").mkdir(exist_ok=True)
        (tmp_path / "test").mkdir(exist_ok=True)
        photo(number).save(tmp_path / "train" / f"{number}.png")
    near_copy(photo(1), 2).save(tmp_path / "test" / "a.png")
    photo(8).save(tmp_path / "test" / "b.png")
    ((first, second),) = near_training(
        read_folder(tmp_path / "train").examples, read_folder(tmp_path / "test").examples
    )
    assert (first.path.name, second.path.name) == ("a.png", "1.png")
