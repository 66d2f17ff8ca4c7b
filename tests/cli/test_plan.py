import json

import pytest

from blueprints import flux
from limner.models.registry import registered_bases
from limner.planning import profile_cache
from limner.run_folder import RunDir


@pytest.fixture(autouse=True)
def _traced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(profile_cache, "_traced", lambda asked: flux(max(asked.size), doubles=4, singles=6))


FLUX = ("--base", "flux-dev", "--resolution", "1024")


def test_a_base_alone_can_be_planned(limner):
    done = limner("plan", *FLUX, "--vram", "12GB")
    assert done.status == 0, done.err
    assert "flux-dev, at 1024 x 1024" in done.out
    assert "on RTX 4070: 12.0 GB" in done.out
    assert "Instead" in done.out


def test_json_is_one_object_with_the_promised_keys(limner):
    done = limner("plan", *FLUX, "--card", "RTX 3060", "--json", "--price", "0.5")
    value = json.loads(done.out)
    assert done.status == 0
    assert list(value)[:6] == [
        "fits",
        "peak_bytes",
        "reserved_bytes",
        "plan",
        "seconds_per_step",
        "alternatives",
    ]
    assert set(value["peak_bytes"]) == {"load", "cache", "train", "sample"}
    assert value["cost"] > 0


def test_nothing_fits_exits_1_with_what_would_do(limner):
    done = limner("plan", *FLUX, "--vram", "1.8GB", "--weights-precision", "16bit", "--card", "4090")
    assert done.status == 1
    assert "Most of it is" in done.err
    assert "What would do:" in done.err
    told = limner(
        "plan", *FLUX, "--vram", "1.8GB", "--weights-precision", "16bit", "--card", "4090", "--json"
    )
    assert told.status == 1
    assert json.loads(told.out)["fits"] is False


def test_a_dry_run_of_training_is_its_plan(limner, photos):
    done = limner("train", photos, "--base", "glyph", "--dry-run", "--json")
    plan = limner("plan", photos, "--base", "glyph", "--json")
    assert json.loads(done.out)["plan"] == json.loads(plan.out)["plan"]
    assert not list(photos.parent.rglob("lora.safetensors"))


def test_a_folder_is_planned_and_the_plan_kept_in_its_run(limner, photos):
    run = RunDir("runs/photos")
    done = limner("plan", photos, *FLUX, "--vram", "24GB", "--set", "data.min_side=8")
    assert done.status == 0, done.err
    assert not run.plan_path.exists()
    run.path.mkdir(parents=True)
    done = limner("plan", photos, *FLUX, "--vram", "24GB", "--set", "data.min_side=8")
    assert f"Kept: {run.plan_path}" in done.out
    assert json.loads(run.plan_path.read_text())["images"] == 3


def test_without_a_base_all_of_them_are_shown_on_this_card(limner, photos):
    done = limner("plan", "--card", "RTX 4070", "--set", "data.min_side=8")
    assert done.status == 0, done.err
    assert done.out.startswith("Bases on a 12 GB RTX 4070, ")
    assert all(f"\n{base} " in done.out for base in registered_bases())
    assert "limner train FOLDER --base chroma1-hd" in done.out
    # the base is open; its text encoder lies elsewhere and is not
    assert "  hidream-i1-full: https://huggingface.co/meta-llama/Meta-Llama-3.1-8B-Instruct\n" in done.out
    assert not done.err, "nothing has to be traced"
    done = limner("plan", photos, "--card", "RTX 4070", "--json")
    value = json.loads(done.out)
    assert {row["base"] for row in value["bases"]} == set(registered_bases())
    assert value["suggestion"] == "chroma1-hd"
    needs = {row["base"]: row["needs_card_bytes"] for row in value["bases"] if not row["fits"]}
    assert needs == {"flux2-dev": 16 * 2**30}, "no card of the size that it does not fit"


def test_a_recipe_names_its_base(limner, photos):
    limner("init", photos, "--out", "cats.toml", "--base", "flux-dev")
    done = limner("plan", "cats.toml", "--card", "RTX 4070")
    assert done.out.startswith("Fits a 12 GB RTX 4070: about "), done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*FLUX, "--vram", "lots"), 'limits.vram is "lots"'),
        ((*FLUX, "--card", "Voodoo"), "No card 'Voodoo'"),
        ((*FLUX, "--price", "-1"), "--price is -1"),
        ((*FLUX, "--weights-precision", "2bit"), 'limits.weights_precision is "2bit"'),
        (("nowhere",), "There is no nowhere"),
        ((*FLUX, "--set", "train.method=half"), "train.method"),
    ],
)
def test_wrong_wishes_exit_2_with_one_line(limner, arguments, message):
    done = limner("plan", *arguments)
    assert done.status == 2
    assert message in done.err
    assert not done.out


def test_a_device_can_be_measured_first(limner, verb):
    asked = []
    verb("planning.calibrate", calibrate=lambda limits, reporter: asked.append(limits))
    done = limner("plan", *FLUX, "--vram", "12GB", "--calibrate")
    assert done.status == 0, done.err
    assert [each.vram for each in asked] == ["12GB"]


def test_several_gpus_are_planned_with_a_share_each(limner):
    keys = (*FLUX, "--card", "H100", "--processes", "4", "--set", "train.batch=4")
    done = limner("plan", *keys, "--set", "limits.shard=on", "--set", "limits.ram=256GB")
    assert done.status == 0, done.err
    assert "weights split over 4 processes (FSDP2)" in done.out and "at 360 GB/s" in done.out
    assert "blocks gathered of shards" in done.out
    plain = limner("plan", *keys, "--json")
    value = json.loads(plain.out)
    assert value["plan"]["shards"] == 1 and value["device"]["processes"] == 4


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (("--processes", "0"), "from 1 to 64"),
        (("--processes", "4"), "train.batch"),
        (("--set", "limits.shard=on"), "--processes 2"),
    ],
)
def test_processes_that_cannot_be_are_one_line(limner, keys, words):
    done = limner("plan", *FLUX, "--card", "H100", *keys)
    assert done.status == 2 and words in done.err and done.err.count("\n") == 1
