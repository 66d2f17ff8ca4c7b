from dataclasses import replace
from pathlib import Path

import torch

from limner.bases import vocabulary
from limner.bases.art import TRAINED_STYLES, Art, nouns
from limner.bases.latents import build_set, drawings, held_out
from limner.bases.parts import SIZES, fresh_vae

SIZE = replace(SIZES["cpu"], concepts=3, vae_channels=(8, 8, 8, 8), latent_channels=4)


def test_about_one_pair_in_twelve_is_held_out_for_good() -> None:
    pairs = [(noun, style) for noun in nouns() for style in TRAINED_STYLES]
    share = sum(held_out(*pair) for pair in pairs) / len(pairs)
    assert 0.06 < share < 0.11
    assert held_out("dog", "blob")
    assert not held_out("apple", "noto")


def test_the_set_covers_every_pair_once_a_variant(art_file: Path) -> None:
    torch.manual_seed(0)
    vae = fresh_vae(SIZE).eval()
    vae.register_to_config(shift_factor=0.5, scaling_factor=2.0)
    tokenizers = {"tokenizer": vocabulary.clip_tokenizer(), "tokenizer_2": vocabulary.t5_tokenizer()}
    device = torch.device("cpu")

    def build(variants: int, *, kept: bool) -> dict[str, torch.Tensor]:
        return build_set(
            art_file, SIZE, vae, tokenizers, variants=variants, from_held_out=kept, device=device
        )

    shown, kept = build(3, kept=False), build(1, kept=True)
    pairs = [(noun, style) for noun in list(nouns())[:3] for style in TRAINED_STYLES]
    hidden = sum(held_out(*pair) for pair in pairs)
    assert hidden > 0
    assert len(shown["latent_mean"]) == 3 * (len(pairs) - hidden)
    assert len(kept["latent_mean"]) == hidden
    assert shown["latent_mean"].shape[1:] == (4, 8, 8)
    assert shown["clip_tokens"].shape[1] == 77
    assert shown["t5_tokens"].shape[1] == SIZE.text_length
    assert shown["latent_logvar"].isfinite().all()
    again = build(3, kept=False)
    assert all(torch.equal(value, again[name]) for name, value in shown.items())


def test_smaller_drawings_keep_their_cover_and_colour(art: Art) -> None:
    full, half = drawings(art, 128), drawings(art, 64)
    assert half.shape == (len(art.rgba), 4, 64, 64)
    assert torch.allclose(full[:, 3].mean((1, 2)), half[:, 3].mean((1, 2)), atol=1e-5)
    solid = half[:, 3] > 0
    assert torch.allclose(half[3, :3][:, solid[3]].T, full[3, :3, 64, 64], atol=1e-4)
