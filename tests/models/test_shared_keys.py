from limner.models.key_map import KeyMap, KeyStyle
from limner.models.shared_keys import CLIP_MODULES, T5_MODULES, unet

NATIVE = KeyStyle("", "native")


def test_a_unet_has_attention_at_the_levels_that_are_named():
    table = KeyMap(unet(2, attention_levels=(1,)))
    names = {name for row in table.rows for name in row.modules}
    assert "down_blocks.1.attentions.0.proj_in" in names and "up_blocks.0.attentions.2.proj_in" in names
    assert not [
        name for name in names if name.startswith(("down_blocks.0.attentions", "up_blocks.1.attentions"))
    ]


def test_upsamplers_stand_behind_attention_where_there_is_any():
    table = KeyMap(unet(3, attention_levels=(1, 2)))
    match = table.find("output_blocks.2.2.conv", NATIVE)
    assert match is not None and match.modules == ("up_blocks.0.upsamplers.0.conv",)


def test_text_encoders_are_called_as_transformers_calls_them():
    for table in (CLIP_MODULES, T5_MODULES):
        assert all(row.modules == (row.native,) for row in table.rows)
