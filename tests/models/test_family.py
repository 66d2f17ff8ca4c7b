"""The contract that every family keeps, and what ``Family`` does with it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from limner.errors import BadBase, BadRecipe, BrokenGraph
from limner.graph.unit import check, split
from limner.models.facts import COMMON
from limner.models.family import INPUTS, Family, Objective, mask_or_none, masked, pad_collate
from limner.models.registry import families, family_of
from limner.models.source import locate
from limner.nn.rng import to_device
from messages import raises

FAMILIES = [family_of(facts.pipeline) for facts in families().values()]
each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
FLUX = family_of("FluxPipeline")


@each_family
def test_the_units_lead_from_an_image_and_a_caption_to_a_loss(family: Family):
    check(family.units, inputs=INPUTS)
    assert "loss" in family.units[-1].writes
    assert set(family.text) <= {name for unit in family.units for name in unit.writes}
    assert {name for unit in family.units for name in unit.uses} <= set(family.parts)


def test_a_loss_that_reads_no_weights_is_no_loss_for_masks():
    deaf = replace(FLUX.units[-1], open_reads="")
    with raises(BrokenGraph):
        masked([*FLUX.units[:-1], deaf], 0.0)


@each_family
def test_the_loss_of_every_family_reads_masks_and_their_weight_is_frozen(family: Family):
    units = masked(family.units, 0.5)
    check(units, inputs=INPUTS)
    cut = split(units, {family.denoiser: 0})
    assert cut.boundary >= {"loss_weight"} and "loss_weight" in units[-1].reads


@each_family
def test_what_every_family_can_grant_is_granted(family: Family):
    assert family.supported_options >= COMMON


@each_family
def test_everything_that_trains_is_there(family: Family):
    for encoder in family.text_targets:
        assert encoder in family.parts and encoder in family.layers
        assert any(unit.layers and unit.uses == (encoder,) for unit in family.units)
        assert family.endings(encoder, "auto") == family.text_targets[encoder]
    assert family.endings(family.denoiser, "auto") == family.targets["all-linear"]
    assert set(family.full_precision) <= set(family.parts)


@each_family
def test_training_the_denoiser_alone_needs_no_other_model(family: Family):
    assert split(family.units, {family.denoiser: 0}).loaded == (family.denoiser,)


def test_constants_are_bound_from_the_base(tiny_base: Path):
    units = FLUX.bound(locate(str(tiny_base), folders={}), Objective())
    assert not any(unit.needs for unit in units)
    assert {unit.name: unit.constants for unit in units}["tokenize_2"] == {"text_length": 12}


def test_a_config_that_means_nothing_is_told(tiny_base: Path, tmp_path: Path):
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    (base / "scheduler" / "scheduler_config.json").write_text('{"shift": "x"}')
    with pytest.raises(BadBase, match=r"base: scheduler/ or transformer/ has a config that means nothing"):
        FLUX.bound(locate(str(base), folders={}), Objective())


def test_a_family_whose_units_do_not_meet_is_refused():
    with raises(BrokenGraph):
        replace(FLUX, units=FLUX.units[1:])


def test_a_wish_that_the_family_cannot_grant_is_refused(tiny_base: Path):
    with raises(BadRecipe):
        FLUX.bound(locate(str(tiny_base), folders={}), Objective(min_snr=5.0))


def test_a_shift_that_moves_nothing_is_granted_by_every_family(tiny_base: Path):
    bare, source = replace(FLUX, supported_options=COMMON), locate(str(tiny_base), folders={})
    assert bare.bound(source, Objective(time_shift=1.0))
    with pytest.raises(BadRecipe, match="train.time_shift is 2.0"):
        bare.bound(source, Objective(time_shift=2.0))


def test_layers_that_never_run_are_not_counted(tiny_base: Path):
    source = locate(str(tiny_base), folders={})
    assert FLUX.depth(source, "text_encoder") == 3
    assert replace(FLUX, idle_layers={"text_encoder": 1}).depth(source, "text_encoder") == 2


def test_endings_may_be_given():
    assert FLUX.endings("transformer", ["proj_out", "attn.to_q"]) == ("proj_out", "attn.to_q")
    assert FLUX.endings("transformer", "attention") == FLUX.targets["attention"]
    assert FLUX.endings("transformer", ["attention", "x"]) == (*FLUX.targets["attention"], "x")
    assert FLUX.endings("transformer", ["!*.ff.*"]) == (*FLUX.targets["all-linear"], "!*.ff.*")


def test_unknown_targets_and_models_are_told_with_those_that_are_known():
    with raises(BadRecipe):
        FLUX.endings("transformer", "everything")
    with raises(BadRecipe):
        FLUX.endings("text_encoder_3", "auto")
    with raises(BadBase):
        FLUX.library("unet")
    assert FLUX.library("vae") == ("diffusers", "AutoencoderKL")


@pytest.mark.parametrize("pixels", [None, 16, 1024])
def test_sides_that_can_be_painted(pixels: int | None):
    assert FLUX.check_side("sample.width", pixels) is None


@pytest.mark.parametrize(("pixels", "near"), [(100, 96), (1, 16), (1023, 1024)])
def test_sides_that_the_pipeline_would_round_are_refused(pixels: int, near: int):
    with pytest.raises(BadRecipe, match=f"sample.width is {pixels}; flux makes multiples of 16. Set {near}."):
        FLUX.check_side("sample.width", pixels)


def test_short_rows_end_in_zeros():
    rows = [torch.ones(1, length, 2) for length in (3, 1)]
    batch = pad_collate(rows)
    assert batch.shape == (2, 3, 2) and batch.sum(2).tolist() == [[2, 2, 2], [2, 0, 0]]
    mask = pad_collate([torch.ones(1, length, dtype=torch.bool) for length in (3, 1)])
    assert mask.dtype == torch.bool and mask.tolist() == [[True] * 3, [True, False, False]]


def test_rows_of_one_length_are_untouched():
    rows = [torch.randn(1, 4, 3), torch.randn(1, 4, 3)]
    assert torch.equal(pad_collate(rows), torch.cat(rows))


def test_a_mask_that_hides_nothing_is_none():
    assert mask_or_none(torch.ones(2, 3, dtype=torch.bool)) is None
    hiding = torch.tensor([[True, False]])
    assert mask_or_none(hiding) is hiding


def test_where_there_is_no_gpu_nothing_is_copied():
    """What a GPU gets, and that nothing waits for it, is tried on a stand-in (``tests/laws``)."""
    given = torch.ones(2, 3)
    assert to_device(given, torch.device("cpu")) is given
    there = to_device(given, torch.device("meta"))
    assert there.is_meta and there.shape == given.shape


def test_of_a_family_whose_text_encoders_no_lora_trains_none_can_be_named():
    with raises(BadRecipe):
        family_of("AnimaModularPipeline").endings("text_encoder", "auto")
