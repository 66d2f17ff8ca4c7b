"""What is FLUX.2 klein's alone; the rest is in the contract."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from diffusers.pipelines.flux2.image_processor import Flux2ImageProcessor
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from PIL import Image

from limner.data.images import BadImage
from limner.models.bundled import known
from limner.models.family import Objective, SamplingParams
from limner.models.flux2.family import FAMILY, STATES, constants, control_fits, model_spec, pipeline_kwargs
from limner.models.loading import skeleton
from limner.models.rectified import empirical_shift
from limner.models.source import locate
from limner.nn.layers import lora
from messages import raises
from tiny import save_flux2_klein


@pytest.mark.parametrize(("size", "weights"), [("4b", 3_875_544_576), ("9b", 9_078_581_248)])
def test_both_sizes(size: str, weights: int):
    source = known(f"flux2-klein-{size}")
    model = skeleton(FAMILY, source, "transformer", dtype=torch.bfloat16)
    assert sum(parameter.numel() for parameter in model.parameters()) == weights
    assert model_spec(source)[0] == f"Flux.2-klein-{size}"
    config = source.config("transformer")
    layers = config["num_layers"] * 12 + config["num_single_layers"] * 2
    assert len(lora.matching(model, FAMILY.endings("transformer", "auto"))) == layers


def test_the_states_read_are_the_pipeline_s():
    signature = inspect.signature(Flux2KleinPipeline.encode_prompt)
    assert tuple(signature.parameters["text_encoder_out_layers"].default) == STATES


@pytest.mark.parametrize("tokens", [256, 1024, 4096, 4300, 9000])
def test_times_are_shifted_as_the_sampler_does_for_fifty_steps(tmp_path: Path, tokens: int):
    wanted = torch.tensor(compute_empirical_mu(tokens, 50)).exp()
    assert empirical_shift(tokens) == pytest.approx(float(wanted), rel=1e-6)
    source = locate(str(save_flux2_klein(tmp_path / "tiny")), folders={})
    assert constants(source, Objective())["time_shift"] is empirical_shift


def test_a_distilled_base_needs_no_guidance(tmp_path: Path):
    canvas = SamplingParams(width=32, height=32, steps=2)
    for distilled, guidance in ((False, 4.0), (True, 1.0)):
        folder = save_flux2_klein(tmp_path / str(distilled), distilled=distilled)
        (folder / "limner.json").unlink()
        assert pipeline_kwargs(locate(str(folder), folders={}), canvas)["guidance_scale"] == guidance


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(100, 77), (64, 512), (1031, 1024), (1500, 900)])
def test_a_reference_is_what_the_pipeline_makes_of_it(size: tuple[int, int]):
    """A megapixel at most, cropped to multiples of 16: Flux2KleinPipeline.__call__, step 4."""
    image, processor = picture(*size), Flux2ImageProcessor(vae_scale_factor=16)
    image = processor.check_image_input(image)
    theirs = processor._resize_if_exceeds_area(image, 1024 * 1024)
    width, height = (side // 16 * 16 for side in theirs.size)
    theirs = processor.preprocess(theirs, height=height, width=width, resize_mode="crop")
    fit = control_fits(512)["control"]
    mine = fit.image(image)
    assert mine.size == fit.fitted(*size) == (width, height)
    assert torch.equal(processor.preprocess(mine), theirs)


@pytest.mark.parametrize("size", [(63, 200), (64, 520), (900, 100), (630, 79)])
def test_a_reference_that_the_pipeline_refuses_is_told(tmp_path: Path, size: tuple[int, int]):
    fit = control_fits(1024)["control"]
    with pytest.raises(ValueError, match="Image too small|Aspect ratio"):
        for image in (picture(*size), fit.image(picture(*size))):
            Flux2ImageProcessor.check_image_input(image)
    with raises(BadImage):
        fit.require(tmp_path / "street.png", *size)
    fit.require(tmp_path / "street.png", 64, 512)


def test_without_reference_images_nothing_is_read_of_them():
    units = FAMILY.units_with(0)
    closed = (unit if unit.open_reads == "loss_weights" else unit.reading(()) for unit in FAMILY.units)
    assert units == tuple(closed)  # the loss still takes the weights of a mask
    assert not any("control" in name for unit in units for name in (*unit.reads, *unit.writes))
