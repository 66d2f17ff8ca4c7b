"""What each family says of its denoiser's inside is true of the tiny model and of the true one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cases import CASES, Case, true_base
from limner.models.family import Family
from limner.models.loading import skeleton
from limner.models.registry import family_of
from limner.models.source import Source
from limner.nn.arch import matching
from tinybase import PLACES, Base

CASE = {case.name: case for case in CASES if case.name != "sdxl-v"}

BLOCKS = {
    "anima": 28,
    "chroma": 57,
    "flux-dev": 57,
    "flux-kontext": 57,
    "flux2-klein": 25,
    "flux2-dev": 56,
    "hidream": 48,
    "ideogram4": 34,
    "krea2": 32,
    "qwen-image": 60,
    "qwen-image-2.1": 32,
    "z-image": 34,
    "sd3": 24,
    "sdxl": 87,
    "sd15": 38,
}
MODULATIONS = {  # billions of weights, biases left aside, and how many layers
    "anima": (0.0, 0),
    "chroma": (0.0, 0),
    "flux-dev": (3.2464, 77),
    "flux-kontext": (3.2464, 77),
    "flux2-klein": (0.1604, 4),
    "flux2-dev": (0.6417, 4),
    "hidream": (2.5297, 49),
    "ideogram4": (0.3209, 34),
    "krea2": (0.2265, 1),
    "qwen-image": (6.8136, 121),
    "qwen-image-2.1": (0.0839, 2),
    "z-image": (0.1258, 32),
    "sd3": (0.7668, 49),
    "sdxl": (0.0176, 17),
    "sd15": (0.0258, 22),
}
TAILS = {
    "anima": 28,
    "chroma": 76,
    "flux-dev": 76,
    "flux-kontext": 76,
    "flux2-klein": 30,
    "flux2-dev": 64,
    "hidream": 64,
    "ideogram4": 0,
    "krea2": 32,
    "qwen-image": 120,
    "qwen-image-2.1": 32,
    "z-image": 0,
    "sd3": 47,
    "sdxl": 70,
    "sd15": 16,
}


def _skeleton(case: Case, folder: Path, **changes: Any) -> tuple[Family, nn.Module]:
    family = family_of(case.pipeline)
    place = folder / family.denoiser
    place.mkdir()
    (place / "config.json").write_text(json.dumps(true_base(case).config(family.denoiser) | changes))
    source = Source(folder, case.name)
    return family, skeleton(family, source, family.denoiser, dtype=torch.bfloat16)


@pytest.mark.parametrize("name", CASE)
def test_the_true_model_has_the_blocks_modulations_and_tails_that_its_family_names(
    name: str, tmp_path: Path
) -> None:
    family, model = _skeleton(CASE[name], tmp_path)
    blocks = family.arch.blocks_of(model)
    modulations = matching(model, family.arch.modulations)
    tails = matching(model, family.arch.tails)
    assert all(isinstance(layer, nn.Linear) for layer in (*modulations.values(), *tails.values()))
    assert (len(blocks), len(tails)) == (BLOCKS[name], TAILS[name])
    weights = sum(layer.weight.numel() for layer in modulations.values() if isinstance(layer, nn.Linear))
    assert (round(weights / 1e9, 4), len(modulations)) == MODULATIONS[name]
    assert all(tail.startswith(tuple(f"{block}." for block in blocks)) for tail in tails)
    inside = sum(p.numel() for block in blocks.values() for p in block.parameters())
    if name not in {"sdxl", "sd15"}:  # their samplers and projections are outside
        assert inside > 0.94 * CASE[name].parameters


@pytest.mark.parametrize("name", CASE)
def test_no_block_and_no_modulation_is_named_twice_and_every_pattern_names_some(
    name: str, tmp_path: Path
) -> None:
    family, model = _skeleton(CASE[name], tmp_path)
    arch = family.arch
    optional = {"add_embedding"}  # sd15 has none
    for patterns in (arch.blocks, arch.modulations, arch.conditions, arch.tails):
        found = [list(matching(model, (pattern,))) for pattern in patterns]
        assert all(some or pattern in optional for some, pattern in zip(found, patterns, strict=True))
        names = [name for some in found for name in some]
        assert len(names) == len(set(names))
    blocks = list(arch.blocks_of(model))
    assert not [b for b in blocks if b.startswith(tuple(f"{other}." for other in blocks))]


@pytest.mark.parametrize("name", [name for name in CASE if family_of(CASE[name].pipeline).arch.depths])
def test_a_config_made_shallower_has_as_many_blocks_fewer(name: str, tmp_path: Path) -> None:
    arch = family_of(CASE[name].pipeline).arch
    assert len(arch.depths) == len(arch.blocks)
    _, model = _skeleton(CASE[name], tmp_path, **dict.fromkeys(arch.depths, 1))
    assert len(arch.blocks_of(model)) == len(arch.blocks)


@pytest.mark.parametrize("name", CASE)
def test_blocks_run_in_the_order_named_and_the_conditions_before_every_modulation(
    name: str, tmp_path: Path
) -> None:
    base = Base(CASE[name], tmp_path / name)
    denoiser, arch = base.models[base.family.denoiser], base.family.arch
    order: list[str] = []
    for patterns in (arch.blocks, arch.modulations, arch.conditions):
        for each, module in matching(denoiser, patterns).items():
            module.register_forward_pre_hook(lambda *_, each=each: order.append(each))
    with torch.no_grad():
        base.live(denoiser, base.batch(0), PLACES[:1])
    blocks = list(arch.blocks_of(denoiser))
    assert [each for each in order if each in blocks] == blocks
    conditions, modulations = (
        [order.index(each) for each in matching(denoiser, patterns) if each in order]
        for patterns in (arch.conditions, arch.modulations)
    )
    assert not modulations or max(conditions) < min(modulations)
    assert len(modulations) == len(matching(denoiser, arch.modulations)), "every modulation runs"
