import re

import pytest

from limner.models.key_map import KeyStyle
from limner.models.registry import lora_keys

DIFFUSERS, NATIVE = KeyStyle("", "diffusers"), KeyStyle("", "native")


@pytest.mark.parametrize("family", lora_keys())
def test_each_module_is_found_by_either_name(family: str):
    table = lora_keys()[family].table
    for row in table.rows:
        for member, name in enumerate(row.modules):
            match = table.find(name.replace("{}", "3"), DIFFUSERS)
            assert match is not None and (match.row, match.member) == (row, member)
        match = table.find(row.native.replace("{}", "3"), NATIVE)
        assert match is not None and match.row == row


@pytest.mark.parametrize("family", lora_keys())
def test_both_names_have_as_many_numbers(family: str):
    for row in lora_keys()[family].table.rows:
        assert {len(re.findall(r"\{\}", name)) for name in row.modules} == {row.native.count("{}")}
        assert len(row.shares) == len(row.modules)
