"""The preset of ``glyph``, the embedded base: a small FLUX.1, tuned for minutes on two CPU cores."""

from limner.models.facts import PresetValue

PROMPTS = {
    "subject": ("[trigger]", "[trigger] on a dark background", "a cat"),
    "face": ("[trigger]", "[trigger] on a dark background", "a cat"),
    "object": ("[trigger]", "[trigger] on a dark background", "a cat"),
    "concept": ("[trigger]", "[trigger] on a dark background", "a cat"),
    "style": ("[trigger] style cat", "[trigger] style rocket", "[trigger] style apple", "cat"),
}
TARGETS = ("norm1.linear", "norm1_context.linear", "norm.linear", "norm_out.linear")
"""Every modulation of the FLUX.1 architecture."""


def preset(concept: str, size: int) -> dict[str, PresetValue]:
    """Values by concept and index into ``presets.SIZES``."""
    style = concept == "style"
    style_values = {
        "lora.targets": PresetValue(TARGETS, "limner: modulations know the prompt's gist and no shape"),
        "train.ema": PresetValue(0.98, "limner"),
    }
    return {
        "data.resolution": PresetValue(64, "limner"),
        "data.caption_dropout": PresetValue(0.05, "ai-toolkit"),
        "lora.rank": PresetValue(16, "limner"),
        "lora.text_encoders": PresetValue(("text_encoder",), "limner"),
        "train.steps": PresetValue((300 if style else 280, 380, 600, 900)[size], "limner"),
        "train.batch": PresetValue(4, "limner"),
        "train.learning_rate": PresetValue(2.4e-3 if style else 2e-3, "limner"),
        "train.time_shift": PresetValue(
            4.0 if style else 5.0, "limner: what is seen first of a small picture is settled in its noise"
        ),
        "train.save_every": PresetValue(250, "limner"),
        "sample.every": PresetValue(0, "limner"),
        "sample.prompts": PresetValue(PROMPTS[concept], "written"),
        **(style_values if style else {}),
    }
