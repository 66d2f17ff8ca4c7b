"""What LoRA files of HiDream-I1 call its modules: the authors' names are diffusers'.

ComfyUI's model (comfy/ldm/hidream/model.py) has them too, and its loader takes them behind five prefixes
(comfy/lora.py). ai-toolkit writes ``diffusion_model.``, which diffusers reads besides its own
(``_convert_non_diffusers_hidream_lora_to_diffusers``). sd-scripts, musubi-tuner (which knows HiDream-O1,
another model) and Forge do not know the base.
"""

from limner.models.hidream.facts import FACTS
from limner.models.hidream.keys import DENOISER, LINEARS
from limner.models.key_map import FamilyKeys, KeyMap, ToolKeys, diffusers_keys, dotted, flat

WIDTH, FEED, SHARED, TEXT = 2560, 6912, 3584, 4096


def _feed(part: str, hidden: int) -> dict[str, tuple[tuple[int, int], ...]]:
    """Shapes of the three layers of a feed-forward part."""
    shapes = dict.fromkeys(LINEARS, ((hidden, WIDTH),)) | {"w2": ((WIDTH, hidden),)}
    return {f"{part}.{name}": shape for name, shape in shapes.items()}


LORA = FamilyKeys(
    facts=FACTS,
    table=KeyMap(DENOISER),
    tools={
        "diffusers": diffusers_keys(FACTS.denoiser),
        "comfyui": ToolKeys(
            writes=dotted("diffusion_model.", "native"),
            reads=(
                flat("lora_unet_"),
                *(dotted(prefix, "native") for prefix in ("diffusion_model.", "transformer.")),
                flat("lycoris_"),
            ),
            peft=True,
        ),
    },
    base_names=("hidream-i1", "hidream_i1", "hidream"),
    shapes={
        **{
            f"attn1.{name}{stream}": ((WIDTH, WIDTH),)
            for stream in ("", "_t")
            for name in ("to_q", "to_k", "to_v", "to_out")
        },
        **_feed("shared_experts", SHARED),
        **{key: shape for n in range(4) for key, shape in _feed(f"ff_i.experts.{n}", FEED).items()},
        **_feed("ff_t", FEED),
        "x_embedder.proj": ((WIDTH, 64),),
        "final_layer.linear": ((64, WIDTH),),
        "final_layer.adaLN_modulation.1": ((2 * WIDTH, WIDTH),),
        "timestep_embedder.linear_1": ((WIDTH, 256),),
        "pooled_embedder.linear_1": ((WIDTH, 2048),),
    },
)
