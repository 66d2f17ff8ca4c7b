"""What diffusers' pipeline and training example of Ideogram 4 compute, for the contract test."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from references import Values, straight


class Cut:
    """A tokenizer that cuts at so many tokens."""

    def __init__(self, tokenizer: Any, length: int) -> None:
        self.apply_chat_template = tokenizer.apply_chat_template
        self.cut = partial(tokenizer, max_length=length, truncation=True)

    def __call__(self, text: str, **options: Any) -> Any:
        return self.cut(text, **options)


def ideogram4_encode(pipe: Any, captions: list[str]) -> Values:
    """The pipeline's own features without the padding that it masks and the room for the image.

    It refuses longer captions; here they are cut.
    """
    whole = pipe.tokenizer
    pipe.tokenizer = Cut(whole, 96)
    try:
        features, _, segments, _ = pipe.encode_prompt(captions, 1, 1, 96, "cpu")
    finally:
        pipe.tokenizer = whole
    rows = [row[:-1][mask[:-1] > 0] for row, mask in zip(features, segments, strict=True)]
    pad = torch.nn.utils.rnn.pad_sequence
    masks = [torch.ones(len(row)) for row in rows]
    return {"context": pad(rows, batch_first=True), "text_mask": pad(masks, batch_first=True)}


def ideogram4_packed(latent: Tensor) -> Tensor:
    """The example's ``patchify_latents``: (B, C, H, W) -> (B, H/2, W/2, 4 C)."""
    batch, channels, height, width = latent.shape
    latent = latent.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 3, 5, 1)
    return latent.reshape(batch, height // 2, width // 2, 4 * channels)


def ideogram4_latent(pipe: Any, mean: Tensor) -> Tensor:
    norm = pipe.vae.bn
    width = torch.sqrt(norm.running_var + pipe.vae.config.batch_norm_eps)
    return ((ideogram4_packed(mean) - norm.running_mean) / width).permute(0, 3, 1, 2)


def ideogram4_pred(pipe: Any, denoiser: Any, values: Values) -> Tensor:
    """The example's step, text padded on the left; the example compares with data - noise."""
    batch, channels, height, width = values["latent"].shape
    tokens = straight(values).flatten(2).transpose(1, 2)
    masks = values["text_mask"].bool()
    longest = masks.shape[1]
    ids, segments, indicator = pipe._prepare_ids(
        masks.sum(1).tolist(), height, width, longest, torch.device("cpu")
    )
    features = torch.zeros(batch, longest + tokens.shape[1], values["context"].shape[2])
    for row, context, mask in zip(features, values["context"], masks, strict=True):
        row[longest - int(mask.sum()) : longest] = context[mask]
    pred = denoiser(
        hidden_states=torch.cat([torch.zeros(batch, longest, channels), tokens], dim=1),
        timestep=1.0 - values["time"],
        encoder_hidden_states=features,
        position_ids=ids,
        segment_ids=segments,
        indicator=indicator,
        return_dict=False,
    )[0]
    return -pred[:, longest:].transpose(1, 2).unflatten(2, (height, width))
