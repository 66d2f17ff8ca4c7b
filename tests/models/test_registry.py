import ast
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import nn

from limner import models
from limner.errors import BadBase, BadLora
from limner.models.key_map import KeyStyle
from limner.models.registry import (
    HubLicence,
    distilled_note,
    families,
    family_keys,
    family_of,
    family_of_base,
    folder_of,
    hub_bases,
    hub_id_of,
    hub_licence,
    introduction,
    lora_keys,
    recognised,
    registered_bases,
    twin_of,
)
from messages import raises

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
        assert name == facts.name == family_of(facts.pipeline).name
        assert family_keys(name).family == family_keys(facts.pipeline).family == (facts.keys_of or name)
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
    "bases/instant_exam.py": {"flux"},
    "hyper/catalog.py": {"qwen-image", "z-image"},  # which family each published one is for
    "hyper/published.py": {"qwen-image", "z-image"},  # which family each published layout writes for
    "hyper/states.py": {"qwen_image_edit", "qwen-image"},  # the chat that a picture is read in, and by what
}
PEERS = {"importing/layers.py", "importing/silence.py", "importing/trained.py"}
"""Tables of what other trainers do with bases that they know; of another family they say nothing."""


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
        place = path.relative_to(SOURCE).as_posix()
        if not folders & set(path.parents) and place not in PEERS:
            assert set(named(path)) & words <= ALLOWED.get(place, set()), place


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("krea2", "krea2-turbo"),
        ("krea/Krea-2-Turbo", "krea2"),
        ("z-image-turbo", "z-image"),
        ("flux-dev", "flux-schnell"),
        ("flux2-klein-9b-distilled", "flux2-klein-9b"),
        ("glyph", "glyph-turbo"),
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


DIFFUSERS, NATIVE = KeyStyle("", "diffusers"), KeyStyle("", "native")
SDXL: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD35_MEDIUM = {"num_attention_heads": 24, "caption_projection_dim": 1536}
MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "chroma": ("ChromaTransformer2DModel", {}, ""),
    "flux": ("FluxTransformer2DModel", {"guidance_embeds": True}, ""),
    "flux2": ("Flux2Transformer2DModel", {}, ""),
    "hidream": (
        "HiDreamImageTransformer2DModel",
        {
            "patch_size": 2,
            "in_channels": 16,
            "caption_channels": (4096, 4096),
            "axes_dims_rope": (64, 32, 32),
            "llama_layers": (*range(32), *[31] * 16),
        },
        "",
    ),
    "ideogram4": ("Ideogram4Transformer2DModel", {}, ""),
    "krea2": ("Krea2Transformer2DModel", {}, ""),
    "qwen-image": ("QwenImageTransformer2DModel", {}, ""),
    "qwen-image-21": ("QwenImage21Transformer2DModel", {}, ""),
    "z-image": ("ZImageTransformer2DModel", {}, ""),
    "sd3": (
        "SD3Transformer2DModel",
        {"num_layers": 24, "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm", **SD35_MEDIUM},
        "",
    ),
    "sdxl": ("UNet2DConditionModel", SDXL, ""),
    "sd15": ("UNet2DConditionModel", {"cross_attention_dim": 768}, ""),
}


@pytest.mark.parametrize("family", MODELS)
def test_every_layer_of_the_true_model_has_a_name(family: str) -> None:
    kind, config, without = MODELS[family]
    with torch.device("meta"):
        model = getattr(diffusers, kind)(**config)
    layers = [n for n, each in model.named_modules() if isinstance(each, nn.Linear | nn.Conv2d)]
    table = lora_keys()[family].table
    places = {name: table.find(name, DIFFUSERS) for name in layers}
    assert [
        name for name, place in places.items() if place is None and not re.fullmatch(without or "-", name)
    ] == []
    for name, layer in model.named_modules():  # what is known of shapes and kernels is true of this one
        if isinstance(layer, nn.Linear | nn.Conv2d):
            rows, *sides = layer.weight.shape
            assert lora_keys()[family].has_shape(name, (rows, math.prod(sides))), name
            assert lora_keys()[family].kernel(name) == tuple(sides[1:]), name
    natives = {table.name_of(place, "native") + str(place.member) for place in places.values() if place}
    assert len(natives) == sum(place is not None for place in places.values())
    for place in places.values():
        if place:
            assert table.find(table.name_of(place, "native"), NATIVE) is not None


