import pytest

from limner.models.key_map import KeyEntry, KeyMap, KeyStyle

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
