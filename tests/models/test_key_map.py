import pytest

from limner.models.key_map import (
    KOHYA_CLIP_L,
    KeyEntry,
    KeyMap,
    KeyStyle,
    by_either_name,
    diffusers_keys,
    dotted,
    flat,
    kohya_keys,
)

ROWS = (
    KeyEntry(("blocks.{}.attn.to_q", "blocks.{}.attn.to_k"), "b.{}.qk", (1, 1)),
    KeyEntry(("blocks.{}.attn.to_out.0",), "b.{}.proj"),
    KeyEntry(("net.2",), "net.2"),
)
TABLE = KeyMap(ROWS)


@pytest.mark.parametrize(
    ("name", "spelling", "row", "member", "numbers"),
    [
        ("unet.blocks.12.attn.to_k", KeyStyle("unet.", "diffusers"), 0, 1, ("12",)),
        ("lora_unet_blocks_3_attn_to_out_0", KeyStyle("lora_unet_", "diffusers", flat=True), 1, 0, ("3",)),
        ("b.7.qk", KeyStyle("", "native"), 0, None, ("7",)),
        ("x_b_7_proj", KeyStyle("x_", "native", flat=True), 1, 0, ("7",)),
        ("blocks.1.attn.processor.to_out", KeyStyle("", "processor"), 1, 0, ("1",)),
        ("net.2", KeyStyle("", "diffusers"), 2, 0, ()),
    ],
)
def test_a_name_is_found(name, spelling, row, member, numbers) -> None:
    place = TABLE.find(name, spelling)
    assert place is not None
    assert (place.row, place.member, place.numbers) == (ROWS[row], member, numbers)
    assert spelling.render(TABLE.name_of(place, spelling.naming)) == name


@pytest.mark.parametrize(
    "name",
    ["net.3", "unet.net.2", "blocks.x.attn.to_q", "blocks.1.attn.to_q.extra", "blocks.1.attn.to_out.1", ""],
)
def test_what_is_not_in_the_table_is_not_found(name: str) -> None:
    assert TABLE.find(name, KeyStyle("", "diffusers")) is None


def test_a_fused_row_names_all_its_modules() -> None:
    place = TABLE.find("b.4.qk", KeyStyle("", "native"))
    assert place is not None
    assert place.modules == ("blocks.4.attn.to_q", "blocks.4.attn.to_k")


def test_styles_render_names_as_files_have_them():
    assert flat("lora_unet_").render("blocks.3.attn.to_q") == "lora_unet_blocks_3_attn_to_q"
    assert dotted("transformer.").render("blocks.3.attn.to_q") == "transformer.blocks.3.attn.to_q"


def test_diffusers_names_each_component_by_itself():
    rules = diffusers_keys("unet", "text_encoder")
    assert rules.peft and rules.writes.prefix == "unet."
    assert [style.prefix for style in rules.text["text_encoder"]] == ["text_encoder."]


def test_an_encoder_may_be_called_as_diffusers_calls_it_besides():
    text = {"text_encoder": KOHYA_CLIP_L, "text_encoder_2": KOHYA_CLIP_L}
    wider = by_either_name(text, "text_encoder")
    assert wider["text_encoder"] == (*KOHYA_CLIP_L, dotted("text_encoder."))
    assert wider["text_encoder_2"] == KOHYA_CLIP_L == kohya_keys(text).text["text_encoder"]
