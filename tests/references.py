"""What diffusers' pipelines and training examples compute, family by family, for the contract test.

Written from the public parts of diffusers' pipelines and schedulers, as its own training examples use them:
``train_dreambooth_lora_*.py`` and ``train_text_to_image*.py``.
"""

import sys
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDPMScheduler, FluxPipeline, QwenImageEditPlusPipeline
from diffusers.training_utils import compute_snr
from torch import Tensor
from transformers import BatchFeature, Qwen2VLImageProcessorPil

Values = Mapping[str, Any]


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


# Chroma


def chroma_encode(pipe: Any, captions: list[str]) -> Values:
    context, _, mask, *_ = pipe.encode_prompt(
        captions, do_classifier_free_guidance=False, max_sequence_length=12
    )
    return {"context": context, "text_mask": mask}


def chroma_pred(pipe: Any, denoiser: Any, values: Values) -> Tensor:
    """The pipeline's step, its own preparation of the mask included."""
    batch, channels, height, width = values["latent"].shape
    packed = pipe._pack_latents(straight(values), batch, channels, height, width)
    pred = denoiser(
        hidden_states=packed,
        timestep=values["time"],
        encoder_hidden_states=values["context"],
        txt_ids=torch.zeros(values["context"].shape[1], 3),
        img_ids=pipe._prepare_latent_image_ids(batch, height // 2, width // 2, "cpu", torch.float32),
        attention_mask=pipe._prepare_attention_mask(
            batch, packed.shape[1], torch.float32, attention_mask=values["text_mask"]
        ),
        return_dict=False,
    )[0]
    return pipe._unpack_latents(pred, height * 8, width * 8, 8)


# FLUX.1 Kontext


def flux_kontext_pred(pipe: Any, denoiser: Any, values: Values) -> Tensor:
    """The example's step: tokens of the control behind those of the noisy latent."""
    latent, control = values["latent"], values["control_latent_1"]
    batch, channels, height, width = latent.shape
    noisy = pipe._pack_latents(straight(values), batch, channels, height, width)
    shown = pipe._pack_latents(control, *control.shape)
    ids, shown_ids = (
        pipe._prepare_latent_image_ids(batch, high // 2, wide // 2, "cpu", torch.float32)
        for high, wide in ((height, width), control.shape[2:])
    )
    shown_ids[..., 0] = 1
    pred = denoiser(
        hidden_states=torch.cat([noisy, shown], dim=1),
        timestep=values["time"],
        guidance=torch.ones(batch),
        pooled_projections=values["pooled"],
        encoder_hidden_states=values["context"],
        txt_ids=torch.zeros(values["context"].shape[1], 3),
        img_ids=torch.cat([ids, shown_ids], dim=0),
        return_dict=False,
    )[0]
    return pipe._unpack_latents(pred[:, : noisy.shape[1]], height * 8, width * 8, 8)


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


def qwen_edit_encode(pipe: Any, captions: list[str], images: list[Any]) -> Values:
    """Caption by caption, as the pipelines read them: one for Edit, which takes a batch for one image."""
    rows = []
    for caption in captions:
        shown = [pipe.image_processor.resize(image, *size) for image, size in seen_sizes(pipe, images)]
        several = isinstance(pipe, QwenImageEditPlusPipeline)
        rows.append(pipe.encode_prompt(caption, shown if several else shown[0])[0][0])
    pad = torch.nn.utils.rnn.pad_sequence
    masks = [torch.ones(len(row)) for row in rows]
    return {"context": pad(rows, batch_first=True), "text_mask": pad(masks, batch_first=True)}


def seen_sizes(pipe: Any, images: list[Any]) -> list[tuple[Any, tuple[int, int]]]:
    """Images and the (height, width) at which the pipeline shows them to the text encoder."""
    module = sys.modules[type(pipe).__module__]
    area = getattr(module, "CONDITION_IMAGE_SIZE", 1024 * 1024)
    sizes = [module.calculate_dimensions(area, image.width / image.height) for image in images]
    return [(image, (size[1], size[0])) for image, size in zip(images, sizes, strict=True)]


def with_processor(pipe: Any) -> Any:
    """An edit pipeline with what it needs to read images without torchvision, and as its base learned to.

    transformers loads no Qwen2VLProcessor without torchvision; and diffusers does not hand on which tokens
    are an image's (its issue 14194), which is done here as its pull request 14189 does it.
    """
    processor = Qwen2VLImageProcessorPil(patch_size=16, size={"shortest_edge": 1, "longest_edge": 2**24})
    encoder = pipe.text_encoder

    def read(text: list[str], images: Any, **_: Any) -> BatchFeature:
        seen = processor(images, return_tensors="pt")
        (chat,) = text
        for grid in seen["image_grid_thw"]:
            chat = chat.replace("<|image_pad|>", "<|image|>" * int(grid.prod() // 4), 1)
        tokens = pipe.tokenizer([chat.replace("<|image|>", "<|image_pad|>")], return_tensors="pt")
        return BatchFeature({**tokens, **seen})

    def tell(_: Any, __: Any, kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        is_image = kwargs["input_ids"] == encoder.config.image_token_id
        return (), {**kwargs, "mm_token_type_ids": is_image.int()}

    pipe.processor = read
    encoder.register_forward_pre_hook(tell, with_kwargs=True)
    return pipe


def qwen_edit_pred(pipe: Any, denoiser: Any, values: Values) -> Tensor:
    """The step of the pipelines: tokens of control images behind those of the noisy latent."""
    names = sorted(name for name in values if name.startswith("control_latent_"))
    latents = [straight(values), *(values[name] for name in names)]
    batch, _, height, width = latents[0].shape
    packed = [pipe._pack_latents(latent[:, :, None], *latent.shape) for latent in latents]
    pred = denoiser(
        hidden_states=torch.cat(packed, dim=1),
        encoder_hidden_states=values["context"],
        encoder_hidden_states_mask=values["text_mask"],
        timestep=values["time"],
        img_shapes=[[(1, latent.shape[2] // 2, latent.shape[3] // 2) for latent in latents]] * batch,
        return_dict=False,
    )[0]
    return pipe._unpack_latents(pred[:, : packed[0].shape[1]], height * 8, width * 8, 8)[:, :, 0]


def qwen_latent(pipe: Any, mean: Tensor) -> Tensor:
    config = pipe.vae.config
    middle, width = (
        torch.tensor(each).view(1, -1, 1, 1, 1) for each in (config.latents_mean, config.latents_std)
    )
    return ((mean - middle) * (1.0 / width))[:, :, 0]


# Krea 2


def krea2_encode(pipe: Any, captions: list[str]) -> Values:
    """The pipeline's own states without the padding that it masks."""
    context, masks = pipe.encode_prompt(captions, max_sequence_length=512)
    rows = [states[mask] for states, mask in zip(context, masks, strict=True)]
    pad = torch.nn.utils.rnn.pad_sequence
    lengths = [torch.ones(len(row)) for row in rows]
    return {"context": pad(rows, batch_first=True), "text_mask": pad(lengths, batch_first=True)}


def krea2_pred(pipe: Any, denoiser: Any, values: Values) -> Tensor:
    noisy = straight(values)
    batch, channels, height, width = noisy.shape
    pred = denoiser(
        hidden_states=pipe._pack_latents(noisy, batch, channels, height, width),
        encoder_hidden_states=values["context"],
        timestep=values["time"],
        position_ids=pipe.prepare_position_ids(values["context"].shape[1], height // 2, width // 2, "cpu"),
        encoder_attention_mask=values["text_mask"].bool(),
        return_dict=False,
    )[0]
    scale = pipe.vae_scale_factor
    return pipe._unpack_latents(pred, height * scale, width * scale)[:, :, 0]


# FLUX.2 klein


def flux2_encode(pipe: Any, captions: list[str]) -> Values:
    return {"context": pipe.encode_prompt(captions, max_sequence_length=80)[0]}


def flux2_dev_encode(pipe: Any, captions: list[str]) -> Values:
    return {"context": pipe.encode_prompt(captions, max_sequence_length=400)[0]}


def told_guidance(denoiser: Any, values: Values) -> Tensor | None:
    return torch.ones(len(values["time"])) if denoiser.config.guidance_embeds else None


def flux2_guess(pipe: Any, denoiser: Any, values: Values) -> Tensor:
    ids = pipe._prepare_latent_ids(values["latent"])
    pred = denoiser(
        hidden_states=pipe._pack_latents(straight(values)),
        timestep=values["time"],
        guidance=told_guidance(denoiser, values),
        encoder_hidden_states=values["context"],
        txt_ids=pipe._prepare_text_ids(values["context"]),
        img_ids=ids,
        return_dict=False,
    )[0]
    return pipe._unpack_latents_with_ids(pred, ids)


def flux2_edit_pred(pipe: Any, denoiser: Any, values: Values) -> Tensor:
    """The step of the example and of the pipeline: tokens of references behind those of the noisy latent."""
    names = sorted(name for name in values if name.startswith("control_latent_"))
    references = [values[name] for name in names]
    noisy = pipe._pack_latents(straight(values))
    ids = pipe._prepare_latent_ids(values["latent"])
    reference_ids = pipe._prepare_image_ids([reference[:1] for reference in references])
    pred = denoiser(
        hidden_states=torch.cat([noisy, *map(pipe._pack_latents, references)], dim=1),
        timestep=values["time"],
        guidance=told_guidance(denoiser, values),
        encoder_hidden_states=values["context"],
        txt_ids=pipe._prepare_text_ids(values["context"]),
        img_ids=torch.cat([ids, reference_ids.repeat(len(ids), 1, 1)], dim=1),
        return_dict=False,
    )[0]
    return pipe._unpack_latents_with_ids(pred[:, : noisy.shape[1]], ids)


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
