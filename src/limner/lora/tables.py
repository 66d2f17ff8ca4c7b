"""Names of the modules of every family: diffusers' and those of the model's authors, as data.

Sources: the module lists of diffusers' own classes, and the authors' checkpoints as diffusers converts them
(diffusers 0.42.1, loaders/single_file_utils.py and loaders/lora_conversion_utils.py). ``{}`` is a number.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from limner.errors import BadLora
from limner.lora.key_map import KeyEntry, KeyMap


def same(*names: str) -> tuple[KeyEntry, ...]:
    """Rows of modules that are called alike in both namings."""
    return tuple(KeyEntry((name,), name) for name in names)


def rows(table: Mapping[str, str], *, before: str = "", native: str = "") -> tuple[KeyEntry, ...]:
    """Rows of one module each, from diffusers' name to the authors', behind a prefix on each side."""
    return tuple(KeyEntry((before + name,), native + other) for name, other in table.items())


QKV = (1, 1, 1)


def attention(
    before: str, native: str, names: Iterable[str] = ("to_q", "to_k", "to_v"), fused: str | None = None
) -> KeyEntry:
    """Three modules that the authors keep as one weight, and what diffusers calls it once it is fused."""
    whole = "" if fused is None else f"{before}.{fused}"
    return KeyEntry(tuple(f"{before}.{name}" for name in names), native, QKV, fused_name=whole)


ADDED_QKV = ("add_q_proj", "add_k_proj", "add_v_proj")

DOUBLE, SINGLE = "transformer_blocks.{}.", "single_transformer_blocks.{}."

FLUX_DOUBLE = (
    attention(f"{DOUBLE}attn", "double_blocks.{}.img_attn.qkv", fused="to_qkv"),
    attention(f"{DOUBLE}attn", "double_blocks.{}.txt_attn.qkv", ADDED_QKV, fused="to_added_qkv"),
    *rows(
        {"attn.to_out.0": "img_attn.proj", "attn.to_add_out": "txt_attn.proj"},
        before=DOUBLE,
        native="double_blocks.{}.",
    ),
)

OUTER = {"proj_out": "final_layer.linear", "x_embedder": "img_in", "context_embedder": "txt_in"}
LAYERS = {"linear_1": "in_layer", "linear_2": "out_layer"}
NORM_OUT = KeyEntry(("norm_out.linear",), "final_layer.adaLN_modulation.1", halves_swapped=True)

FLUX = (
    *FLUX_DOUBLE,
    *rows(
        {
            "ff.net.0.proj": "img_mlp.0",
            "ff.net.2": "img_mlp.2",
            "ff_context.net.0.proj": "txt_mlp.0",
            "ff_context.net.2": "txt_mlp.2",
            "norm1.linear": "img_mod.lin",
            "norm1_context.linear": "txt_mod.lin",
        },
        before=DOUBLE,
        native="double_blocks.{}.",
    ),
    KeyEntry(
        tuple(f"{SINGLE}{name}" for name in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")),
        "single_blocks.{}.linear1",
        (1, 1, 1, 4),
    ),
    *rows(
        {"proj_out": "linear2", "norm.linear": "modulation.lin"}, before=SINGLE, native="single_blocks.{}."
    ),
    *rows(OUTER),
    *(
        row
        for part, native in (("timestep", "time_in"), ("guidance", "guidance_in"), ("text", "vector_in"))
        for row in rows(LAYERS, before=f"time_text_embed.{part}_embedder.", native=f"{native}.")
    ),
    NORM_OUT,
)

FLUX2 = (
    *FLUX_DOUBLE,
    *rows(
        {
            "ff.linear_in": "img_mlp.0",
            "ff.linear_out": "img_mlp.2",
            "ff_context.linear_in": "txt_mlp.0",
            "ff_context.linear_out": "txt_mlp.2",
        },
        before=DOUBLE,
        native="double_blocks.{}.",
    ),
    *rows(
        {"attn.to_qkv_mlp_proj": "linear1", "attn.to_out": "linear2"},
        before=SINGLE,
        native="single_blocks.{}.",
    ),
    *rows(
        {
            f"{part}.linear": f"{part}.lin"
            for part in (
                "double_stream_modulation_img",
                "double_stream_modulation_txt",
                "single_stream_modulation",
            )
        }
    ),
    *rows(OUTER),
    *rows(LAYERS, before="time_guidance_embed.timestep_embedder.", native="time_in."),
    *rows(LAYERS, before="time_guidance_embed.guidance_embedder.", native="guidance_in."),
    NORM_OUT,
)

QWEN = same(
    *(
        f"{DOUBLE}{name}"
        for name in (
            *(f"attn.{part}" for part in ("to_q", "to_k", "to_v", *ADDED_QKV, "to_out.0", "to_add_out")),
            *(f"{side}_mlp.net.{part}" for side in ("img", "txt") for part in ("0.proj", "2")),
            "img_mod.1",
            "txt_mod.1",
        )
    ),
    *("img_in", "txt_in", "proj_out", "norm_out.linear"),
    *(f"time_text_embed.timestep_embedder.linear_{n}" for n in (1, 2)),
)

Z_IMAGE = (
    *(
        row
        for block in ("layers.{}.", "noise_refiner.{}.", "context_refiner.{}.")
        for row in (
            attention(f"{block}attention", f"{block}attention.qkv"),
            KeyEntry((f"{block}attention.to_out.0",), f"{block}attention.out"),
            *same(
                *(
                    f"{block}{name}"
                    for name in (*(f"feed_forward.w{n}" for n in (1, 2, 3)), "adaLN_modulation.0")
                )
            ),
        )
    ),
    *rows(
        {
            "all_x_embedder.2-1": "x_embedder",
            "all_final_layer.2-1.linear": "final_layer.linear",
            "all_final_layer.2-1.adaLN_modulation.1": "final_layer.adaLN_modulation.1",
        }
    ),
    *same("cap_embedder.1", "t_embedder.mlp.0", "t_embedder.mlp.2"),
)

JOINT = "joint_blocks.{}."
SD3 = (
    attention(f"{DOUBLE}attn", f"{JOINT}x_block.attn.qkv"),
    attention(f"{DOUBLE}attn", f"{JOINT}context_block.attn.qkv", ADDED_QKV),
    attention(f"{DOUBLE}attn2", f"{JOINT}x_block.attn2.qkv"),
    *rows(
        {
            "attn.to_out.0": "x_block.attn.proj",
            "attn2.to_out.0": "x_block.attn2.proj",
            "attn.to_add_out": "context_block.attn.proj",
            "ff.net.0.proj": "x_block.mlp.fc1",
            "ff.net.2": "x_block.mlp.fc2",
            "ff_context.net.0.proj": "context_block.mlp.fc1",
            "ff_context.net.2": "context_block.mlp.fc2",
            "norm1.linear": "x_block.adaLN_modulation.1",
        },
        before=DOUBLE,
        native=JOINT,
    ),
    *rows(
        {
            "proj_out": "final_layer.linear",
            "context_embedder": "context_embedder",
            "pos_embed.proj": "x_embedder.proj",
        }
    ),
    KeyEntry(
        (f"{DOUBLE}norm1_context.linear",), f"{JOINT}context_block.adaLN_modulation.1", halves_swapped=True
    ),
    *(
        KeyEntry((f"time_text_embed.{part}_embedder.linear_{n}",), f"{native}.mlp.{2 * n - 2}")
        for part, native in (("timestep", "t_embedder"), ("text", "y_embedder"))
        for n in (1, 2)
    ),
    NORM_OUT,
)

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


def _attentions(before: str, native: str) -> tuple[KeyEntry, ...]:
    leaves = ("proj_in", "proj_out", *TRANSFORMER)
    return rows({leaf: leaf for leaf in leaves}, before=f"{before}.", native=f"{native}.")


def unet(levels: int, *, attention_levels: Iterable[int]) -> tuple[KeyEntry, ...]:
    """A UNet of two residual blocks per level, going down; ``attention_levels`` are those with attention."""
    entries = [*_attentions("mid_block.attentions.0", "middle_block.1")]
    entries += [
        row
        for n in (0, 1)
        for row in rows(RESNET, before=f"mid_block.resnets.{n}.", native=f"middle_block.{2 * n}.")
    ]
    for level in range(levels):
        down, up = f"down_blocks.{level}", f"up_blocks.{levels - 1 - level}"
        for n in range(3):
            input_index, output_index = 3 * level + 1 + n, 3 * (levels - 1 - level) + n
            sides = [(up, f"output_blocks.{output_index}")] + [(down, f"input_blocks.{input_index}")] * (
                n < 2
            )
            for side, native in sides:
                entries += rows(RESNET, before=f"{side}.resnets.{n}.", native=f"{native}.0.")
                if level in attention_levels:
                    entries += _attentions(f"{side}.attentions.{n}", f"{native}.1")
        if level < levels - 1:
            entries.append(KeyEntry((f"{down}.downsamplers.0.conv",), f"input_blocks.{3 * level + 3}.0.op"))
        if level > 0:
            behind, last = 2 if level in attention_levels else 1, 3 * (levels - 1 - level) + 2
            entries.append(KeyEntry((f"{up}.upsamplers.0.conv",), f"output_blocks.{last}.{behind}.conv"))
    entries += rows({"conv_in": "input_blocks.0.0", "conv_out": "out.2"})
    entries += rows({f"time_embedding.linear_{n}": f"time_embed.{2 * n - 2}" for n in (1, 2)})
    entries += rows({f"add_embedding.linear_{n}": f"label_emb.0.{2 * n - 2}" for n in (1, 2)})
    return tuple(entries)


CLIP = KeyMap(
    same(
        *(f"text_model.encoder.layers.{{}}.self_attn.{part}_proj" for part in ("q", "k", "v", "out")),
        *(f"text_model.encoder.layers.{{}}.mlp.fc{n}" for n in (1, 2)),
        "text_projection",
    )
)
T5 = KeyMap(
    same(
        *(f"encoder.block.{{}}.layer.{{}}.SelfAttention.{part}" for part in "qkvo"),
        *(f"encoder.block.{{}}.layer.{{}}.DenseReluDense.{part}" for part in ("wi", "wi_0", "wi_1", "wo")),
    )
)


@dataclass(frozen=True)
class FamilyKeys:
    """What LoRA files of one family may call its modules."""

    family: str
    """As people say it: "flux", "sdxl"."""
    pipelines: tuple[str, ...]
    """diffusers' pipelines of that family; the first reads its LoRA files."""
    component: str
    """What diffusers calls the denoiser."""
    table: KeyMap = field(repr=False)
    text: Mapping[str, KeyMap] = field(default_factory=dict, repr=False)
    """Text encoder -> its rows."""
    base_names: tuple[str, ...] = ()
    """Beginnings of what metadata calls its bases, in lower case."""
    depths: tuple[int, ...] = ()
    """Numbers of ``transformer_blocks`` of the published models."""
    context: int | None = None
    """Width of the text that its attention reads, where that tells it from a sibling."""
    kernels: Mapping[str, int] = field(default_factory=dict)
    """Ending of a module's name -> side of its kernel, of the convolutions; what is not here is linear."""

    def kernel(self, module: str) -> tuple[int, ...]:
        """Height and width of the kernel of ``module``; () of a linear layer."""
        side = next((side for end, side in self.kernels.items() if f".{module}".endswith(f".{end}")), None)
        return () if side is None else (side, side)


