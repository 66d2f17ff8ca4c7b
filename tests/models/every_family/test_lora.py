import pytest

from limner.lora.tools import TOOLS
from limner.models.registry import family_of, lora_keys

each_family = pytest.mark.parametrize("keys", lora_keys().values(), ids=lambda keys: keys.family)


@each_family
def test_diffusers_reads_every_family_and_other_tools_are_known(keys):
    assert "diffusers" in keys.tools and set(keys.tools) <= set(TOOLS)


@each_family
def test_what_is_written_for_a_tool_is_among_what_it_reads(keys):
    for tool, rules in keys.tools.items():
        assert rules.writes in rules.reads, tool
        assert "LoRA" in rules.kinds
        assert rules.unfused_style is None or rules.unfused_style in rules.reads


@each_family
def test_text_encoders_are_those_of_the_family(keys):
    family = family_of(keys.facts.pipeline)
    assert set(keys.text) == set(keys.text_styles) == set(family.text_targets)
    assert all(set(rules.text) <= set(keys.text) for rules in keys.tools.values())


@each_family
def test_the_denoiser_is_one_of_its_parts(keys):
    assert keys.component == family_of(keys.facts.pipeline).denoiser
    assert keys.facts.pipeline in keys.pipelines
