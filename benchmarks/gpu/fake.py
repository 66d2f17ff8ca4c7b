"""Bases of true shape and random weights: as configs, as folders that other programs load, as live models.

Weights are N(0, 1 / fan-in), so that a signal passes through a deep model; norms are near 1, biases near 0.
Text encoders of folders have two layers of the true width and a vocabulary of letters: what they would add
to memory and time is left out, to the advantage of programs that keep them on the device.
"""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from transformers import CLIPTokenizer, PreTrainedTokenizerBase, Qwen2Tokenizer, T5TokenizerFast

from limner.models.bundled import Shipped, known
from limner.models.facts import is_tokenizer
from limner.models.family import Family
from limner.models.loading import hush, skeleton
from limner.models.registry import family_of
from limner.models.source import Source

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789,."
SHARD = 10 * 10**9
"""Bytes of a file of weights: as the hub has them, which some programs count on."""
ENCODERS = ("text_encoder", "text_encoder_2")
STEMS = {"transformer": "diffusion_pytorch_model", "unet": "diffusion_pytorch_model"}
VOCABULARY = 512
TEXT_LENGTH = 512
"""Tokens of a caption at full size, where the family does not say."""

SHALLOW = {"flux-dev": {"num_layers": 2, "num_single_layers": 2}, "qwen-image": {"num_layers": 2}}
SHALLOW |= {"z-image": {"n_layers": 2}, "krea2": {"num_layers": 2}}
"""Base -> changes that leave two blocks of each kind at full width."""

VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [8, 8, 8, 8],
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
TEXT = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
TINY: dict[str, dict[str, dict[str, Any]]] = {
    "flux-dev": {
        "transformer": {
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "num_layers": 2,
            "num_single_layers": 2,
            "joint_attention_dim": 32,
            "pooled_projection_dim": 32,
            "axes_dims_rope": [4, 6, 6],
        },
        "text_encoder": TEXT,
        "text_encoder_2": {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_heads": 2},
        "vae": VAE,
    },
    "sdxl": {
        "unet": {
            "block_out_channels": [8, 16, 16],
            "attention_head_dim": [1, 2, 2],
            "transformer_layers_per_block": [1, 1, 2],
            "norm_num_groups": 4,
            "cross_attention_dim": 64,
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 32,
        },
        "text_encoder": TEXT | {"projection_dim": 32},
        "text_encoder_2": TEXT | {"projection_dim": 32},
        "vae": VAE,
    },
    "qwen-image": {
        "transformer": {
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 32,
            "axes_dims_rope": [4, 6, 6],
        },
        "vae": {"base_dim": 8, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1},
    },
    "z-image": {
        "transformer": {
            "dim": 32,
            "n_layers": 2,
            "n_refiner_layers": 1,
            "n_heads": 2,
            "n_kv_heads": 2,
            "cap_feat_dim": 32,
            "axes_dims": [4, 6, 6],
            "axes_lens": [1024, 64, 64],
        },
        "text_encoder": TEXT | {"num_key_value_heads": 1, "head_dim": 8},
        "vae": VAE,
    },
    "krea2": {
        "transformer": {
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "intermediate_size": 48,
            "timestep_embed_dim": 16,
            "text_hidden_dim": 32,
            "text_num_attention_heads": 2,
            "text_num_key_value_heads": 2,
            "text_intermediate_size": 24,
            "axes_dims_rope": [4, 6, 6],
        },
        "vae": {"base_dim": 8, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1},
    },
}
"""Base -> part -> what its config says instead, for a processor."""
TINY_QWEN = {
    "text_config": {
        **TEXT,
        "num_key_value_heads": 1,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    },
    "vision_config": {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2},
}


def described(base: str, *, tiny: bool = False, shallow: bool = False) -> tuple[Family, Source]:
    """The family and the configs of a known base: whole, with two blocks of each kind, or tiny."""
    source = known(base)
    assert isinstance(source, Shipped)
    family = family_of(source.index["_class_name"])
    changes: dict[str, Mapping[str, Any]] = dict(TINY[base]) if tiny else {}
    if shallow and base in SHALLOW and not tiny:
        changes[family.denoiser] = SHALLOW[base]
    parts = dict(source.parts)
    for part, change in changes.items():
        parts[part] = source.config(part) | dict(change)
    if tiny and base == "qwen-image":  # its sizes stand one level deeper
        parts["text_encoder"] = shortened(source.config("text_encoder"), tiny=True)
    if tiny and base == "krea2":  # the same; all of its layers stay, as twelve of them are tapped
        config = source.config("text_encoder")
        text = {**config["text_config"], **TEXT, "num_key_value_heads": 1, "head_dim": 16}
        parts["text_encoder"] = {**config, "text_config": text}
    return family, replace(source, parts=parts, facts={"text_length": 64} if tiny else {})


@torch.no_grad()
def fill(tensor: Tensor, name: str, draw: torch.Generator) -> Tensor:
    """Random numbers as a layer of that name would hold them, in place."""
    if tensor.ndim < 2:
        middle = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        return tensor.normal_(middle, 0.02, generator=draw)
    fan_in = tensor[0].numel()
    return tensor.normal_(0.0, 1 / math.sqrt(fan_in), generator=draw)


def generator(device: torch.device | str, seed: int = 0) -> torch.Generator:
    """Of random weights."""
    return torch.Generator(device=device).manual_seed(seed)


def put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Let a parameter or a buffer of a skeleton be ``tensor``."""
    owner = module.get_submodule(name.rpartition(".")[0])
    place = name.rpartition(".")[2]
    if place in dict(owner.named_parameters(recurse=False)):
        setattr(owner, place, nn.Parameter(tensor, requires_grad=False))
    else:
        setattr(owner, place, tensor)


def tensors(model: nn.Module, device: torch.device, draw: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    """Every stored tensor of a skeleton, drawn one at a time."""
    for name, empty in model.state_dict().items():
        yield name, fill(torch.empty(empty.shape, dtype=empty.dtype, device=device), name, draw)


def write(folder: Path, base: str, *, tiny: bool, dtype: torch.dtype, device: torch.device) -> Path:
    """Write a whole pipeline in diffusers layout, which stock programs load. About its own size in bytes."""
    hush()
    family, source = described(base, tiny=tiny)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps(source.index))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(source.config("scheduler")))
    for part in family.parts:
        if is_tokenizer(part):
            _tokenizer(source.index[part][1]).save_pretrained(folder / part)
        elif part == family.denoiser:
            _denoiser(folder / part, family, source, dtype, device)
        else:
            _small(folder / part, family, source, part, tiny=tiny)
    return folder


def _denoiser(folder: Path, family: Family, source: Source, dtype: torch.dtype, device: torch.device) -> None:
    folder.mkdir()
    model: Any = skeleton(family, source, family.denoiser, dtype=dtype)
    (folder / "config.json").write_text(model.to_json_string())
    stem = STEMS[family.denoiser]
    sizes = {name: empty.numel() * dtype.itemsize for name, empty in model.state_dict().items()}
    places = shards(sizes)
    count = max(places.values()) + 1
    names = [f"{stem}-{n + 1:05d}-of-{count:05d}.safetensors" for n in range(count)]
    names = names if count > 1 else [f"{stem}.safetensors"]
    shard: dict[str, Tensor] = {}
    for name, tensor in tensors(model, device, generator(device)):
        if shard and places[name] != places[next(iter(shard))]:
            save_file(shard, folder / names[places[next(iter(shard))]], metadata={"format": "pt"})
            shard = {}
        shard[name] = tensor.to(dtype).cpu()
    save_file(shard, folder / names[-1], metadata={"format": "pt"})
    if count > 1:
        index = {"metadata": {}, "weight_map": {name: names[place] for name, place in places.items()}}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


def shards(sizes: Mapping[str, int], limit: int = SHARD) -> dict[str, int]:
    """Tensor -> number of its file, in order, so that no file has more bytes than ``most`` if it can."""
    places: dict[str, int] = {}
    number = used = 0
    for name, size in sizes.items():
        if used and used + size > limit:
            number, used = number + 1, 0
        places[name], used = number, used + size
    return places


def _small(folder: Path, family: Family, source: Source, part: str, *, tiny: bool) -> None:
    """A VAE, or a text encoder with two layers."""
    import diffusers
    import transformers

    library, kind = family.library(part)
    torch.manual_seed(0)
    if library == "diffusers":
        getattr(diffusers, kind).from_config(source.config(part)).save_pretrained(folder)
        return
    cls: Any = getattr(transformers, kind)
    config = shortened(source.config(part), tiny=tiny and "text_config" in source.config(part))
    cls(cls.config_class.from_dict(config)).save_pretrained(folder)


def shortened(config: Mapping[str, Any], *, tiny: bool = False) -> dict[str, Any]:
    """A text encoder's config with two layers and few words; ``tiny`` makes Qwen2.5-VL small as well."""
    edits = dict(config)
    if tiny:
        edits = {**edits, **{k: {**config.get(k, {}), **v} for k, v in TINY_QWEN.items()}}
        edits["vision_config"]["out_hidden_size"] = TEXT["hidden_size"]
    for key in ("num_hidden_layers", "num_layers"):
        if key in edits:
            edits[key] = 2
    if "vocab_size" in edits:
        edits["vocab_size"] = VOCABULARY
    if "layer_types" in edits:
        edits["layer_types"] = edits["layer_types"][:2]
    for key in ("bos_token_id", "eos_token_id", "pad_token_id", "image_token_id", "video_token_id"):
        if isinstance(edits.get(key), int):
            edits[key] = min(edits[key], 1)
    if "text_config" in edits:
        edits["text_config"] = shortened(edits["text_config"])
    if "vision_config" in edits:
        edits["vision_config"] = {
            **edits["vision_config"],
            "depth": 1,
            "fullatt_block_indexes": [0],
        }
    return edits


def _tokenizer(kind: str) -> PreTrainedTokenizerBase:
    """One that reads letters."""
    if kind == "CLIPTokenizer":
        pieces = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS), "!"]
        return CLIPTokenizer(vocab={p: n for n, p in enumerate(pieces)}, merges=[], model_max_length=77)
    if kind == "T5TokenizerFast":
        return T5TokenizerFast(
            vocab=[(p, -float(n)) for n, p in enumerate(["<pad>", "</s>", "<unk>", "\u2581", *LETTERS])],
            extra_ids=0,
        )
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocab = {piece: n for n, piece in enumerate([*sorted(ByteLevel.alphabet()), *marks])}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], additional_special_tokens=marks[1:])
    tokenizer.chat_template = (
        "{% for each in messages %}<|im_start|>{{ each.role }}\n{{ each.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


def photos(folder: Path, sizes: Sequence[Sequence[int]], count: int) -> Path:
    """So many images of noise, the sizes in turn."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for number in range(count):
        width, height = sizes[number % len(sizes)]
        noise = draw.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((width, height)).save(folder / f"{number:02d}.png")
    return folder


def main() -> None:
    """Write a base and images, on the GPU where there is one, in a process that ends and gives it back."""
    settings = json.loads(sys.argv[1])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float32 if settings["tiny"] else torch.bfloat16
    folder, photo_folder = Path(settings["folder"]), Path(settings["photos"])
    if not folder.exists():
        write(folder, settings["base"], tiny=settings["tiny"], dtype=dtype, device=device)
    if not photo_folder.exists():
        photos(photo_folder, settings["sizes"], settings["count"])


if __name__ == "__main__":
    main()
