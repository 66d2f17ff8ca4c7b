import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from limner import models
from limner.errors import BadBase
from limner.models.registry import (
    distilled_note,
    families,
    family_of,
    family_of_base,
    folder_of,
    hub_bases,
    hub_id_of,
    lora_keys,
    recognised,
    registered_bases,
    twin_of,
)

PIPELINES = [facts.pipeline for facts in families().values()]


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_known_pipeline_has_its_family(pipeline: str):
    family = family_of(pipeline)
    assert family.pipeline == pipeline
    assert family.denoiser in family.parts


@pytest.mark.parametrize("pipeline", ["StableCascadePriorPipeline", ""])
def test_an_unknown_pipeline_is_told_with_those_that_are_known(pipeline: str):
    with pytest.raises(BadBase, match=f"The base is a '{pipeline}'; Limner trains .*FluxPipeline"):
        family_of(pipeline)


def test_a_family_has_one_name_everywhere():
    for name, facts in families().items():
        assert name == facts.name == family_of(facts.pipeline).name == lora_keys()[name].family
        assert folder_of(name).name == name.replace("-", "_")


def test_the_families_are_the_folders_with_facts():
    folders = {path.parent.name for path in Path(models.__file__).parent.glob("*/facts.py")}
    assert {name.replace("-", "_") for name in families()} == folders


def test_no_two_families_claim_a_pipeline_or_a_base():
    assert len(set(PIPELINES)) == len(PIPELINES)
    assert len(registered_bases()) == sum(len(facts.bases) for facts in families().values())


def test_a_base_is_found_by_its_name():
    assert hub_id_of("sdxl") == hub_bases()["sdxl"].hub_id == "stabilityai/stable-diffusion-xl-base-1.0"
    assert hub_id_of("own/er") == "own/er"
    assert "glyph" in registered_bases() and "glyph" not in hub_bases()
    family = family_of_base("sd35-large")
    assert family is families()["sd3"] and family_of_base("own/er") is None


@pytest.mark.parametrize(
    ("name", "family"),
    [
        *((base, facts.name) for facts in families().values() for base in (b.name for b in facts.bases)),
        *((base.hub_id, facts.name) for facts in families().values() for base in facts.bases if base.hub_id),
        *((facts.pipeline, facts.name) for facts in families().values()),
        ("someone/my-sdxl-finetune", "sdxl"),
    ],
)
def test_names_of_bases_and_pipelines_tell_their_family(name: str, family: str):
    known = recognised(name)
    assert known is not None and known[0].name == family


def test_a_strange_name_tells_no_family():
    assert recognised("own/er") is None


def test_facts_and_keys_load_no_torch():
    code = (
        "import sys; from limner.models.registry import families, lora_keys; families(); lora_keys(); "
        "sys.exit(bool({'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


SOURCE = Path(models.__file__).parents[1]
ALLOWED = {
    "recipe/schema.py": {"sdxl"},  # the example of `parts` on the page of the recipe
    "bases/train_denoiser.py": {"flux"},  # the embedded base is a small FLUX.1
}


def named(path: Path) -> Iterator[str]:
    """The strings of a module outside docstrings, and the packages of ``limner.models`` that it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("limner.models."):
            yield str(node.module).split(".")[2]


def test_nothing_outside_a_familys_folder_asks_which_family_it_is():
    folders = {folder_of(name) for name in families()}
    words = {name.replace("-", "_") for name in families()} | set(families()) | set(PIPELINES)
    words |= {word for base in hub_bases().values() for word in (base.name, base.hub_id)}
    for path in sorted(SOURCE.rglob("*.py")):
        if not folders & set(path.parents):
            place = path.relative_to(SOURCE).as_posix()
            assert set(named(path)) & words <= ALLOWED.get(place, set()), place


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("krea2", "krea2-turbo"),
        ("krea/Krea-2-Turbo", "krea2"),
        ("z-image-turbo", "z-image"),
        ("flux-dev", "flux-schnell"),
        ("flux2-klein-9b-distilled", "flux2-klein-9b"),
    ],
)
def test_a_base_and_its_distilled_twin_know_each_other(name: str, twin: str):
    found = twin_of(name)
    assert found is not None and found.name == twin
    back = twin_of(twin)
    assert back is not None and name in (back.name, back.hub_id)


def test_every_twin_is_a_registered_base_of_the_same_family():
    for facts in families().values():
        names = {base.name for base in facts.bases}
        assert {base.train_on for base in facts.bases if base.train_on} <= names
    assert twin_of("sdxl") is None and twin_of("some/one") is None


def test_what_training_on_a_distilled_base_does_is_said_with_what_to_train_on_instead():
    note = distilled_note("krea2-turbo")
    assert note.startswith("krea2-turbo is distilled to few steps.") and "Train on krea2 and" in note
    assert distilled_note("black-forest-labs/FLUX.1-schnell").count("flux-dev") == 1
    assert "the base it was made from" in distilled_note("my-turbo", distilled=True)
    assert distilled_note("krea2") == distilled_note("glyph") == distilled_note("my-base") == ""
