import copy
import random

import pytest
import torch

from limner.bases import style_sets
from limner.bases.art import Art
from limner.bases.style_sets import (
    FORMS,
    REFERENCES,
    TEXT_LENGTH,
    Batches,
    Drawings,
    captions,
    encode_captions,
    encode_images,
    visible,
)
from limner.bases.styles import HANDS, PLAIN, Style, draw


@pytest.fixture
def drawings(broad_drawings: Drawings) -> Drawings:
    return copy.copy(broad_drawings)


@pytest.fixture(scope="module")
def broad_drawings(broad_art: Art) -> Drawings:
    return Drawings(broad_art, 24, 64)


def test_references_and_targets_show_different_nouns(drawings):
    for seed in range(20):
        images = drawings.images(draw(seed), 8, 6, wide=False)
        assert images.references.shape == (8, 3, 64, 64) and images.targets.shape == (6, 3, 64, 64)
        nouns = images.reference_nouns + images.target_nouns
        assert len(set(nouns)) == 14 and set(nouns) <= set(drawings.nouns)


def test_half_of_the_references_are_foreign_to_the_base(drawings):
    names = [
        noun for seed in range(60) for noun in drawings.images(draw(seed), 4, 4, wide=True).reference_nouns
    ]
    assert 0.35 < sum(noun in drawings.foreign_nouns for noun in names) / len(names) < 0.65


def test_a_hand_that_did_not_draw_a_noun_is_stood_in_for(drawings):
    drawings.rows = {pair: row for pair, row in drawings.rows.items() if pair[1] == "noto"}
    assert drawings.pick(random.Random(0), "cat", ("blob",)) == drawings.rows["cat", "noto"]


def test_a_style_whose_drawings_vanish_is_passed_over(drawings):
    white = ((1.0, 1.0, 1.0),) * 8
    style = Style(PLAIN | {"colour": "flat"}, white, (0.5,) * 24, (0.0,) * 9, HANDS, 5)
    assert drawings.images(style, 2, 2, wide=True).references.min() > 0.99
    assert torch.cat(visible(style, drawings, 2, 2)[:2]).std(0).mean() > style_sets.FAINT


def test_captions_say_the_noun_and_no_style_of_the_base():
    lines = captions("owl")
    assert lines[:3] == ["owl", "an owl", "picture of an owl"] and len(set(lines)) == FORMS
    assert all(line.endswith("style owl") for line in lines[3:])
    assert not any(hand in line for line in lines for hand in HANDS)
    assert captions("owl") == lines


def test_what_the_base_makes_of_captions_and_images(tiny_parts):
    text = encode_captions(tiny_parts, ["owl", ""])
    assert text["pooled"].shape == (2, 128) and text["context"].shape == (2, TEXT_LENGTH, 192)
    latents = encode_images(tiny_parts["vae"], torch.rand(3, 3, 64, 64))
    assert latents.shape == (3, 4, 8, 8) and latents.dtype == torch.float32


def test_a_batch_is_its_seed_and_number(drawings, tiny_parts):
    batches = Batches(drawings, tiny_parts, styles=2, targets=2, seed=0)
    first, again, second = batches[5], batches[5], batches[6]
    assert first.references.shape[0] == 2 and first.references.shape[1] in REFERENCES
    assert first.latents.shape == (4, 4, 8, 8) and first.text["context"].shape == (4, TEXT_LENGTH, 192)
    assert torch.equal(first.latents, again.latents) and torch.equal(first.references, again.references)
    assert not torch.equal(first.latents, second.latents)
    batches.seed = 1
    assert not torch.equal(first.latents, batches[5].latents)


def test_some_captions_are_empty(drawings, tiny_parts):
    batches = Batches(drawings, tiny_parts, styles=1, targets=1, seed=0)
    dice = random.Random(0)
    lines = [batches._line(dice, "owl") for _ in range(2000)]
    first = drawings.nouns.index("owl") * FORMS
    empty = len(drawings.nouns) * FORMS
    assert 0.05 < lines.count(empty) / 2000 < 0.11 and 0.45 < lines.count(first) / 2000 < 0.55
    assert set(lines) <= {empty, *range(first, first + FORMS)}
    assert len(batches.text["pooled"]) == empty + 1
