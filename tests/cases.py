"""What the contract test knows of each family that the family cannot vouch for itself.

References are written from the public parts of diffusers' pipelines and schedulers, as its own training
examples use them: ``train_dreambooth_lora_*.py`` and ``train_text_to_image*.py``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, FluxPipeline
from diffusers.training_utils import compute_snr
from torch import Tensor

import tiny
from limner.models.family import Objective

Values = Mapping[str, Any]


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
    encode: Callable[[Any, list[str]], Values]
    """Stock pipeline and captions -> the values in ``text``, by the pipeline itself."""
    pred: Callable[[Any, Any, Values], Tensor]
    """Stock pipeline, trained denoiser, values -> what the example script's loss compares, (B, C, h, w)."""
    loss: Callable[[Any, Tensor, Values], Tensor]
    """Stock pipeline, pred, values -> the loss of the example script."""
    objective: Objective = Objective()
    full: str
    """Registered name of the true base."""
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
    alive: float = 0.9
    """Share of the factors that get a gradient."""


def scaled(pipe: Any, mean: Tensor) -> Tensor:
    """Most pipelines decode ``latent / scaling_factor + shift_factor``."""
    return (mean - (pipe.vae.config.shift_factor or 0.0)) * pipe.vae.config.scaling_factor


def along(time: Tensor, like: Tensor) -> Tensor:
    return time.view(-1, *[1] * (like.ndim - 1))


def straight(values: Values) -> Tensor:
    """The noisy latent of a rectified flow, as every example script mixes it."""
    sigmas = along(values["time"], values["latent"])
    return (1.0 - sigmas) * values["latent"] + sigmas * values["noise"]


def flow_loss(_: Any, pred: Tensor, values: Values) -> Tensor:
    wanted = values["noise"] - values["latent"]
    return ((pred.float() - wanted.float()) ** 2).reshape(len(pred), -1).mean(1).mean()


# FLUX.1


def flux_encode(pipe: Any, captions: list[str]) -> Values:
    context, pooled, _ = pipe.encode_prompt(captions, None, max_sequence_length=12)
    return {"context": context, "pooled": pooled}


