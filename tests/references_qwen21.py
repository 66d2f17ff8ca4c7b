"""What diffusers' pipeline and training example of Qwen-Image 2.1 compute, for the contract test."""

from typing import Any

import torch
from torch import Tensor

from references import Values, straight


def qwen21_encode(pipe: Any, captions: list[str]) -> Values:
    """The pipeline's own states, and which of them are no padding."""
    context, mask, _ = pipe.encode_prompt(captions)
    return {"context": context, "text_mask": torch.ones(context.shape[:2]) if mask is None else mask}


def qwen21_pred(pipe: Any, denoiser: Any, values: Values) -> Tensor:
    """The example's step for each caption alone: in its batches padding moves the image."""
    rows = [
        qwen21_step(pipe, denoiser, latent[None], time[None], context[mask.bool()][None])
        for latent, time, context, mask in zip(
            straight(values), values["time"], values["context"], values["text_mask"], strict=True
        )
    ]
    return torch.cat(rows)


def qwen21_step(pipe: Any, denoiser: Any, noisy: Tensor, time: Tensor, context: Tensor) -> Tensor:
    """The example's step for captions of one length."""
    batch, channels, height, width = noisy.shape
    slots = (
        torch.zeros(context.shape[:2], dtype=torch.bool),
        torch.ones(batch, height * width // 4, dtype=torch.bool),
    )
    pred = denoiser(
        hidden_states=pipe._pack_latents(noisy, batch, channels, height, width),
        encoder_hidden_states=context,
        timestep=time,
        img_shapes=[[(1, height, width)]] * batch,
        img_mask=torch.cat(slots, dim=1),
        return_dict=False,
    )[0]
    return pipe._unpack_latents(pred[:, -height * width :], height * 16, width * 16, 16)[:, :, 0]


def qwen21_latent(pipe: Any, mean: Tensor) -> Tensor:
    """What the pipeline multiplies and moves before it decodes, undone."""
    middle, width = (
        torch.tensor(numbers).view(1, -1, 1, 1)
        for numbers in (pipe.vae.config.latents_mean, pipe.vae.config.latents_std)
    )
    return (mean[:, :, 0] - middle) / width
