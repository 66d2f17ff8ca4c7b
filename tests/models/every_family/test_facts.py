import json
import re

import pytest

from limner.captions.spec import STYLES
from limner.models.presets import choices
from limner.models.registry import facts_of, families, family_of, folder_of, named_base, registered_bases

each_family = pytest.mark.parametrize("facts", families().values(), ids=lambda facts: facts.name)


@each_family
def test_a_base_says_its_licence_and_size(facts):
    for base in facts.bases:
        assert base.licence
        assert not base.hub_id or (base.hub_id.count("/") == 1 and base.weight_bytes > 10**9)
        assert set(base.part_precisions) <= set(family_of(facts.pipeline).parts)


@each_family
def test_pipeline_and_bases_stand_in_its_facts_as_literals(facts):
    """By which the registry knows whom to import, and that no other family has the name."""
    words = {facts.pipeline} | {
        word for base in facts.bases for word in (base.name, base.hub_id, base.train_on)
    }
    text = (folder_of(facts.name) / "facts.py").read_text()
    assert not [word for word in words - {""} if f'"{word}"' not in text]
    assert facts_of(facts.pipeline) == facts
    assert all(
        registered_bases()[base.name] == base == named_base(base.hub_id or base.name) for base in facts.bases
    )


@each_family
def test_the_bases_are_of_its_pipeline(facts):
    for base in (base for base in facts.bases if base.hub_id):
        config = json.loads((folder_of(facts.name) / "configs" / f"{base.name}.json").read_text())
        assert config["model_index"]["_class_name"] == facts.pipeline


@each_family
def test_captions_and_presets_begin_from_what_is_known(facts):
    assert facts.caption_style in STYLES
    values = choices("style", facts.name, 10)
    assert all(values[key] == choice for key, choice in facts.preset.items() if choice is not None)
    assert not [key for key, choice in facts.preset.items() if choice is None and key in values]


@each_family
def test_one_file_names_parts_and_bases_that_there_are(facts):
    layout = facts.single_file
    if layout is None:
        return
    assert set(layout.parts) <= set(family_of(facts.pipeline).parts)
    assert {base for _, base in layout.donors} <= set(registered_bases())
    assert layout.donors[-1][0] == "", "one base lends to any file"
    assert all((part.names == "key-map") == (part.key_map is not None) for part in layout.parts.values())


def test_a_checkpoint_is_of_one_family_or_of_none():
    marks = {
        "Chroma": {"distilled_guidance_layer.in_proj.weight"},
        "FLUX.1": {"double_blocks.0.img_attn.qkv.weight"},
        "SDXL": {
            "model.diffusion_model.label_emb.0.0.weight",
            "model.diffusion_model.input_blocks.0.0.weight",
        },
        "Stable Diffusion 1.5": {"model.diffusion_model.input_blocks.0.0.weight"},
    }
    layouts = [facts.single_file for facts in families().values() if facts.single_file]
    for title, names in marks.items():
        fitting = [
            layout.title
            for layout in layouts
            if layout.unless not in names and any(re.fullmatch(layout.mark, name) for name in names)
        ]
        assert fitting == [title]
