import importlib.resources
import inspect
import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import save_file

from limner.errors import BadBase
from limner.graph.unit import split
from limner.models.bundled import CONFIG_PATTERNS, SHARED, described, known, stored_precision, weight_bytes
from limner.models.facts import is_tokenizer
from limner.models.family import Objective
from limner.models.loading import load, skeleton
from limner.models.registry import families, family_of, folder_of, hub_bases
from messages import raises

COUNTS = {
    "mistral-small": 24_011_361_280,  # 48,022,800,560 bytes of files, two each
    "clip-l": 123_060_480,  # openai/clip-vit-large-patch14, text model
    "clip-big-g": 694_659_840,  # laion/CLIP-ViT-bigG-14, text model with projection
    "t5-xxl": 4_762_310_656,  # 9,524,621,312 bytes in FLUX.1-dev's index, two each
    "qwen3-0.6b": 596_049_920,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen2.5-vl-7b": 8_292_166_656,
    "qwen3-vl-4b": 4_437_815_808,
    "vae-flux": 83_819_683,
    "vae-flux2": 84_046_115,
    "clip-l-projection": 123_650_304,
    "sd": 83_653_863,
    "wan": 126_892_531,
    "qwen3-vl-8b": 8_767_123_696,
    "vae-qwen-21": 337_740_404,
    "clip-l-long": 123_781_632,
    "clip-big-g-long": 694_878_720,
    "llama-3.1-8b": 8_030_261_248,
}
"""Numbers of the published checkpoints."""

PUBLISHED = {
    **dict.fromkeys(("chroma1-hd", "chroma1-base"), ("t5-xxl", "vae-flux", 8_899_983_424)),
    # conditioner and denoiser are one file of 4.18 GB, two bytes each
    "anima": ("qwen3-0.6b", 134_663_680, "wan", 1_956_405_248),
    "flux-dev": ("clip-l", "t5-xxl", "vae-flux", 11_901_408_320),
    "flux-kontext": ("clip-l", "t5-xxl", "vae-flux", 11_901_408_320),
    "flux-schnell": ("clip-l", "t5-xxl", "vae-flux", 11_891_178_560),
    "flux2-klein-4b": ("qwen3-4b", "vae-flux2", 3_875_544_576),
    "flux2-klein-4b-distilled": ("qwen3-4b", "vae-flux2", 3_875_544_576),
    "flux2-klein-9b": ("qwen3-8b", "vae-flux2", 9_078_581_248),
    "flux2-klein-9b-distilled": ("qwen3-8b", "vae-flux2", 9_078_581_248),
    "flux2-dev": ("mistral-small", "vae-flux2", 32_223_281_152),
    # seven files of 34.21 GB in all, two bytes each
    **dict.fromkeys(
        ("hidream-i1-full", "hidream-i1-dev", "hidream-i1-fast"),
        ("clip-l-long", "clip-big-g-long", "t5-xxl", "llama-3.1-8b", "vae-flux", 17_105_733_184),
    ),
    "krea2": ("qwen3-vl-4b", "wan", 12_820_073_036),
    "krea2-turbo": ("qwen3-vl-4b", "wan", 12_820_073_036),
    "qwen-image": ("qwen2.5-vl-7b", "wan", 20_430_401_088),
    "qwen-image-2512": ("qwen2.5-vl-7b", "wan", 20_430_401_088),
    "qwen-image-edit": ("qwen2.5-vl-7b", "wan", 20_430_401_088),
    "qwen-image-edit-2509": ("qwen2.5-vl-7b", "wan", 20_430_401_088),
    "qwen-image-edit-2511": ("qwen2.5-vl-7b", "wan", 20_430_401_088),
    **dict.fromkeys(
        ("qwen-image-2.1", "qwen-image-2.1-turbo"), ("qwen3-vl-8b", "vae-qwen-21", 7_115_124_736)
    ),
    "sd15": ("clip-l", "sd", 859_520_964),
    "sd35-large": ("clip-l-projection", "clip-big-g", "t5-xxl", "vae-flux", 8_056_627_520),
    "sd35-medium": ("clip-l-projection", "clip-big-g", "t5-xxl", "vae-flux", 2_243_171_520),
    "sdxl": ("clip-l", "clip-big-g", "sd", 2_567_463_684),
    "z-image": ("qwen3-4b", "vae-flux", 6_154_908_736),
    "z-image-turbo": ("qwen3-4b", "vae-flux", 6_154_908_736),
}

