"""What is known of Qwen-Image-Edit-Plus and its bases.

The second is named, with the pipeline of the first, by its authors (QwenLM/Qwen-Image, README.md); what is
new in it, ``zero_cond_t``, came with diffusers' pull request 12839.
"""

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
        RegisteredBase(
            name="qwen-image-edit-2511",
            hub_id="Qwen/Qwen-Image-Edit-2511",
            licence="Apache-2.0",
            purpose="edits of one to three images",
            weight_bytes=57_698_920_550,
        ),
    ),
    also_named=("qwen_image_edit_plus", "qwenimageeditplus"),
)
