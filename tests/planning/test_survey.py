import json
from functools import cache
from pathlib import Path

import pytest
from huggingface_hub import constants

from limner.errors import BadUsage
from limner.models.registry import registered_bases
from limner.planning import local_device
from limner.planning.describe_survey import HEAD, survey_lines
from limner.planning.planner import plan
from limner.planning.shipped import shipped_profile
from limner.planning.survey import EVENING, survey
from limner.reporter import Reporter
from limner.target import template

SOME = ("sdxl", "z-image", "qwen-image", "flux-dev", "glyph")


@pytest.fixture(autouse=True)
def _nothing_is_traced(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(local_device, "gpu", lambda: None)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def surveyed(card: str | None = "RTX 4070", names=SOME, **changes):
    def recipe_of(base):
        wishes = {key.replace("__", "."): value for key, value in changes.items()}
        return template({"base": base, "data.images": Path("-"), **wishes})

    return survey(recipe_of, Reporter(), card=card, names=names)


@cache
def on_a_usual_card():
    """The same for all tests that only read it."""
    return surveyed()


def test_each_base_has_the_figures_of_its_plan(monkeypatch):
    result = on_a_usual_card()
    assert [one.base.name for one in result.estimates][-1] == "glyph", "the toy is last"
    assert {one.base.name for one in result.estimates} == set(SOME)
    seconds = [one.total.seconds for one in result.estimates[:-1] if one.total]
    assert seconds == sorted(seconds)
    (sdxl,) = [one for one in result.estimates if one.base.name == "sdxl"]
    monkeypatch.setattr(
        "limner.planning.profile_cache._traced", lambda request: shipped_profile("sdxl", "cuda")
    )
    alone = plan(template({"base": "sdxl", "data.images": Path("-")}), Reporter(), card="RTX 4070")
    assert (sdxl.choice, sdxl.total) == (alone.choice, alone.total)
    assert sdxl.missing_bytes == alone.missing_bytes


def test_the_suggestion_is_the_largest_open_base_of_an_evening():
    result = on_a_usual_card()
    by_name = {one.base.name: one for one in result.estimates}
    assert by_name["qwen-image"].total.seconds > EVENING > by_name["z-image"].total.seconds
    assert result.suggestion is registered_bases()["z-image"]
    assert surveyed("H100").suggestion is registered_bases()["qwen-image"]
    assert surveyed(names=("flux-dev", "glyph")).suggestion is None, "gated, and a toy"


def test_a_base_that_does_not_fit_names_the_card_that_it_fits():
    result = surveyed(limits__vram="3GB", limits__weights_precision="16bit")
    for one in result.estimates:
        if one.choice is None:
            assert one.card and one.card > 3
            fitting = surveyed("RTX 4060", (one.base.name,), limits__vram=f"{one.card}GB")
            assert fitting.estimates[0].choice
    assert any(one.choice is None for one in result.estimates)


def test_without_a_gpu_the_toy_alone_is_planned_and_the_rest_names_its_card():
    result = surveyed(card=None)
    assert [one.base.name for one in result.estimates if one.choice] == ["glyph"]
    assert all(one.card for one in result.estimates if not one.choice)
    text = "\n".join(survey_lines(result, Path("photos")))
    assert "No GPU was found" in text and '--card "RTX 4090"' in text
    assert "Without a GPU only glyph trains in reasonable time" in text


def test_what_no_shipped_profile_is_of_is_traced(monkeypatch):
    requests = []

    def traced(request):
        requests.append(request)
        return shipped_profile("sdxl", "cuda")

    monkeypatch.setattr("limner.planning.profile_cache._traced", traced)
    surveyed(names=("sdxl",))
    assert not requests
    surveyed(names=("sdxl",), data__resolution=512)
    assert requests[0].size == (512, 512)
    surveyed("RTX 2080 Ti", names=("sdxl",))
    assert requests[1].base.compute == "fp16", "the card has no bf16"


def test_the_table_has_a_row_per_base_and_says_what_to_begin_with():
    result = on_a_usual_card()
    lines = survey_lines(result, Path("photos"))
    assert lines[0] == "Bases on a 12 GB RTX 4070, 10 images assumed:"
    assert lines[2].split() == " ".join(HEAD).split()
    rows = {line.split()[0]: line for line in lines[3 : 3 + len(SOME)]}
    assert set(rows) == set(SOME)
    assert "13.9 GB" in rows["sdxl"] and "CreativeML Open RAIL++-M" in rows["sdxl"]
    assert "in int8" in rows["qwen-image"] and "(accept first)" in rows["flux-dev"]
    assert " here " in rows["glyph"] and "a toy of 64 pixels" in rows["glyph"]
    text = "\n".join(lines)
    assert "  flux-dev: https://huggingface.co/black-forest-labs/FLUX.1-dev" in text
    assert "To begin with: z-image (photographs and art): limner train photos --base z-image" in text
    assert "ten seconds" in lines[-1]


def test_a_base_that_cannot_do_it_is_left_out_with_the_reason(monkeypatch):
    monkeypatch.setattr(
        "limner.planning.profile_cache._traced", lambda request: shipped_profile("sdxl", "cuda")
    )
    word = {"train__method": "inversion", "data__trigger": "<zot>"}
    result = surveyed(names=("sdxl", "z-image", "glyph"), **word)
    assert [one.base.name for one in result.estimates if one.refusal] == ["z-image"]
    lines = survey_lines(result, None)
    assert any(
        line.startswith('Not for this recipe: z-image. train.method is "inversion", and') for line in lines
    )
    assert not any(line.startswith("z-image") for line in lines)
    gamma = surveyed(names=("sdxl", "flux-dev"), train__min_snr=5.0)
    assert [one.base.name for one in gamma.estimates if one.refusal] == ["flux-dev"]
    assert "means nothing for flux" in gamma.estimates[-1].plain()["refusal"]


def test_the_table_is_plain_json():
    values = json.loads(json.dumps([one.plain() for one in on_a_usual_card().estimates]))
    assert all(value["fits"] for value in values)
    assert {value["base"]: value["gated"] for value in values}["flux-dev"]
    for value in values:
        assert value["seconds"] > value["seconds_per_step"] > 0


def test_an_unknown_card_is_told():
    with pytest.raises(BadUsage, match="No card 'Voodoo'"):
        surveyed("Voodoo")
