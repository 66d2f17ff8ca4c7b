"""What diffusers' blocks of Anima and sd-scripts compute, for the contract test."""

from typing import Any

import torch
from diffusers.modular_pipelines.anima.before_denoise import AnimaTextConditioningStep
from diffusers.modular_pipelines.anima.encoders import AnimaTextEncoderStep
from torch import Tensor

from references import Values, straight


def anima_encode(pipe: Any, captions: list[str]) -> Values:
    """By the pipeline's two steps that read text, all captions at once."""
    with torch.no_grad():
        texts = AnimaTextEncoderStep.encode_prompt(
            pipe, captions, prepare_unconditional_embeds=False, max_sequence_length=40
        )
        context = AnimaTextConditioningStep._condition_prompt_embeds(
            pipe,
            **{name: value for name, value in texts.items() if not name.startswith("negative")},
            device=torch.device("cpu"),
            conditioning_dtype=torch.float32,
            output_dtype=torch.float32,
        )
    return {"context": context}


def anima_pred(_: Any, denoiser: Any, values: Values) -> Tensor:
    """sd-scripts' ``get_noise_pred_and_target``, on diffusers' model."""
    noisy = straight(values)
    batch, _, height, width = noisy.shape
    return denoiser(
        noisy.unsqueeze(2),
        values["time"],
        values["context"],
        padding_mask=torch.zeros(batch, 1, height, width)[:1],
    ).sample.squeeze(2)
