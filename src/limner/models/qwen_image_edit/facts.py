"""What is known of Qwen-Image-Edit (Wu et al. 2025) and its base."""

from dataclasses import replace

from limner.models.facts import PresetValue, RegisteredBase
from limner.models.qwen_image.facts import FACTS as QWEN_IMAGE

FACTS = replace(
    QWEN_IMAGE,
    name="qwen-image-edit",
    pipeline="QwenImageEditPipeline",
    keys_of=QWEN_IMAGE.name,
    controls=(1, 1),
    bases=(
        RegisteredBase(
            name="qwen-image-edit",
            hub_id="Qwen/Qwen-Image-Edit",
            licence="Apache-2.0",
            purpose="edits of photographs, art and written words",
            weight_bytes=57_698_920_550,
        ),
    ),
    also_named=("qwen_image_edit", "qwenimageedit"),
    preset={
        **QWEN_IMAGE.preset,
        "sample.prompts": PresetValue((), "limner: captions of the folder, with their control images"),
    },
)
