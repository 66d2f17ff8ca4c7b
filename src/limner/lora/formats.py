"""Names of tensors in LoRA files."""

import re
from collections.abc import Mapping

from torch import Tensor

from limner.errors import BadLora
from limner.lora.adapter import Adapter, Factors

COMPONENTS = ("transformer", "unet", "text_encoder", "text_encoder_2")

KEY = re.compile(rf"({'|'.join(COMPONENTS)})\.([A-Za-z0-9_.\-]+)\.lora_([AB])\.weight")

FOREIGN = (
    (r"^lora_(unet|te\d?|transformer)_", "is named as kohya's sd-scripts do"),
    (r"^diffusion_model\.", "is named as the base's authors and ComfyUI do"),
    (r"^base_model\.model\.", "is named as peft does on its own"),
    (r"\.lora_[AB]\.[^.]+\.weight$", "still has the name of peft's adapter in it"),
    (r"\.alpha$|_alpha$", "is a scale beside the factors"),
    (r"\.(lora_magnitude_vector|dora_scale)", "belongs to a DoRA"),
    (r"\.(hada|lokr)_", "belongs to a LoHa or LoKr"),
    (r"\.lora(_linear_layer)?[._](up|down)\.|_lora\.(up|down)\.", "is named as diffusers did before peft"),
)
"""Spellings that other tools write, and what they are; the first that fits is told."""

REMEDY = "Load it with the tool that wrote it, and save it there in diffusers' form (lora_A / lora_B)."


def to_diffusers(components: Mapping[str, Adapter]) -> dict[str, Tensor]:
    """Flat names as diffusers reads them: ``transformer.<module>.lora_A.weight`` (down), ``lora_B`` (up).

    CLIP's modules always get the ``text_model.`` level that transformers 5 dropped: current diffusers drops
    it again when it must, and older ones and ComfyUI know no other name.

    Raises:
        BadLora: A component is none of ``COMPONENTS``, or two modules get one name.
    """
    flat: dict[str, Tensor] = {}
    for component, adapter in components.items():
        if component not in COMPONENTS:
            raise BadLora(
                f"No LoRA file has a component {component!r}; these are known: {', '.join(COMPONENTS)}."
            )
        for module, factors in adapter.items():
            name = f"{component}.{canonical(component, module)}"
            if f"{name}.lora_A.weight" in flat:
                raise BadLora(f"Two modules would both be written as {name}. Leave one of them out.")
            flat[f"{name}.lora_A.weight"] = factors.down
            flat[f"{name}.lora_B.weight"] = factors.up
    return flat


def canonical(component: str, module: str) -> str:
    """The name of ``module`` that files use, whichever version of transformers gave it."""
    clip = component.startswith("text_encoder") and module.startswith("encoder.layers.")
    return f"text_model.{module}" if clip else module


def from_diffusers(flat: Mapping[str, Tensor]) -> dict[str, dict[str, Factors]]:
    """The components of a flat file, float32; the inverse of ``to_diffusers``.

    Raises:
        BadLora: A key of another form, which it names; half a pair; shapes that do not belong together.
    """
    halves: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, tensor in flat.items():
        parts = KEY.fullmatch(key)
        if not parts or any(re.search(pattern, key) for pattern, _ in FOREIGN):
            raise BadLora(f"{key} {_reason(key)}. {REMEDY}")
        component, module, half = parts.groups()
        halves.setdefault((component, module), {})[half] = tensor.float()
    components: dict[str, dict[str, Factors]] = {}
    for (component, module), pair in halves.items():
        if len(pair) < 2:
            missing = "lora_B" if "A" in pair else "lora_A"
            raise BadLora(f"{component}.{module} has no {missing}: the file is incomplete. Export it again.")
        try:
            made = Factors(pair["A"], pair["B"])
        except BadLora as error:
            raise BadLora(f"{component}.{module}: {error}") from error
        components.setdefault(component, {})[module] = made
    return components


def _reason(key: str) -> str:
    return next(
        (reason for pattern, reason in FOREIGN if re.search(pattern, key)),
        f"does not begin with one of: {', '.join(COMPONENTS)}",
    )
