"""A tiny HiDream-I1 with random weights, saved in the true layout; its pipeline, as large as it is asked."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    FlowMatchLCMScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    UniPCMultistepScheduler,
)
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextModelWithProjection,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from tiny import LETTERS, TEXT, clip_config, clip_tokenizer, save, t5, t5_tokenizer, vae

LENGTH = 12
"""Tokens of text."""


class Sized(HiDreamImagePipeline):
    """diffusers' own, with the size of the square whose area it paints set to what it is asked for."""

    def __call__(self, *args: Any, width: int, height: int, **options: Any) -> Any:
        """As ever."""
        self.default_sample_size = (width * height) ** 0.5 * 1.0001 / self.vae_scale_factor
        return super().__call__(*args, width=width, height=height, **options)


def sized(pipe: Any) -> Any:
    """A stock pipeline that paints sizes of a tiny base."""
    pipe.__class__ = Sized
    return pipe


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """Letters, behind a mark of the beginning; as Llama's it has no token for padding."""
    pieces = ["<|begin|>", "<|end|>", "<|unknown|>", " ", *LETTERS]
    tokenizer = Tokenizer(WordLevel({piece: n for n, piece in enumerate(pieces)}, unk_token="<|unknown|>"))
    tokenizer.pre_tokenizer = Split("", "isolated")
    tokenizer.post_processor = TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        unk_token="<|unknown|>",
        model_max_length=512,
    )


def save_hidream(folder: Path, *, few_steps: bool = False) -> Path:
    """Write a tiny HiDream-I1 to ``folder``. Images of 32 px or more; text of 12 tokens."""
    torch.manual_seed(0)
    full = UniPCMultistepScheduler(flow_shift=3.0, prediction_type="flow_prediction", use_flow_sigmas=True)
    clip_sizes = {"max_position_embeddings": 248}
    llama: dict[str, Any] = {**TEXT, "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1}
    pipe = HiDreamImagePipeline(
        scheduler=FlowMatchLCMScheduler(shift=6.0) if few_steps else full,  # pyright: ignore[reportArgumentType]
        vae=vae(scaling_factor=0.5, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModelWithProjection(clip_config(projection_dim=8, **clip_sizes)),
        tokenizer=clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(
            clip_config(hidden_size=24, projection_dim=12, **clip_sizes)
        ),
        tokenizer_2=clip_tokenizer(pad_token="!"),
        text_encoder_3=t5(16),
        tokenizer_3=t5_tokenizer(),
        text_encoder_4=LlamaForCausalLM(LlamaConfig(**llama)),
        tokenizer_4=llama_tokenizer(),
        transformer=HiDreamImageTransformer2DModel(
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            caption_channels=[16, 16],
            text_emb_dim=8 + 12,
            axes_dims_rope=(4, 6, 6),  # pyright: ignore[reportArgumentType]
            max_resolution=(8, 8),
            llama_layers=[0, 1, 2, 2],
        ),
    )
    for name, parameter in pipe.transformer.named_parameters():  # ones hide a wrong order
        if "norm" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    return save(pipe, folder, text_length=LENGTH)