@pytest.mark.parametrize(
    ("family", "module", "native"),
    [
        ("sdxl", "down_blocks.1.attentions.0.proj_out", "input_blocks.4.1.proj_out"),
        ("sdxl", "down_blocks.2.resnets.0.conv_shortcut", "input_blocks.7.0.skip_connection"),
        ("sdxl", "down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
        ("sdxl", "up_blocks.0.attentions.2.proj_in", "output_blocks.2.1.proj_in"),
        ("sdxl", "up_blocks.0.upsamplers.0.conv", "output_blocks.2.2.conv"),
        ("sdxl", "up_blocks.2.resnets.1.conv1", "output_blocks.7.0.in_layers.2"),
        ("sdxl", "mid_block.resnets.1.time_emb_proj", "middle_block.2.emb_layers.1"),
        ("sdxl", "add_embedding.linear_2", "label_emb.0.2"),
        ("sd15", "up_blocks.3.attentions.2.proj_in", "output_blocks.11.1.proj_in"),
        ("sd15", "up_blocks.0.upsamplers.0.conv", "output_blocks.2.1.conv"),
        ("flux", "time_text_embed.text_embedder.linear_2", "vector_in.out_layer"),
        ("flux", "norm_out.linear", "final_layer.adaLN_modulation.1"),
        (
            "chroma",
            "distilled_guidance_layer.layers.4.linear_2",
            "distilled_guidance_layer.layers.4.out_layer",
        ),
        ("flux2", "single_transformer_blocks.7.attn.to_out", "single_blocks.7.linear2"),
        ("z-image", "all_final_layer.2-1.linear", "final_layer.linear"),
        ("sd3", "time_text_embed.text_embedder.linear_2", "y_embedder.mlp.2"),
    ],
)  # fmt: skip
def test_names_as_the_authors_have_them(family: str, module: str, native: str) -> None:
    table = lora_keys()[family].table
    place = table.find(module, DIFFUSERS)
    assert place is not None
    assert table.name_of(place, "native") == native


def test_a_family_is_found_by_its_pipeline() -> None:
    assert family_keys("Flux2KleinPipeline").family == "flux2"
    assert family_keys("sdxl").pipelines == ("StableDiffusionXLPipeline",)
    with raises(BadLora):
        family_keys("sd9")


@pytest.mark.parametrize(
    ("base", "resolution", "line"),
    [
        ("glyph", None, "Base: glyph, a toy of 64 pixels to try Limner with, not for photographs."),
        (
            "sdxl",
            None,
            "Base: sdxl, photographs and art, 1024 pixels. Licence: CreativeML Open RAIL++-M.",
        ),
        (
            "sd15",
            768,
            "Base: sd15, small pictures on weak cards, 768 pixels. Licence: CreativeML Open RAIL-M.",
        ),
        ("someone/my-sdxl", 1024, "Base: someone/my-sdxl, by its name of the family sdxl, 1024 pixels."),
        ("/models/strange/", None, "Base: /models/strange/."),
    ],
)
def test_a_base_is_introduced_in_a_line(base: str, resolution: int | None, line: str):
    assert introduction(base, resolution) == line


def test_a_licence_has_the_name_that_the_hub_has_for_it():
    names = {name: hub_licence(base) for name, base in registered_bases().items()}
    assert names["sdxl"] == HubLicence("openrail++") and names["qwen-image"].id == "apache-2.0"
    assert names["flux-dev"].name == "flux-1-dev-non-commercial-license"
    for name, licence in names.items():
        assert licence.id != "other" or (licence.name and licence.link.startswith("https://")), name
