import pytest

from limner.assembly.resolve import resolve
from limner.graph.cache import Cache, cache_key
from limner.training.cache import all_rows
from limner.training.encode import OutputTable, survey
from limner.training.rows import Keys, caption_row, rows_of, text_values
from small import wish

PARTLY = {"text_encoders": ["text_encoder", "text_encoder_2"], "text_encoder_layers": 1}


def test_values_of_a_caption(tiny_base, photos):
    resolved = resolve(wish(tiny_base, photos, lora=PARTLY))
    assert text_values(resolved) == {
        "clip_tokens", "t5_tokens", "encode_clip@2", "encode_t5@2", "pooled", "context",
    }  # fmt: skip
    row = caption_row(resolved, "a cat")
    assert row.outputs == {"clip_tokens", "t5_tokens", "encode_clip@2", "encode_t5@2"}
    assert row.value("caption") == ("a cat",) and set(row.inputs) == {"caption"}


def test_bf16_has_other_addresses_where_it_gives_other_values(tiny_base, photos, tmp_path):
    one = resolve(wish(tiny_base, photos, limits={"compute_dtype": "fp32"}))
    other = resolve(wish(tiny_base, photos, limits={"compute_dtype": "bf16"}))
    here, there = (survey(each, Cache(tmp_path), rows_of(each, each.views)).table[0] for each in (one, other))
    assert here["context"] != there["context"] and here["pooled"] != there["pooled"]
    assert here["latent_mean"] == there["latent_mean"], "the VAE stays in fp32"


def test_rows_and_their_keys_are_made_when_they_are_asked_for(tiny_base, photos):
    resolved = resolve(wish(tiny_base, photos, sample={"every": 0}))
    rows = all_rows(resolved)
    count = len(resolved.views) + len(resolved.held_out)
    assert len(rows) > count and [row.caption for row in rows[:count]] == [
        view.caption for view in (*resolved.views, *resolved.held_out)
    ]
    assert set(rows[-1].inputs) == {"caption"} == set(rows[len(rows) - 1].inputs)
    table = Keys(resolved, rows)
    assert len(table) == len(rows) and [*table] == [table.of(row) for row in rows] == table[: len(rows)]
    keys, spec = table[0], resolved.spec
    for unit in spec.still_cut.frozen:  # as each key is derived by itself
        prints = {name: spec.fingerprint(name, "") for name in unit.uses}
        assert keys[unit.writes[0]] == cache_key(unit, prints, keys)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_what_is_stored_of_each_row_is_known_without_a_row_of_it(tiny_base, photos, dropout):
    resolved = resolve(wish(tiny_base, photos, sample={"every": 0}, data={"caption_dropout": dropout}))
    table = Keys(resolved, all_rows(resolved))
    units = {unit.name: unit for unit in table.units}
    for row, entries in zip(table.rows, table.stored(), strict=True):
        keys = table.of(row)
        assert [(link.unit.name, key) for link, key in entries] == [
            (name, keys[unit.writes[0]])
            for name, unit in units.items()
            if unit.writes[0] in keys and not row.outputs.isdisjoint(unit.writes)
        ]
    outputs = OutputTable(table.stored())
    straight = [{name: table.of(row)[name] for name in row.outputs} for row in table.rows]
    assert [*outputs] == straight == [*OutputTable(Keys(resolved, [*table.rows]).stored())]
    assert outputs[-1] == straight[-1] and outputs[1:3] == straight[1:3] and len(outputs) == len(straight)
