import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import limner
from limner.cli.lora import RULES
from limner.errors import BadUsage
from limner.events import ProgressMade
from limner.lora import file, operations, verbs
from limner.lora.operations import ConvertOptions
from limner.lora.resizing import RankRule
from limner.reporter import Reporter
from loras import denoiser
from messages import raises

ABOUT = {"modelspec.architecture": "Qwen-Image/lora", "modelspec.title": "cat"}


@pytest.fixture
def lora(tmp_path) -> Path:
    path = tmp_path / "cat.safetensors"
    file.write(path, {"transformer": denoiser("qwen-image")}, ABOUT)
    return path


def same(path: Path, other: Path) -> bool:
    """Whether two files hold the same tensors to the bit; their metadata say when they were written."""
    tensors, others = load_file(path), load_file(other)
    return tensors.keys() == others.keys() and all(torch.equal(tensors[n], others[n]) for n in tensors)


def test_they_load_no_torch_before_they_are_called():
    code = "import sys, limner; limner.lora.convert, limner.lora.info; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_room_names_what_it_has():
    assert set(dir(limner.lora)) == set(limner.lora.__all__)
    assert all(callable(getattr(limner.lora, name)) for name in limner.lora.__all__)
    with pytest.raises(AttributeError, match=r"'limner\.lora' has no attribute 'covnert'"):
        limner.lora.covnert  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("name", limner.lora.__all__)
def test_every_argument_is_explained_and_typed(name):
    function = getattr(limner.lora, name)
    code = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 8)]
    assert set(names) <= set(function.__annotations__)
    for argument in names:
        assert f"        {argument}: " in function.__doc__, argument


def test_rules_for_ranks_are_those_of_the_command_line():
    assert set(verbs.RankKeys.__annotations__) == {option.name for option in RULES}
    assert set(verbs.ConvertKeys.__annotations__) == set(ConvertOptions.__dataclass_fields__) - {"to"}
    assert set(verbs.ExtractKeys.__annotations__) < set(ConvertOptions.__dataclass_fields__)


def test_a_file_is_converted_beside_the_first(lora):
    done = limner.lora.convert(lora, "comfyui")
    assert done.path == lora.with_name("cat-comfyui.safetensors") and done.error == 0
    straight = lora.with_name("straight.safetensors")
    operations.convert(lora, "comfyui", straight, ConvertOptions(), Reporter())
    assert same(done.path, straight)


def test_a_file_is_resized_and_tells_how_far_it_is(lora):
    heard = []
    done = limner.lora.resize(str(lora), rank=1, dtype="float16", to="comfyui", on_event=heard.append)
    assert done.tool == "comfyui"
    assert done.path == lora.with_name("cat-resized.safetensors")
    assert all(change.rank == 1 for change in file.read(done.path).components["transformer"].values())
    assert isinstance(heard[-1], ProgressMade) and heard[-1].ended and heard[-1].done == done.modules


def test_files_are_merged(lora, tmp_path):
    done = limner.lora.merge(
        [lora, lora], tmp_path / "both.safetensors", weights=[0.5, 0.5], total_energy=0.9
    )
    straight = tmp_path / "straight.safetensors"
    rule = RankRule("total-energy", 0.9)
    operations.merge([lora, lora], [0.5, 0.5], straight, ConvertOptions(), rule)
    assert same(done.path, straight)


def test_what_is_in_a_file_is_said(lora):
    assert limner.lora.info(lora) == limner.lora.info(str(lora))
    assert limner.lora.info(lora).family == "qwen-image"


def test_one_rule_for_ranks_is_needed_and_allowed(lora):
    with raises(BadUsage):
        limner.lora.resize(lora)
    with raises(BadUsage):
        limner.lora.resize(lora, rank=2, energy=0.9)
