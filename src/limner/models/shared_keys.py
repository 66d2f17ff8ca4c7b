"""Key maps that several families share: diffusers' module names and those of the models' authors, as data.

Sources: the module lists of diffusers' own classes, and the authors' checkpoints as diffusers converts them
(diffusers 0.42.1, loaders/single_file_utils.py and loaders/lora_conversion_utils.py). ``{}`` is a number.
"""

from collections.abc import Iterable

from limner.models.key_map import KeyEntry, KeyMap, entries, fused, unchanged

DOUBLE, SINGLE = "transformer_blocks.{}.", "single_transformer_blocks.{}."
"""Blocks of two streams and of one, as diffusers names them in MM-DiT and its kin."""
TEXT_PROJECTIONS = ("add_q_proj", "add_k_proj", "add_v_proj")
"""Projections of the text in a block of two streams."""
NORM_OUT = KeyEntry(("norm_out.linear",), "final_layer.adaLN_modulation.1", halves_swapped=True)

BFL_ATTENTION = (
    fused(f"{DOUBLE}attn", "double_blocks.{}.img_attn.qkv", whole="to_qkv"),
    fused(f"{DOUBLE}attn", "double_blocks.{}.txt_attn.qkv", TEXT_PROJECTIONS, whole="to_added_qkv"),
    *entries(
        {"attn.to_out.0": "img_attn.proj", "attn.to_add_out": "txt_attn.proj"},
        before=DOUBLE,
        native="double_blocks.{}.",
    ),
)
"""Attention in Black Forest Labs' blocks of two streams."""
BFL_OUTER = entries({"proj_out": "final_layer.linear", "x_embedder": "img_in", "context_embedder": "txt_in"})
BFL_EMBEDDER = {"linear_1": "in_layer", "linear_2": "out_layer"}

TRANSFORMER = tuple(
    f"transformer_blocks.{{}}.{name}"
    for name in (
        *(f"attn{n}.{part}" for n in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out.0")),
        "ff.net.0.proj",
        "ff.net.2",
    )
)
RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET_KERNELS = {
    **dict.fromkeys(("conv1", "conv2", "downsamplers.0.conv", "upsamplers.0.conv", "conv_in", "conv_out"), 3),
    "conv_shortcut": 1,
}
"""Ending of a module's name -> side of its kernel."""
UNET_OUTER = r"(time_embedding|add_embedding|conv_in|conv_out)\b"
"""Modules of a UNet before and after its blocks, which sd-scripts' LoRAs pass over."""


def _attentions(before: str, native: str) -> tuple[KeyEntry, ...]:
    leaves = ("proj_in", "proj_out", *TRANSFORMER)
    return entries({leaf: leaf for leaf in leaves}, before=f"{before}.", native=f"{native}.")


def unet(levels: int, *, attention_levels: Iterable[int]) -> tuple[KeyEntry, ...]:
    """A UNet of two residual blocks per level, going down; ``attention_levels`` are those with attention."""
    modules = [*_attentions("mid_block.attentions.0", "middle_block.1")]
    modules += [
        row
        for n in (0, 1)
        for row in entries(RESNET, before=f"mid_block.resnets.{n}.", native=f"middle_block.{2 * n}.")
    ]
    for level in range(levels):
        down, up = f"down_blocks.{level}", f"up_blocks.{levels - 1 - level}"
        for n in range(3):
            down_index, up_index = 3 * level + 1 + n, 3 * (levels - 1 - level) + n
            sides = [(up, f"output_blocks.{up_index}")] + [(down, f"input_blocks.{down_index}")] * (n < 2)
            for side, native in sides:
                modules += entries(RESNET, before=f"{side}.resnets.{n}.", native=f"{native}.0.")
                if level in attention_levels:
                    modules += _attentions(f"{side}.attentions.{n}", f"{native}.1")
        if level < levels - 1:
            modules.append(KeyEntry((f"{down}.downsamplers.0.conv",), f"input_blocks.{3 * level + 3}.0.op"))
        if level > 0:
            behind, last = 2 if level in attention_levels else 1, 3 * (levels - 1 - level) + 2
            modules.append(KeyEntry((f"{up}.upsamplers.0.conv",), f"output_blocks.{last}.{behind}.conv"))
    modules += entries({"conv_in": "input_blocks.0.0", "conv_out": "out.2"})
    modules += entries({f"time_embedding.linear_{n}": f"time_embed.{2 * n - 2}" for n in (1, 2)})
    modules += entries({f"add_embedding.linear_{n}": f"label_emb.0.{2 * n - 2}" for n in (1, 2)})
    return tuple(modules)


CLIP_MODULES = KeyMap(
    unchanged(
        *(f"text_model.encoder.layers.{{}}.self_attn.{part}_proj" for part in ("q", "k", "v", "out")),
        *(f"text_model.encoder.layers.{{}}.mlp.fc{n}" for n in (1, 2)),
        "text_projection",
    )
)
T5_MODULES = KeyMap(
    unchanged(
        *(f"encoder.block.{{}}.layer.{{}}.SelfAttention.{part}" for part in "qkvo"),
        *(f"encoder.block.{{}}.layer.{{}}.DenseReluDense.{part}" for part in ("wi", "wi_0", "wi_1", "wo")),
    )
)
