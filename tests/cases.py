"""What the contract test knows of each family that the family cannot vouch for itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

import tiny
import tiny_anima
import tiny_chroma
import tiny_edit
import tiny_flux2_dev
import tiny_ideogram4
import tiny_qwen21
from limner.models.bundled import known
from limner.models.family import Objective
from limner.models.source import Source, locate
from references import (
    Values,
    chroma_encode,
    chroma_pred,
    flow_loss,
    flux2_dev_encode,
    flux2_edit_pred,
    flux2_encode,
    flux2_guess,
    flux2_latent,
    flux_encode,
    flux_guess,
    flux_kontext_pred,
    krea2_encode,
    krea2_pred,
    qwen_edit_encode,
    qwen_edit_pred,
    qwen_encode,
    qwen_guess,
    qwen_latent,
    scaled,
    sd3_encode,
    sd3_guess,
    sd15_encode,
    sd15_guess,
    sdxl_encode,
    sdxl_guess,
    steps_loss,
    with_processor,
    z_encode,
    z_guess,
)
from references_anima import anima_encode, anima_pred
from references_ideogram4 import ideogram4_encode, ideogram4_latent, ideogram4_pred
from references_qwen21 import qwen21_encode, qwen21_latent, qwen21_pred


@dataclass(frozen=True, kw_only=True)
class Case:
    """One family, or one kind of base of a family."""

    name: str
    pipeline: str
    save: Callable[[Path], Path]
    text: tuple[str, ...]
    """Boundary values of a caption when the denoiser alone is trained."""
    more: tuple[str, ...] = ()
    """Other boundary values besides the latent's."""
    encode: Callable[..., Values]
    """Stock pipeline and captions -> the values in ``text``, by the pipeline itself."""
    pred: Callable[[Any, Any, Values], Tensor]
    """Stock pipeline, trained denoiser, values -> what the example script's loss compares, (B, C, h, w)."""
    loss: Callable[[Any, Tensor, Values], Tensor]
    """Stock pipeline, pred, values -> the loss of the example script."""
    objective: Objective = Objective()
    full: str
    """Registered name of the true base; of one that has none a folder with its configs."""
    parameters: int
    """Of the true denoiser, as published or counted from its checkpoint."""
    linears: Mapping[str, int] = field(default_factory=dict)
    """Target group -> layers of the true denoiser that it names."""
    targets: str = "auto"
    """Group that is trained in the tests of the contract."""
    latent: Callable[[Any, Tensor], Tensor] = lambda pipe, mean: scaled(pipe, mean)
    """Stock pipeline, mean of the VAE's posterior -> the latent that the pipeline would decode from."""
    video: bool = False
    """Whether the VAE wants (B, C, frames, H, W)."""
    opaque: bool = False
    """Whether the VAE wants a fourth channel, of 1."""
    controls: int = 0
    """Control images of each image."""
    complete: Callable[[Any], Any] = lambda pipe: pipe
    """Stock pipeline as it is loaded -> with what else it needs."""
    given: Callable[[Path], Mapping[str, Any]] = lambda folder: {}
    """Folder -> parts of the stock pipeline that it does not load, such as one that ``complete`` makes."""
    text_sees: bool = False
    """Whether ``encode`` is given control images too."""
    alive: float = 0.9
    """Share of the factors that get a gradient."""


TRUE = Path(__file__).parent / "true"
"""Configs of true bases that have no registered name."""
V = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}

