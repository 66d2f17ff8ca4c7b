"""What diffusers' pipeline and training example of HiDream-I1 compute, for the contract test."""

from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.transformers.transformer_hidream_image import MOEFeedForwardSwiGLU
from torch import Tensor

from references import Values, straight
from tiny_hidream import LENGTH


def hidream_encode(pipe: Any, captions: list[str]) -> Values:
    """The pipeline's own states and vectors."""
    context, _, states, _, pooled, _ = pipe.encode_prompt(
        captions, do_classifier_free_guidance=False, max_sequence_length=LENGTH
    )
    first = pipe.text_encoder.config.projection_dim
    return {
        "context": context,
        "states": states.transpose(0, 1),
        "pooled": pooled[:, :first],
        "pooled_2": pooled[:, first:],
    }


def experts_of(denoiser: Any) -> Iterator[Any]:
    """The mixtures of experts, each as diffusers made it."""
    for module in denoiser.modules():
        if isinstance(module, MOEFeedForwardSwiGLU):
            vars(module).pop("forward", None)
            yield module


def hidream_pred(_: Any, denoiser: Any, values: Values, *, learns: bool = True) -> Tensor:
    """The example's step.

    Args:
        _: The stock pipeline.
        denoiser: The transformer.
        values: What it reads.
        learns: Whether experts are computed in diffusers' way of training, with a gradient; the example
            itself has none.
    """
    vars(denoiser).pop("patchify", None)
    for feed in experts_of(denoiser):
        feed.training = learns
    pred = denoiser(
        hidden_states=straight(values),
        encoder_hidden_states_t5=values["context"],
        encoder_hidden_states_llama3=values["states"].transpose(0, 1),
        pooled_embeds=torch.cat([values["pooled"], values["pooled_2"]], dim=-1),
        timesteps=values["time"] * 1000.0,
        return_dict=False,
    )[0]
    return pred * -1
