from dataclasses import replace

import pytest

from blueprints import flux
from limner.models.source import Source
from limner.planning import local_device, profile_cache
from limner.planning.describe import count, duration, lines
from limner.planning.local_device import LocalGpu
from limner.planning.planner import plan
from limner.planning.profile import TargetGroup
from limner.recipe.schema import Recipe
from limner.recipe.toml import change
from limner.reporter import Reporter


@pytest.fixture(autouse=True)
def _traced(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(profile_cache, "_traced", lambda asked: flux(1024, doubles=4, singles=6))


def told(memory, card="RTX 4090", **changes):
    request = {"base": "flux-dev", "limits.vram": memory, "train.batch": 2, "data.images": "-"}
    request |= {key.replace("__", "."): value for key, value in changes.items()}
    return "\n".join(lines(plan(change(Recipe(), request), Reporter(), card=card)))


def test_a_person_reads_where_memory_and_time_go_and_what_else_there_is():
    text = told("6GB")
    for words in (
        "flux-dev, at 1024 x 1024",
        "on RTX 4090: 6.0 GB, 512 MB left to the desktop",
        "frozen weights",
        "activations",
        "total",
        "that may be used",
        "caching",
        "pinned",
        "Disk: download 33.7 GB",
        "batch size 2, gradients accumulated over 2 micro-batches of 1",
        "per step",
        "Instead",
        "Rented: $",
        "not calibrated",
    ):
        assert words in text


def test_the_images_of_a_slider_pass_at_both_strengths_and_count_once():
    slider = {"train__objective": "slider", "slider__positive": "red", "train__batch": 4}
    assert "batch size 4, at strengths 1 and -1" in told("24GB", **slider)
    assert "accumulated over 4 micro-batches of 1" in told("24GB", limits__micro_batch=1, **slider)


@pytest.mark.parametrize(
    ("card", "memory", "ram", "words"),
    [
        ("RTX 4090", "auto", "auto", ("Fits a 24 GB RTX 4090: about ", " of RAM (32 GB assumed), ")),
        ("RTX 4090", "auto", "64GB", ("Fits a 24 GB RTX 4090: about ", " GB of RAM, ")),
        (None, "12GB", "auto", ("Fits a 12 GB card: about ", "Seconds are those of an RTX 4070")),
        (None, "auto", "auto", ("Fits this processor: about ", "No GPU was found", "--vram 12GB")),
    ],
)
def test_the_first_line_says_whether_it_fits_how_long_and_what_it_takes(
    card, memory, ram, words, monkeypatch
):
    monkeypatch.setattr(local_device, "gpu", lambda: None)
    monkeypatch.setattr(local_device, "_ram", lambda: (64 * 2**30, 60 * 2**30))
    text = told(memory, card, limits__ram=ram)
    first, *_ = text.splitlines()
    assert first.startswith(words[0]) and first.endswith(
        "of disk; accept the licence first at https://huggingface.co/black-forest-labs/FLUX.1-dev."
    )
    assert all(word in text for word in words)


def test_a_card_that_is_here_is_yours_and_its_memory_is_not_assumed(monkeypatch):
    monkeypatch.setattr(local_device, "gpu", lambda: LocalGpu("NVIDIA RTX 3060", 12 * 2**30, 11 * 2**30))
    monkeypatch.setattr(local_device, "_ram", lambda: (64 * 2**30, 60 * 2**30))
    first = told("auto", None).splitlines()[0]
    assert first.startswith("Fits your 12 GB card (NVIDIA RTX 3060): about ")
    assert "assumed" not in first


def test_a_base_that_is_on_this_disk_or_open_to_all_has_no_gate(monkeypatch):
    assert "accept" not in told("24GB", base="sdxl").splitlines()[0]
    monkeypatch.setattr(Source, "bytes_on_disk", 33_000_000_000)
    assert "accept" not in told("24GB").splitlines()[0]


def test_a_larger_batch_is_faster_per_image():
    text = told("80GB", card="H100")
    assert "(--batch " in text and " faster per image (" in text


def test_parts_add_up_to_the_whole():
    text = told("24GB")
    inside = text.split("Memory while training\n")[1].split("Peaks")[0]
    sizes = [line.split("  ")[-1].split(" of ")[0].split() for line in inside.splitlines()]
    units = {"GB": 1024.0, "MB": 1.0}
    *parts, whole = [float(number) * units[unit] for number, unit in sizes]
    assert sum(parts) == pytest.approx(whole, rel=0.02)


def test_every_decision_is_a_sentence():
    tight = told("5GB", limits__weights_precision="4bit")
    assert "gradient checkpointing: " in tight
    assert " of 10 blocks in CPU RAM" in tight
    roomy = told("80GB", card="H100")
    assert "no gradient checkpointing" in roomy
    assert "weights bf16, compute bf16" in roomy
    assert "no block swap" in roomy


def test_why_nothing_fits_is_all_that_is_said_then():
    text = told("1.8GB", limits__weights_precision="16bit")
    assert "Nothing fits" in text
    assert "The plan" not in text


def test_durations_are_told_in_the_unit_that_people_use():
    assert [duration(each) for each in (3.4, 89, 100, 5000, 90000)] == [
        "3 s",
        "89 s",
        "2 min",
        "83 min",
        "25 h 0 min",
    ]


def test_parameters_are_counted_in_thousands_millions_and_billions():
    numbers = (65_372_160, 11_901_408_320, 999_999, 4_200, 17)
    assert [count(number) for number in numbers] == ["65.4M", "11.9B", "1M", "4.2K", "17"]


def test_the_layers_that_are_trained_are_told_with_their_numbers(monkeypatch):
    groups = (
        TargetGroup(
            component="transformer", layers="blocks.0-3.attn.to_q", count=4, rank=16, trained=1_870_000
        ),
        TargetGroup(component="text_encoder", layers="encoder.layers.0.fc1", count=1, rank=8, trained=900),
    )
    traced = replace(flux(1024, doubles=4, singles=6), targets=groups)
    monkeypatch.setattr(profile_cache, "_traced", lambda asked: traced)
    text = told("24GB", lora__kind="lokr")
    assert "Trained layers of transformer: 4, lokr\n  blocks.0-3.attn.to_q    4 x rank 16" in text
    assert "1.87M" in text and "Trained layers of text_encoder: 1, lokr" in text


def test_a_base_that_is_planned_in_fp32_on_a_gpu_says_why():
    reason = "fp32: T4 has no bf16, and flux-dev is not known to stay below fp16's 65504"
    assert reason in told("auto", card="T4", base="flux2-klein-4b")
    assert "has no bf16" not in told("auto", card="T4")  # FLUX.1 computes in fp16 there
    assert "has no bf16" not in told("auto", card="RTX 4090", base="flux2-klein-4b")
