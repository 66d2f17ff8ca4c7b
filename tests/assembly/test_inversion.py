from dataclasses import replace

import pytest
import torch

import messages
from limner.assembly.assemble import META, ModelSpec, assemble
from limner.assembly.inversion import RATE, TextualInversion
from limner.assembly.trainable import LoRA, trainable_of
from limner.errors import BadRecipe
from limner.models.registry import family_of
from limner.models.source import locate
from limner.nn.layers import tokens
from limner.nn.memory.plan import Plan
from limner.recipe.schema import Recipe
from limner.recipe.toml import change
from limner.recipe.train import Inversion as Settings
from limner.recipe.train import Lora, Train

LORA = LoRA(Lora(rank=2, text_encoders=("text_encoder",), text_encoder_layers=1))
ENCODERS = ("text_encoder", "text_encoder_2")


@pytest.fixture
def spec(tiny_base) -> ModelSpec:
    source = locate(str(tiny_base), folders={})
    own = TextualInversion(Settings(tokens=4, init="dog"), "<mimo>")
    return ModelSpec(family=family_of("FluxPipeline"), source=source, trainable=own, compute="fp32")


def test_a_recipe_names_the_word_and_what_is_beside_it():
    alone = change(Recipe(), {"train.method": "inversion", "data.trigger": "<mimo>", "seed": 3})
    assert trainable_of(alone) == TextualInversion(alone.inversion, "<mimo>", RATE, None, 3, None, 1e-4)
    pivotal = trainable_of(
        change(alone, {"inversion.with_lora": True, "inversion.until": 0.5, "train.steps": 7})
    )
    assert isinstance(pivotal, TextualInversion) and isinstance(pivotal.lora, LoRA) and pivotal.until == 4
    prodigy = change(alone, {"train.optimizer": "prodigy", "train.learning_rate": 1.0})
    assert trainable_of(prodigy).learning_rate(prodigy.train, text_encoder=True) == 1.0
    with messages.raises(BadRecipe):
        trainable_of(change(alone, {"data.trigger": ""}))


def test_only_captions_with_the_word_are_read_anew_on_every_step(spec: ModelSpec):
    assert spec.first_layers == dict.fromkeys(ENCODERS, 0)
    assert spec.trainable.still_layers(spec.family, spec.source) == {}
    assert {"clip_tokens", "t5_tokens"} <= spec.cut_of("a <mimo>").boundary
    assert {"pooled", "context"} <= spec.cut_of("a dog").boundary
    assert not {"clip_tokens", "t5_tokens"} & spec.cut_of("a dog").boundary
    beside = replace(spec, trainable=TextualInversion(Settings(tokens=1), "<mimo>", lora=LORA))
    assert beside.trainable.still_layers(beside.family, beside.source) == {
        "transformer": 0,
        "text_encoder": 2,
    }
    assert beside.first_layers == {"transformer": 0, "text_encoder": 0, "text_encoder_2": 0}
    assert {"encode_clip@2", "context"} <= beside.cut_of("a dog").boundary
    one = replace(spec, trainable=TextualInversion(Settings(encoders=("text_encoder",)), "<mimo>"))
    assert one.first_layers == {"text_encoder": 0} and "context" in one.cut_of("a <mimo>").boundary
    assert spec.fingerprint("tokenizer", "a <mimo>") != spec.fingerprint("tokenizer", "a dog")
    assert one.fingerprint("tokenizer_2", "a <mimo>") == one.fingerprint("tokenizer_2", "a dog")


def test_vectors_begin_as_the_initial_word_and_nothing_else_learns(spec: ModelSpec):
    assembly = assemble(spec, Plan(compute="fp32", weights="fp32"), torch.device("cpu"))
    for name in ENCODERS:
        table = tokens.table(assembly.models[name])
        assert table is not None
        ids = spec.part(name.replace("text_encoder", "tokenizer"), META)(
            "dog", add_special_tokens=False
        ).input_ids
        rows = [ids[number % len(ids)] for number in range(4)]
        assert torch.equal(table.token_vectors, table.base.weight[rows])
        assert list(spec.trainable.named(assembly.models[name])) == [tokens.VECTORS]
    assert not any(weight.requires_grad for weight in assembly.denoiser.parameters())


def test_random_vectors_are_as_spread_as_the_table_and_the_same_each_time(spec: ModelSpec):
    spec = replace(spec, trainable=TextualInversion(Settings(tokens=64), "<mimo>", seed=5))
    one, other = (
        tokens.table(
            assemble(spec, Plan(compute="fp32", weights="fp32"), torch.device("cpu")).models[ENCODERS[0]]
        )
        for _ in range(2)
    )
    assert one and other and torch.equal(one.token_vectors, other.token_vectors)
    assert one.token_vectors.std().item() == pytest.approx(one.spread.item(), rel=0.1)


def test_vectors_beside_a_lora_have_a_rate_of_their_own(spec: ModelSpec):
    pivotal = TextualInversion(Settings(tokens=1), "<mimo>", rate=4e-3, lora=LORA, lora_rate=1e-3)
    spec = replace(spec, trainable=pivotal)
    models = {name: spec.skeleton(name) for name in spec.first_layers}
    pivotal.attach(spec, models, [])
    assert pivotal.rates(spec, "text_encoder", models["text_encoder"]) == {tokens.VECTORS: 4.0}
    assert pivotal.rates(spec, "transformer", models["transformer"]) == {}
    assert pivotal.learning_rate(Train(learning_rate=1e-3), text_encoder=True) == 1e-3
    assert (
        len(pivotal.named(models["text_encoder"])) > 1 and len(pivotal.named(models["text_encoder_2"])) == 1
    )


def test_what_the_base_cannot_do_is_one_line(spec: ModelSpec):
    for settings in (Settings(tokens=1, init="dog"), Settings(encoders=("text_encoder_3",))):
        with messages.raises(BadRecipe):
            replace(spec, trainable=TextualInversion(settings, "<mimo>")).require_possible()
    with messages.raises(BadRecipe):
        TextualInversion(Settings(), "<mimo>").placeholder(family_of("ZImagePipeline"))
