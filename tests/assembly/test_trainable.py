from dataclasses import replace

import pytest
import torch

from limner.assembly.assemble import ModelSpec
from limner.assembly.trainable import FullFineTune, LoRA, trainable_of
from limner.errors import BadRecipe
from limner.models.registry import family_of
from limner.models.source import locate
from limner.recipe.schema import Recipe
from limner.recipe.toml import change
from limner.recipe.train import Lora, Train


@pytest.fixture
def spec(tiny_base) -> ModelSpec:
    source = locate(str(tiny_base), folders={})
    return ModelSpec(family=family_of("FluxPipeline"), source=source, trainable=LoRA(), compute="fp32")


def test_a_recipe_names_what_is_trained():
    assert trainable_of(change(Recipe(), {"lora.rank": 4, "seed": 7})) == LoRA(Lora(rank=4), 7)
    assert trainable_of(change(Recipe(), {"train.method": "full"})) == FullFineTune()
    for method in ("lora", "full"):
        assert trainable_of(change(Recipe(), {"train.method": method})).method == method


def test_only_a_lora_leaves_the_base_as_it_is():
    assert LoRA().freezes_base and not FullFineTune().freezes_base
    assert LoRA().load_dtype(torch.bfloat16) == torch.bfloat16
    assert FullFineTune().load_dtype(torch.bfloat16) == torch.float32
    assert LoRA(Lora(targets=("attn.to_q",))).sparse and not LoRA().sparse and not FullFineTune().sparse


def test_text_encoders_are_trained_from_the_layer_that_the_recipe_says(spec: ModelSpec):
    depth = spec.family.depth(spec.source, "text_encoder")
    encoders = {"text_encoders": ("text_encoder",)}
    last = LoRA(Lora(**encoders, text_encoder_layers=1))
    assert last.first_layers(spec.family, spec.source) == {"transformer": 0, "text_encoder": depth - 1}
    with pytest.raises(BadRecipe, match=f"text_encoder has {depth} layers. Set it to at most {depth}"):
        LoRA(Lora(**encoders, text_encoder_layers=99)).first_layers(spec.family, spec.source)
    assert FullFineTune().first_layers(spec.family, spec.source) == {"transformer": 0}


def test_a_lora_is_attached_to_what_its_targets_match_and_nothing_else_learns(spec: ModelSpec):
    spec = replace(spec, trainable=LoRA(Lora(rank=2, targets=("attn.to_q",))))
    model = spec.skeleton("transformer")
    layers = spec.trainable.layers(spec, "transformer", model)
    assert layers and set(layers.values()) == {2} and all(name.endswith("attn.to_q") for name in layers)
    spec.trainable.attach(spec, {"transformer": model}, [])
    named = spec.trainable.named(model)
    assert len(named) == 2 * len(layers)
    assert {id(each) for each in named.values()} == {id(p) for p in model.parameters() if p.requires_grad}


def test_a_full_fine_tune_trains_every_weight_under_its_own_name(spec: ModelSpec):
    spec = replace(spec, trainable=FullFineTune())
    model = spec.skeleton("transformer")
    assert spec.trainable.layers(spec, "transformer", model) == {}
    spec.trainable.attach(spec, {"transformer": model}, [])
    assert spec.trainable.named(model).keys() == dict(model.named_parameters()).keys()


def test_text_encoders_may_learn_at_a_rate_of_their_own():
    train = Train(learning_rate=1e-3, text_encoder_learning_rate=1e-5)
    assert LoRA().learning_rate(train, text_encoder=False) == 1e-3
    assert LoRA().learning_rate(train, text_encoder=True) == 1e-5
    assert LoRA().learning_rate(Train(learning_rate=1e-3), text_encoder=True) == 1e-3
    assert FullFineTune().learning_rate(train, text_encoder=False) == 1e-3


def test_patterns_give_layers_ranks_and_rates_of_their_own(spec: ModelSpec):
    config = Lora(
        rank=2,
        targets=("attn.to_q", "attn.to_k"),
        ranks={"attn.to_q": 4, "text_encoder.mlp.fc1": 3},
        rates={"attn.to_k": 0.5, "text_encoder.*": 0.25},
        text_encoders=("text_encoder",),
    )
    spec = replace(spec, trainable=LoRA(config))
    models = {name: spec.skeleton(name) for name in ("transformer", "text_encoder")}
    layers = {name: spec.trainable.layers(spec, name, model) for name, model in models.items()}
    assert {name.rpartition(".")[2]: rank for name, rank in layers["transformer"].items()} == {
        "to_q": 4,
        "to_k": 2,
    }
    assert {rank for name, rank in layers["text_encoder"].items() if name.endswith("fc1")} == {3}
    assert {rank for name, rank in layers["text_encoder"].items() if not name.endswith("fc1")} == {2}
    spec.trainable.attach(spec, models, [])
    for name, multiplier in (("transformer", 0.5), ("text_encoder", 0.25)):
        rates = spec.trainable.rates(spec, name, models[name])
        named = spec.trainable.named(models[name])
        assert rates and set(rates.values()) == {multiplier} and rates.keys() <= named.keys()
    slow = spec.trainable.rates(spec, "transformer", models["transformer"])
    assert all("to_k" in key for key in slow) and len(slow) == len(layers["transformer"])


def test_a_pattern_of_ranks_that_matches_no_trained_layer_is_refused(spec: ModelSpec):
    spec = replace(spec, trainable=LoRA(Lora(targets=("attn.to_q",), ranks={"attn.to_v": 4})))
    with pytest.raises(BadRecipe, match="lora.ranks: none of the .* ends in 'attn.to_v'"):
        spec.trainable.layers(spec, "transformer", spec.skeleton("transformer"))
