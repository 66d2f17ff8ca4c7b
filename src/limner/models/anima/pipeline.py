"""diffusers' modular pipeline of Anima, filled and called as its other pipelines are."""

from typing import Any

from diffusers import AnimaAutoBlocks, AnimaModularPipeline

from limner.models.anima.padding import resize_by_torch


class AnimaPipeline(AnimaModularPipeline):
    """The stock pipeline with its parts.

    Args:
        parts: Its components by name. Without text encoder it takes prompts that are encoded already.
    """

    def __init__(self, **parts: Any) -> None:
        """See the class."""
        resize_by_torch()
        blocks = AnimaAutoBlocks()
        if parts.get("text_encoder") is None:
            del blocks.sub_blocks["text_encoder"]
            del blocks.sub_blocks["denoise"].sub_blocks["text2image"].sub_blocks["text_conditioning"]
        super().__init__(blocks)
        self.update_components(**{name: part for name, part in parts.items() if part is not None})

    def set_progress_bar_config(self, **options: Any) -> None:
        """Tell the one block that shows a bar; diffusers tells outer blocks alone."""
        block: Any = self._blocks
        for name in ("denoise", "text2image", "denoise"):
            block = block.sub_blocks[name]
        block.set_progress_bar_config(**options)

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, *, guidance_scale: float = 4.0, negative_prompt_embeds: Any = None, **options: Any
    ) -> Any:
        """Pictures, as ``images`` of what is given back.

        Args:
            guidance_scale: That of the pipeline's guider; at 1 there is no negative pass.
            negative_prompt_embeds: Beside ``prompt_embeds``, in place of texts.
            options: As the pipeline's blocks know them.
        """
        self.guider.guidance_scale = guidance_scale  # pyright: ignore[reportAttributeAccessIssue]
        if "prompt_embeds" in options:
            options |= {"negative_prompt_embeds": negative_prompt_embeds}
            options.pop("max_sequence_length", None)
        return super().__call__(**options)
