from pathlib import Path

import pytest
import torch

from limner.models.bundled import known
from limner.models.registry import family_of
from limner.planning.meta_inputs import Longest, batch, boundary
from specs import traced

SHAPES = {
    "flux-dev": {"context": (1, 512, 4096), "pooled": (1, 768), "latent_mean": (1, 16, 128, 64)},
    "sdxl": {"context": (1, 77, 768), "context_2": (1, 77, 1280), "time_ids": (1, 6)},
    "z-image": {"context": (1, 512, 2560), "text_mask": (1, 512), "latent_mean": (1, 16, 128, 64)},
    "flux2-klein-4b": {"context": (1, 512, 7680), "latent_mean": (1, 128, 64, 32)},
}


@pytest.mark.parametrize("name", SHAPES)
def test_what_training_reads_is_known_from_configs(name: str) -> None:
    source = known(name)
    family = family_of(source.index["_class_name"])
    spec, _ = traced(family, source, size=(512, 1024))
    values = boundary(spec, (512, 1024))
    assert set(values) == spec.cut.boundary
    assert all(value.is_meta for value in values.values())
    assert {name: tuple(values[name].shape) for name in SHAPES[name]} == SHAPES[name]
    assert values["latent_mean"].dtype == torch.float32, "the autoencoder runs in full precision"


def test_a_caption_is_as_long_as_can_be() -> None:
    said = Longest()(["a", "b"], max_length=9, padding="max_length", return_tensors="pt")
    assert said.input_ids.shape == said.attention_mask.shape == (2, 9)
    assert Longest()("a").input_ids.shape == (1, 77)


def test_a_batch_has_real_masks_and_nothing_else_real(tmp_path: Path) -> None:
    one = {"context": torch.empty(1, 5, 2, device="meta"), "mask": torch.empty(1, 5, device="meta").bool()}
    some = batch(one, 3)
    assert some["context"].is_meta
    assert some["context"].shape == (3, 5, 2)
    assert some["mask"].shape == (3, 5)
    assert bool(some["mask"].all())
