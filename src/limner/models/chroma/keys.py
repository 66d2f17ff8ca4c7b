"""Chroma's modules in diffusers' names and in those of its author, who kept FLUX.1's."""

from limner.models.flux.keys import BLOCKS, NORM_LEAVES, NORMS
from limner.models.key_map import KeyMap, entries, unchanged
from limner.models.shared_keys import BFL_EMBEDDER, BFL_OUTER

APPROXIMATOR = "distilled_guidance_layer."

DENOISER = (
    *BLOCKS,
    *BFL_OUTER,
    *unchanged(f"{APPROXIMATOR}in_proj", f"{APPROXIMATOR}out_proj"),
    *entries(BFL_EMBEDDER, before=f"{APPROXIMATOR}layers.{{}}.", native=f"{APPROXIMATOR}layers.{{}}."),
)
"""What a LoRA may train."""

CHECKPOINT = KeyMap((*DENOISER, *NORMS, *unchanged(f"{APPROXIMATOR}norms.{{}}")))
"""What a checkpoint holds: norms besides."""
LEAVES = {**NORM_LEAVES, "norms": "scale"}