FILES = {
    "flux2-klein-4b": 7_751_109_744 + 4_967_215_360 + 3_077_766_632 + 168_120_878,
    "qwen-image-2.1": 14_230_284_408 + 17_534_339_488 + 1_350_989_512,
    "flux-dev": 23_802_816_640 + 9_524_621_312 + 246_144_152 + 167_666_902,
    "sdxl": 10_270_077_736 + 492_265_168 + 2_778_702_264 + 334_643_268,
    "sd15": 3_438_167_540 + 492_265_168 + 334_643_276,
}
"""Bytes of weight files as the hub lists them."""


@pytest.mark.parametrize("name", hub_bases())
def test_every_part_has_as_many_numbers_as_published(name: str):
    source = known(name)
    family = family_of(source.index["_class_name"])
    parts = [part for part in family.parts if not is_tokenizer(part)]
    bytes_ = 0
    for part, wanted in zip(parts, PUBLISHED[name], strict=True):
        model = skeleton(family, source, part, dtype=torch.bfloat16)
        numbers = sum(parameter.numel() for parameter in model.parameters())
        assert numbers == (COUNTS[wanted] if isinstance(wanted, str) else wanted), part
        bytes_ += numbers * {"bf16": 2, "fp32": 4}[stored_precision(name, part)]
    assert bytes_ == weight_bytes(name)


@pytest.mark.parametrize("name", FILES)
def test_downloads_are_what_the_hub_lists(name: str):
    assert FILES[name] == pytest.approx(weight_bytes(name), rel=2e-3)


@pytest.mark.parametrize("name", hub_bases())
def test_every_value_of_a_config_is_one_that_the_library_knows(name: str):
    import diffusers

    source = known(name)
    for part in sorted(source.parts):  # pyright: ignore[reportAttributeAccessIssue]
        config = source.config(part)
        if part in ("model_index",) or "_class_name" not in config:
            continue
        arguments = inspect.signature(getattr(diffusers, config.pop("_class_name")).__init__).parameters
        unknown = set(config) - set(arguments)
        # published by the pipelines' authors, read by no version of the class
        assert unknown <= {"skip_prk_steps", "set_alpha_to_one", "clip_sample", "sample_max_value"}, part


@pytest.mark.parametrize("name", hub_bases())
def test_a_plan_finds_all_it_asks_for(name: str):
    source = known(name)
    family = family_of(source.index["_class_name"])
    cut = split(family.bound(source, Objective()), {family.denoiser: 0})
    assert cut.loaded == (family.denoiser,)
    assert all(unit.needs == () for unit in (*cut.frozen, *cut.live))
    for part, (_, kind) in ((p, family.library(p)) for p in family.parts):
        own = families()[family.name].processors.get(part, kind)
        assert source.index[part][1] in (own, own.removesuffix("Fast")), part
    assert source.index["scheduler"][1] == source.config("scheduler")["_class_name"]
    for encoder in family.layers:
        assert family.depth(source, encoder) > 0


def test_times_are_shifted_as_each_base_says():
    shifts = {name: known(name).config("scheduler").get("shift") for name in hub_bases() if "image" in name}
    qwen = (
        "qwen-image",
        "qwen-image-2512",
        "qwen-image-edit",
        "qwen-image-edit-2509",
        "qwen-image-edit-2511",
    )
    qwen += ("qwen-image-2.1", "qwen-image-2.1-turbo")
    assert shifts == {**dict.fromkeys(qwen, 1.0), "z-image": 6.0, "z-image-turbo": 3.0}