CASES = (
    Case(
        name="flux-dev",
        pipeline="FluxPipeline",
        save=partial(tiny.save_flux, guided=True),
        text=("pooled", "context"),
        encode=flux_encode,
        pred=flux_guess,
        loss=flow_loss,
        full="flux-dev",
        parameters=11_901_408_320,
        linears={"attention": 19 * 8 + 38 * 3, "all-linear": 19 * 12 + 38 * 5},
    ),
    Case(
        name="flux-kontext",
        pipeline="FluxKontextPipeline",
        save=tiny.save_flux_kontext,
        text=("pooled", "context"),
        more=("control_latent_1",),
        encode=flux_encode,
        pred=flux_kontext_pred,
        loss=flow_loss,
        full="flux-kontext",
        parameters=11_901_408_320,
        controls=1,
    ),
    Case(
        name="chroma",
        pipeline="ChromaPipeline",
        save=tiny_chroma.save_chroma,
        text=("context", "text_mask"),
        encode=chroma_encode,
        pred=chroma_pred,
        loss=flow_loss,
        full="chroma1-hd",
        parameters=8_899_983_424,
        linears={"attention": 19 * 8 + 38 * 3, "all-linear": 19 * 12 + 38 * 5},
    ),
    Case(
        name="sdxl",
        pipeline="StableDiffusionXLPipeline",
        save=tiny.save_sdxl,
        text=("context", "context_2", "pooled_2"),
        more=("time_ids",),
        encode=sdxl_encode,
        pred=sdxl_guess,
        loss=partial(steps_loss, gamma=5.0),
        objective=Objective(min_snr=5.0, noise_offset=0.05),
        full="sdxl",
        parameters=2_567_463_684,
        linears={"attention": 70 * 8, "all-linear": 70 * 10 + 11 * 2, "locon": 788},  # as sd-scripts counts
    ),
    Case(
        name="sdxl-v",
        pipeline="StableDiffusionXLPipeline",
        save=partial(tiny.save_sdxl, **V),
        text=("context", "context_2", "pooled_2"),
        more=("time_ids",),
        encode=sdxl_encode,
        pred=sdxl_guess,
        loss=partial(steps_loss, gamma=5.0),
        objective=Objective(min_snr=5.0),
        full="sdxl",
        parameters=2_567_463_684,
        targets="locon",
    ),
    Case(
        name="sd3",
        pipeline="StableDiffusion3Pipeline",
        save=tiny.save_sd3,
        text=("context", "pooled", "context_2", "pooled_2", "context_3"),
        encode=sd3_encode,
        pred=sd3_guess,
        loss=flow_loss,
        full="sd35-medium",
        parameters=2_243_171_520,
        linears={"attention": 24 * 7 + 23 + 13 * 4, "all-linear": 24 * 9 + 23 * 3 + 13 * 4},
    ),
    Case(
        name="qwen-image",
        pipeline="QwenImagePipeline",
        save=tiny.save_qwen_image,
        text=("context", "text_mask"),
        encode=qwen_encode,
        pred=qwen_guess,
        loss=flow_loss,
        latent=qwen_latent,
        video=True,
        alive=0.7,  # nothing reads the text of the last layer
        full="qwen-image",
        parameters=20_430_401_088,
        linears={"attention": 60 * 8, "all-linear": 60 * 12},
    ),
    Case(
        name="krea2",
        pipeline="Krea2Pipeline",
        save=tiny.save_krea2,
        text=("context", "text_mask"),
        encode=krea2_encode,
        pred=krea2_pred,
        loss=flow_loss,
        latent=qwen_latent,
        video=True,
        full="krea2",
        parameters=12_820_073_036,
        linears={"attention": 32 * 5, "all-linear": 32 * 8, "authors": 32 * 7 + 8},
    ),
    Case(
        name="anima",
        pipeline="AnimaModularPipeline",
        save=tiny_anima.save_anima,
        text=("context",),
        encode=anima_encode,
        pred=anima_pred,
        loss=flow_loss,
        latent=qwen_latent,
        video=True,
        full="anima",
        parameters=1_956_405_248,
        linears={"attention": 28 * 8, "all-linear": 28 * 10},
        complete=tiny_anima.with_parts,
    ),
    Case(
        name="flux2-klein",
        pipeline="Flux2KleinPipeline",
        save=tiny.save_flux2_klein,
        text=("context",),
        encode=flux2_encode,
        pred=flux2_guess,
        loss=flow_loss,
        latent=flux2_latent,
        full="flux2-klein-4b",
        parameters=3_875_544_576,
        linears={"attention": 5 * 8 + 20 * 2, "all-linear": 5 * 12 + 20 * 2},
    ),
    Case(
        name="flux2-dev",
        pipeline="Flux2Pipeline",
        save=tiny_flux2_dev.save_flux2_dev,
        text=("context",),
        encode=flux2_dev_encode,
        pred=flux2_guess,
        loss=flow_loss,
        latent=flux2_latent,
        full="flux2-dev",
        parameters=32_223_281_152,
        linears={"attention": 8 * 8 + 48 * 2, "all-linear": 8 * 12 + 48 * 2},
        complete=tiny_flux2_dev.with_processor,
        given=lambda folder: {"tokenizer": None},
    ),
    Case(
        name="ideogram4",
        pipeline="Ideogram4Pipeline",
        save=tiny_ideogram4.save_ideogram4,
        text=("context", "text_mask"),
        encode=ideogram4_encode,
        pred=ideogram4_pred,
        loss=flow_loss,
        latent=ideogram4_latent,
        full=str(TRUE / "ideogram4"),
        parameters=9_279_288_448,
        linears={"attention": 34 * 4, "all-linear": 34 * 7},
    ),
    Case(
        name="qwen-image-2.1",
        pipeline="QwenImage21Pipeline",
        save=tiny_qwen21.save_qwen21,
        text=("context", "text_mask"),
        encode=qwen21_encode,
        pred=qwen21_pred,
        loss=flow_loss,
        latent=qwen21_latent,
        video=True,
        opaque=True,
        full="qwen-image-2.1",
        parameters=7_115_124_736,
        linears={"attention": 32 * 4, "all-linear": 32 * 7},
        given=lambda folder: {"processor": tiny_qwen21.TextOnly.read(folder)},
    ),
    Case(
        name="z-image",
        pipeline="ZImagePipeline",
        save=tiny.save_z_image,
        text=("context", "text_mask"),
        encode=z_encode,
        pred=z_guess,
        loss=flow_loss,
        full="z-image",
        parameters=6_154_908_736,
        linears={"attention": 34 * 4, "all-linear": 34 * 7},
    ),
    Case(
        name="sd15",
        pipeline="StableDiffusionPipeline",
        save=tiny.save_sd15,
        text=("context",),
        encode=sd15_encode,
        pred=sd15_guess,
        loss=steps_loss,
        full="sd15",
        parameters=859_520_964,
        linears={"attention": 16 * 8, "all-linear": 16 * 10, "locon": 278},  # as sd-scripts counts
        targets="locon",
    ),
)

