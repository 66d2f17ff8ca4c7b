"""LoRA files of AuraFlow: only diffusers' own form."""

from limner.models.key_map import FamilyKeys, diffusers_keys

from .facts import FACTS

LORA = FamilyKeys(facts=FACTS, tools={"diffusers": diffusers_keys(FACTS.denoiser)})