def test_what_ships_is_in_the_package_and_nothing_lies_idle():
    package, shared = Path(str(importlib.resources.files("limner.models"))), set()
    for family, facts in families().items():
        configs = folder_of(family) / "configs"
        assert configs.is_relative_to(package)
        bases = [base.name for base in facts.bases if base.hub_id]
        assert {path.stem for path in configs.glob("*.json")} == set(bases)
        values = [
            value for name in bases for value in json.loads((configs / f"{name}.json").read_text()).values()
        ]
        named = {value for value in values if isinstance(value, str)}
        own = {path.stem for path in (configs / "parts").glob("*.json")}
        assert own <= named
        shared |= named - own
    assert shared == {path.stem for path in SHARED.glob("*.json")}


def test_weights_are_asked_for_with_the_command_that_fetches_them():
    source = known("flux-dev")
    with raises(BadBase):
        source.weights("vae")
    family = family_of("FluxPipeline")
    for part in ("vae", "tokenizer"):
        with raises(BadBase):
            load(family, source, part, dtype=torch.float32, device=torch.device("cpu"))


def test_a_part_that_a_base_has_not():
    with raises(BadBase):
        known("sd15").config("transformer")
    with raises(BadBase):
        known("glyhp")


def test_a_config_that_is_asked_for_twice_is_not_shared():
    known("sd15").config("unet")["in_channels"] = 9
    assert known("sd15").config("unet")["in_channels"] == 4


def test_folders_and_bases_of_the_package_come_first(tiny_base: Path, tmp_path: Path, monkeypatch):
    assert described(str(tiny_base), folders={}).root == tiny_base
    assert described("mine", folders={"mine": tiny_base}).name == "mine"
    assert described("flux-dev", folders={}).root == folder_of("flux") / "configs"
    with raises(BadBase):
        described("glyhp", folders={})
    with raises(BadBase):
        described("./no/such", folders={})


def hub(asked: list[dict[str, Any]], answer: Any) -> Any:
    """A snapshot_download with nothing on the disk, that answers or raises ``answer`` over the network."""

    def snapshot_download(repo_id: str, *, local_files_only: bool = False, **chosen: Any) -> str:
        asked.append({"local": local_files_only, **chosen})
        if local_files_only:
            raise errors.LocalEntryNotFoundError("not here")
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    return snapshot_download


def test_of_a_hub_id_only_configs_are_fetched(monkeypatch, tiny_base: Path, tmp_path: Path):
    asked: list[dict[str, Any]] = []
    heard: list[str] = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub(asked, tiny_base))
    source = described("own/er", folders={}, tell=heard.append)
    assert source.name == "own/er" and source.index["_class_name"] == "FluxPipeline"
    assert [each["local"] for each in asked] == [True, True, False]
    assert all(each["allow_patterns"] == list(CONFIG_PATTERNS) for each in asked)
    assert asked[-1]["cache_dir"].name == "configs", "a folder without weights is none of the hub's cache"
    assert heard == ["Fetching the configs of own/er: some kilobytes, no weights."]


def refusal(kind: type[Exception]) -> Exception:
    if issubclass(kind, errors.HfHubHTTPError):
        from types import SimpleNamespace

        answer: Any = SimpleNamespace(headers={}, status_code=403, request=None)
        return kind("no", response=answer)  # pyright: ignore[reportCallIssue]
    return kind("no")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (errors.GatedRepoError, r"own/er is gated, its configs too: accept its licence.*hf auth login"),
        (errors.RepositoryNotFoundError, r"hub has no own/er, or it is private"),
        (errors.LocalEntryNotFoundError, r"configs of own/er are not on this disk.*or one of .*flux-dev"),
        (errors.OfflineModeIsEnabled, r"cannot be reached"),
        (ConnectionError, r"cannot be reached"),
        (errors.HFValidationError, r"no valid hub id"),
    ],
)
def test_what_the_hub_refuses_is_told_with_the_remedy(monkeypatch, error: type[Exception], told: str):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub([], refusal(error)))
    with pytest.raises(BadBase, match=told) as caught:
        described("own/er", folders={})
    assert "\n" not in str(caught.value)


def test_offline_for_true():
    with raises(BadBase):
        described("own/er", folders={})


def test_a_base_in_one_file_is_described_as_its_family_s(tmp_path: Path):
    path = tmp_path / "mine.safetensors"
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(1)}, path)
    assert described(str(path), folders={}).name == "flux-schnell"
