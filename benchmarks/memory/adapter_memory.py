"""What an adapter keeps for the backward pass: peft's layers beside ours, in one double and one single block.

python -m benchmarks.memory.adapter_memory      # half a minute on a CPU; counts bytes, measures no time
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn import functional as F

from limner.nn.layers import lora

DTYPE = torch.bfloat16

ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0")
TARGETS = (*ATTENTION, "ff.net.0.proj", "ff.net.2", "proj_mlp", "single_transformer_blocks.*.proj_out")
TOKENS, TEXT, RANK = 512, 64, 16


def model() -> nn.Module:
    """A FLUX of width 256."""
    torch.manual_seed(0)
    sizes = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 64, "num_attention_heads": 4}
    text = {"joint_attention_dim": 64, "pooled_projection_dim": 64}
    flux_model = FluxTransformer2DModel(**sizes, **text, axes_dims_rope=(16, 24, 24))
    return nn.Module.to(flux_model, DTYPE).requires_grad_(requires_grad=False)


def inputs() -> dict[str, Tensor]:
    """One image and its text."""
    return {
        "hidden_states": torch.randn(1, TOKENS, 64).to(DTYPE),
        "encoder_hidden_states": torch.randn(1, TEXT, 64).to(DTYPE),
        "pooled_projections": torch.randn(1, 64).to(DTYPE),
        "timestep": torch.full((1,), 0.5, dtype=DTYPE),
        "img_ids": torch.zeros(TOKENS, 3),
        "txt_ids": torch.zeros(TEXT, 3),
    }


@contextmanager
def autocast_of_cuda() -> Iterator[None]:
    """Autocast as GPUs have it: norms give float32, which on a CPU they do not."""
    plain = F.layer_norm

    def norm(hidden: Tensor, *args: Any, **options: Any) -> Tensor:
        return plain(hidden.float(), *args, **options)

    with torch.autocast("cpu", DTYPE), mock.patch.object(F, "layer_norm", norm):
        yield


def kept(net: nn.Module, values: dict[str, Tensor], *, autocast: bool) -> int:
    """Bytes that autograd keeps of a forward pass; the model's own tensors left aside."""
    pointers = {p.untyped_storage().data_ptr() for p in net.parameters()}
    sizes_by_pointer: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in pointers:
            sizes_by_pointer[storage.data_ptr()] = storage.nbytes()
        return tensor

    keeping = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with autocast_of_cuda() if autocast else nullcontext(), keeping:
        alive = net(**values).sample
    del alive
    return sum(sizes_by_pointer.values())


def main() -> None:
    """Print a table."""
    unit = (TOKENS + TEXT) * 256 * 2
    for name, is_limner, autocast in (
        ("peft, fp32 factors, autocast", False, True),
        ("ours, fp32 masters, autocast", True, True),
        ("peft, fp32 factors, bf16 around them", False, False),
        ("ours, fp32 masters, bf16 throughout", True, False),
    ):
        net = model()
        names = lora.matching(net, TARGETS)
        if is_limner:
            lora.attach(net, names, rank=RANK, alpha=RANK, dropout=0.0, seed=0)
        else:
            inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=names), net)
            for parameter in net.parameters():
                parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
        bytes_kept = kept(net, inputs(), autocast=autocast)
        print(f"{name:38} {bytes_kept / 1e6:7.2f} MB = {bytes_kept / unit:5.1f} u")


if __name__ == "__main__":
    main()
