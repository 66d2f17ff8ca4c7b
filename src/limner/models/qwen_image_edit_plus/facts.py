"""What is known of Qwen-Image-Edit-Plus and its base."""

from dataclasses import replace

from limner.models.facts import RegisteredBase
from limner.models.qwen_image_edit.facts import FACTS as EDIT

FACTS = replace(
    EDIT,
    name="qwen-image-edit-plus",
    pipeline="QwenImageEditPlusPipeline",
    controls=(1, 3),
    bases=(
        RegisteredBase(
            name="qwen-image-edit-2509",
            hub_id="Qwen/Qwen-Image-Edit-2509",
            licence="Apache-2.0",
            purpose="edits of one to three images",
            weight_bytes=57_698_920_550,
        ),
    ),
    also_named=("qwen-image-edit-2511", "qwen_image_edit_plus", "qwenimageeditplus"),
)
