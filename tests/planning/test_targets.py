from dataclasses import replace

import pytest

from limner.assembly.assemble import ModelSpec
from limner.assembly.trainable import FullFineTune, LoRA
from limner.models.registry import family_of
from limner.models.source import locate
from limner.planning.profile import folded, ranges
from limner.planning.shipped import shipped_profile
from limner.planning.targets import target_groups
from limner.recipe.train import Lora


@pytest.mark.parametrize(
    ("numbers", "text"), [([0, 1, 2, 5], "0-2,5"), ([3], "3"), ([2, 1, 0], "0-2"), ([1, 3, 5], "1,3,5")]
)
def test_numbers_are_written_as_ranges(numbers, text):
    assert ranges(numbers) == text


def test_layers_of_all_levels_of_a_unet_are_a_few_lines():
    profile = shipped_profile("sdxl", "cuda")
    assert profile is not None and len(profile.targets) > 300
    groups = folded(profile.targets)
    assert len(groups) < 40 and len({(group.layers, group.rank) for group in groups}) == len(groups)
    for name in ("count", "trained"):
        assert sum(getattr(group, name) for group in groups) == sum(getattr(g, name) for g in profile.targets)
    assert "down_blocks.1-2.attentions.0-1.transformer_blocks.0-9.attn1.to_q" in {g.layers for g in groups}
    flux = shipped_profile("flux-dev", "cuda")
    assert flux is not None and folded(flux.targets) == [*flux.targets]


@pytest.fixture
def spec(tiny_base) -> ModelSpec:
    source = locate(str(tiny_base), folders={})
    return ModelSpec(family=family_of("FluxPipeline"), source=source, trainable=LoRA(), compute="fp32")


def test_layers_that_differ_in_their_blocks_number_are_one_group_with_what_they_train(spec: ModelSpec):
    config = Lora(
        kind="lokr",
        rank=2,
        targets=("attn.to_q", "!single_transformer_blocks.*"),
        ranks={"transformer_blocks.0.attn.to_q": 3},
        text_encoders=("text_encoder",),
    )
    spec = replace(spec, trainable=LoRA(config))
    groups = target_groups(spec)
    first, *others = [group for group in groups if group.component == "transformer"]
    assert (first.layers, first.count, first.rank) == ("transformer_blocks.0.attn.to_q", 1, 3)
    assert all(group.rank == 2 and group.layers.endswith("attn.to_q") for group in others)
    model = spec.skeleton("transformer")
    spec.trainable.attach(spec, {"transformer": model, "text_encoder": spec.skeleton("text_encoder")}, [])
    numbers = sum(p.numel() for p in spec.trainable.named(model).values())
    assert sum(group.trained for group in (first, *others)) == numbers
    encoder = [group for group in groups if group.component == "text_encoder"]
    assert encoder and all("encoder.layers." in group.layers for group in encoder)


def test_a_full_fine_tune_has_no_target_layers(spec: ModelSpec):
    assert target_groups(replace(spec, trainable=FullFineTune())) == ()
