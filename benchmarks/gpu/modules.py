"""Peers at module level: a project's own model, quantiser, adapter and checkpointing in a plain loop of ours.

``python -m gpu.modules JSON``: diffusers' FLUX.1 in 4 bits by bitsandbytes, as its guide recommends for
small cards and as none of its programs runs from files alone: ``prepare_model_for_kbit_training``, peft's
LoRA, gradient checkpointing, AdamW in 8 bits. Steps are its FLUX example's: noise, mix, forward, loss,
backward, clip, step. Caption and latent are random numbers of the true shape.
"""

import json
import sys
from pathlib import Path
from typing import Any

import bitsandbytes
import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig, prepare_model_for_kbit_training
from torch import nn

from gpu.cells import RANK, TARGETS
from gpu.clock import from_environment


def coded(model: nn.Module, device: str, dtype: torch.dtype) -> None:
    """Replace every linear layer by bitsandbytes' of 4 bits, in place, one at a time, as diffusers does."""
    for name, layer in list(model.named_modules()):
        if not isinstance(layer, nn.Linear):
            continue
        owner = model.get_submodule(name.rpartition(".")[0])
        sizes = (layer.in_features, layer.out_features)
        small = bitsandbytes.nn.Linear4bit(
            *sizes,
            bias=layer.bias is not None,
            compute_dtype=dtype,
            compress_statistics=True,
            quant_type="nf4",
            device="meta",
        )
        small.weight = bitsandbytes.nn.Params4bit(
            layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
        )
        small.bias = layer.bias
        setattr(owner, name.rpartition(".")[2], small.to(device))


def loaded(folder: Path, device: str, dtype: torch.dtype) -> Any:
    """The denoiser in 4 bits with a LoRA."""
    model: Any = FluxTransformer2DModel.from_pretrained(folder, torch_dtype=dtype)
    coded(model, device, dtype)
    model.to(device)
    model.is_loaded_in_4bit = True
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    model.enable_gradient_checkpointing()
    targets = list(TARGETS["flux-dev"])
    model.add_adapter(
        LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=targets)
    )
    return model.train()


def main() -> None:
    """Steps until the clock has seen enough."""
    clock = from_environment()
    settings = json.loads(sys.argv[1])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = loaded(Path(settings["folder"]) / "transformer", device, dtype)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    clock.facts["trained"] = sum(parameter.numel() for parameter in trained)
    optimizer: Any = bitsandbytes.optim.AdamW8bit if device == "cuda" else torch.optim.AdamW
    moving = optimizer(trained, lr=1e-4)
    width, height = settings["size"]
    tokens, images = (width // 16) * (height // 16), settings["batch"]
    config = model.config
    new = {"device": device, "dtype": dtype}
    latent = torch.randn(images, tokens, config.in_channels, **new)
    context = torch.randn(images, settings["text_length"], config.joint_attention_dim, **new)
    pooled = torch.randn(images, config.pooled_projection_dim, **new)
    for _ in range(settings["steps"]):
        noise, time = torch.randn_like(latent), torch.rand(images, **new)
        mix = time.view(-1, 1, 1)
        with torch.autocast(device, dtype, enabled=device == "cuda"):
            pred = model(
                hidden_states=(1 - mix) * latent + mix * noise,
                timestep=time,
                guidance=torch.ones(images, **new),
                pooled_projections=pooled,
                encoder_hidden_states=context,
                txt_ids=torch.zeros(settings["text_length"], 3, **new),
                img_ids=torch.zeros(tokens, 3, **new),
                return_dict=False,
            )[0]
        loss = ((pred.float() - (noise - latent).float()) ** 2).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        moving.step()
        moving.zero_grad()
        loss.item()


if __name__ == "__main__":
    main()