def flux_guess(pipe: Any, denoiser: Any, values: Values) -> Tensor:
    latent = values["latent"]
    batch, channels, height, width = latent.shape
    pred = denoiser(
        hidden_states=FluxPipeline._pack_latents(straight(values), batch, channels, height, width),
        timestep=values["time"],
        guidance=torch.ones(batch) if denoiser.config.guidance_embeds else None,
        pooled_projections=values["pooled"],
        encoder_hidden_states=values["context"],
        txt_ids=torch.zeros(values["context"].shape[1], 3),
        img_ids=pipe._prepare_latent_image_ids(batch, height // 2, width // 2, "cpu", torch.float32),
        return_dict=False,
    )[0]
    return FluxPipeline._unpack_latents(pred, height * 8, width * 8, 8)


# SDXL and Stable Diffusion 1.5


def steps_of(pipe: Any) -> DDPMScheduler:
    """The scheduler that the example scripts make from the base's own."""
    return DDPMScheduler.from_config(pipe.scheduler.config)


def step_numbers(values: Values) -> Tensor:
    return (values["time"] * 1000).long()


def steps_loss(pipe: Any, pred: Tensor, values: Values, *, gamma: float = 0.0) -> Tensor:
    scheduler, numbers = steps_of(pipe), step_numbers(values)
    spoken = scheduler.config["prediction_type"]
    wanted = values["noise"]
    if spoken == "v_prediction":
        wanted = scheduler.get_velocity(values["latent"], values["noise"], numbers)
    loss = torch.nn.functional.mse_loss(pred.float(), wanted.float(), reduction="none").mean([1, 2, 3])
    if not gamma:
        return loss.mean()
    snr = compute_snr(scheduler, numbers)
    weight = torch.stack([snr, gamma * torch.ones_like(snr)], dim=1).min(dim=1)[0]
    return (loss * weight / (snr + 1 if spoken == "v_prediction" else snr)).mean()


def sdxl_encode(pipe: Any, captions: list[str]) -> Values:
    context, _, pooled, _ = pipe.encode_prompt(captions, do_classifier_free_guidance=False)
    first = pipe.text_encoder.config.hidden_size
    return {"context": context[..., :first], "context_2": context[..., first:], "pooled_2": pooled}


def sdxl_guess(pipe: Any, denoiser: Any, values: Values) -> Tensor:
    noisy = steps_of(pipe).add_noise(values["latent"], values["noise"], step_numbers(values))
    told = {"time_ids": values["frame"].float(), "text_embeds": values["pooled_2"]}
    context = torch.cat([values["context"], values["context_2"]], dim=-1)
    return denoiser(noisy, step_numbers(values), context, added_cond_kwargs=told, return_dict=False)[0]


def sd15_encode(pipe: Any, captions: list[str]) -> Values:
    return {"context": pipe.encode_prompt(captions, "cpu", 1, do_classifier_free_guidance=False)[0]}


def sd15_guess(pipe: Any, denoiser: Any, values: Values) -> Tensor:
    noisy = steps_of(pipe).add_noise(values["latent"], values["noise"], step_numbers(values))
    return denoiser(noisy, step_numbers(values), values["context"], return_dict=False)[0]


# Stable Diffusion 3.5


def sd3_encode(pipe: Any, captions: list[str]) -> Values:
    context, _, pooled, _ = pipe.encode_prompt(
        captions, None, None, do_classifier_free_guidance=False, max_sequence_length=12
    )
    first, second = pipe.text_encoder.config, pipe.text_encoder_2.config
    both = first.hidden_size + second.hidden_size
    assert not context[:, :77, both:].any()
    return {
        "context": context[:, :77, : first.hidden_size],
        "context_2": context[:, :77, first.hidden_size : both],
        "context_3": context[:, 77:],
        "pooled": pooled[:, : first.projection_dim],
        "pooled_2": pooled[:, first.projection_dim :],
    }


def sd3_guess(_: Any, denoiser: Any, values: Values) -> Tensor:
    clips = torch.cat([values["context"], values["context_2"]], dim=-1)
    clips = torch.nn.functional.pad(clips, (0, denoiser.config.joint_attention_dim - clips.shape[-1]))
    return denoiser(
        hidden_states=straight(values),
        timestep=values["time"] * 1000.0,
        encoder_hidden_states=torch.cat([clips, values["context_3"]], dim=-2),
        pooled_projections=torch.cat([values["pooled"], values["pooled_2"]], dim=-1),
        return_dict=False,
    )[0]


# Qwen-Image


def qwen_encode(pipe: Any, captions: list[str]) -> Values:
    context, mask = pipe.encode_prompt(captions, max_sequence_length=512)
    return {"context": context, "text_mask": torch.ones(context.shape[:2]) if mask is None else mask}


def qwen_guess(pipe: Any, denoiser: Any, values: Values) -> Tensor:
    noisy = straight(values)[:, :, None].permute(0, 2, 1, 3, 4)
    batch, _, channels, height, width = noisy.shape
    pred = denoiser(
        hidden_states=pipe._pack_latents(noisy, batch, channels, height, width),
        encoder_hidden_states=values["context"],
        encoder_hidden_states_mask=values["text_mask"],
        timestep=values["time"],
        img_shapes=[(1, height // 2, width // 2)] * batch,
        return_dict=False,
    )[0]
    return pipe._unpack_latents(pred, height * 8, width * 8, 8)[:, :, 0]


def qwen_latent(pipe: Any, mean: Tensor) -> Tensor:
    config = pipe.vae.config
    middle, width = (
        torch.tensor(each).view(1, -1, 1, 1, 1) for each in (config.latents_mean, config.latents_std)
    )
    return ((mean - middle) * (1.0 / width))[:, :, 0]


# FLUX.2 klein


def flux2_encode(pipe: Any, captions: list[str]) -> Values:
    return {"context": pipe.encode_prompt(captions, max_sequence_length=80)[0]}


def flux2_guess(pipe: Any, denoiser: Any, values: Values) -> Tensor:
    ids = pipe._prepare_latent_ids(values["latent"])
    pred = denoiser(
        hidden_states=pipe._pack_latents(straight(values)),
        timestep=values["time"],
        guidance=None,
        encoder_hidden_states=values["context"],
        txt_ids=pipe._prepare_text_ids(values["context"]),
        img_ids=ids,
        return_dict=False,
    )[0]
    return pipe._unpack_latents_with_ids(pred, ids)


def flux2_latent(pipe: Any, mean: Tensor) -> Tensor:
    norm = pipe.vae.bn
    width = torch.sqrt(norm.running_var.view(1, -1, 1, 1) + pipe.vae.config.batch_norm_eps)
    return (pipe._patchify_latents(mean) - norm.running_mean.view(1, -1, 1, 1)) / width


# Z-Image


def z_encode(pipe: Any, captions: list[str]) -> Values:
    rows, _ = pipe.encode_prompt(captions, do_classifier_free_guidance=False, max_sequence_length=80)
    pad = torch.nn.utils.rnn.pad_sequence
    masks = [torch.ones(len(row)) for row in rows]
    return {"context": pad(rows, batch_first=True), "text_mask": pad(masks, batch_first=True)}


def z_guess(_: Any, denoiser: Any, values: Values) -> Tensor:
    texts = [row[keep.bool()] for row, keep in zip(values["context"], values["text_mask"], strict=True)]
    noisy = list(straight(values).unsqueeze(2).unbind(dim=0))
    timesteps = values["time"] * 1000
    pred = denoiser(noisy, (1000 - timesteps) / 1000, texts, return_dict=False)[0]
    return -torch.stack(pred, dim=0).squeeze(2)


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