CONVOLUTIONS = {
    **dict.fromkeys(("conv1", "conv2", "downsamplers.0.conv", "upsamplers.0.conv", "conv_in", "conv_out"), 3),
    "conv_shortcut": 1,
}

FAMILIES = {
    names.family: names
    for names in (
        FamilyKeys(
            "flux",
            ("FluxPipeline",),
            "transformer",
            KeyMap(FLUX),
            {"text_encoder": CLIP, "text_encoder_2": T5},
            ("flux-1", "flux1", "flux.1"),
            (19,),
        ),
        FamilyKeys(
            "flux2",
            ("Flux2Pipeline", "Flux2KleinPipeline"),
            "transformer",
            KeyMap(FLUX2),
            base_names=("flux.2", "flux-2", "flux2"),
            depths=(5, 8),
        ),
        FamilyKeys(
            "qwen-image",
            ("QwenImagePipeline",),
            "transformer",
            KeyMap(QWEN),
            base_names=("qwen",),
            depths=(60,),
        ),
        FamilyKeys(
            "z-image",
            ("ZImagePipeline",),
            "transformer",
            KeyMap(Z_IMAGE),
            base_names=("z-image", "zimage", "lumina2"),
        ),
        FamilyKeys(
            "sd3",
            ("StableDiffusion3Pipeline",),
            "transformer",
            KeyMap(SD3),
            {"text_encoder": CLIP, "text_encoder_2": CLIP, "text_encoder_3": T5},
            ("stable-diffusion-3", "sd3"),
            (24, 38),
            kernels={"pos_embed.proj": 2},
        ),
        FamilyKeys(
            "sdxl",
            ("StableDiffusionXLPipeline",),
            "unet",
            KeyMap(unet(3, attention_levels=(1, 2))),
            {"text_encoder": CLIP, "text_encoder_2": CLIP},
            ("stable-diffusion-xl", "sdxl"),
            context=2048,
            kernels=CONVOLUTIONS,
        ),
        FamilyKeys(
            "sd15",
            ("StableDiffusionPipeline",),
            "unet",
            KeyMap(unet(4, attention_levels=(0, 1, 2))),
            {"text_encoder": CLIP},
            ("stable-diffusion-v1", "sd_v1", "sd_1.5"),
            context=768,
            kernels=CONVOLUTIONS | {"proj_in": 1, "proj_out": 1},
        ),
    )
}


def family_keys(family: str) -> FamilyKeys:
    """The names of a family, by its own name or that of a pipeline.

    Raises:
        BadLora: There is no such family.
    """
    for names in FAMILIES.values():
        if family == names.family or family in names.pipelines:
            return names
    raise BadLora(f"No family is called {family!r}. Known: {', '.join(FAMILIES)}.")