EDIT_CASES = (
    Case(
        name="flux2-klein-reference",
        pipeline="Flux2KleinPipeline",
        save=tiny.save_flux2_klein,
        text=("context",),
        more=("control_latent_1",),
        encode=flux2_encode,
        pred=flux2_edit_pred,
        loss=flow_loss,
        latent=flux2_latent,
        full="flux2-klein-4b",
        parameters=3_875_544_576,
        controls=1,
    ),
    Case(
        name="flux2-klein-references",
        pipeline="Flux2KleinPipeline",
        save=tiny.save_flux2_klein,
        text=("context",),
        more=("control_latent_1", "control_latent_2"),
        encode=flux2_encode,
        pred=flux2_edit_pred,
        loss=flow_loss,
        latent=flux2_latent,
        full="flux2-klein-4b",
        parameters=3_875_544_576,
        controls=2,
    ),
    Case(
        name="flux2-dev-references",
        pipeline="Flux2Pipeline",
        save=tiny_flux2_dev.save_flux2_dev,
        text=("context",),
        more=("control_latent_1", "control_latent_2"),
        encode=flux2_dev_encode,
        pred=flux2_edit_pred,
        loss=flow_loss,
        latent=flux2_latent,
        full="flux2-dev",
        parameters=32_223_281_152,
        controls=2,
        complete=tiny_flux2_dev.with_processor,
        given=lambda folder: {"tokenizer": None},
    ),
    Case(
        name="qwen-image-edit",
        pipeline="QwenImageEditPipeline",
        save=tiny_edit.save_qwen_image_edit,
        text=("context", "text_mask"),
        more=("control_latent_1",),
        encode=qwen_edit_encode,
        pred=qwen_edit_pred,
        loss=flow_loss,
        latent=qwen_latent,
        video=True,
        alive=0.7,
        full="qwen-image-edit",
        parameters=20_430_401_088,
        controls=1,
        complete=with_processor,
        text_sees=True,
    ),
    Case(
        name="qwen-image-edit-plus",
        pipeline="QwenImageEditPlusPipeline",
        save=partial(tiny_edit.save_qwen_image_edit, plus=True),
        text=("context", "text_mask"),
        more=("control_latent_1", "control_latent_2"),
        encode=qwen_edit_encode,
        pred=qwen_edit_pred,
        loss=flow_loss,
        latent=qwen_latent,
        video=True,
        alive=0.7,
        full="qwen-image-edit-2509",
        parameters=20_430_401_088,
        controls=2,
        complete=with_processor,
        text_sees=True,
    ),
)
"""Bases beside control images that they can do without, or more of them: for the contract alone."""


def true_base(case: Case) -> Source:
    """The configs of the true base of a case."""
    return locate(case.full, folders={}) if Path(case.full).is_dir() else known(case.full)
