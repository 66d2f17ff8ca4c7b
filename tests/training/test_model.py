from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from limner.assembly.resolve import resolve
from limner.data.order import QUANTILES, Pace
from limner.errors import BadRecipe, BrokenGraph
from limner.generation.settings import Settings
from limner.lora import file
from limner.lora.metadata import header_entries
from limner.nn.layers.quantized_linear import QuantizedLinear
from limner.nn.memory import engine
from limner.nn.optim import optimizer
from limner.training.cache import fill_cache
from limner.training.export import about
from limner.training.model import TrainableModel, plain
from messages import raises
from small import Told, equal, generated, wish

BOTH = {"text_encoders": ["text_encoder", "text_encoder_2"], "text_encoder_layers": 1}


def trainable_model(base, photos, **sections) -> TrainableModel:
    resolved = resolve(wish(base, photos, **sections))
    return TrainableModel(resolved, fill_cache(resolved, Told())[0])


def moved(one: TrainableModel) -> TrainableModel:
    """The same with its factors away from zero."""
    for number, factor in enumerate(one.parameters):
        torch.nn.init.normal_(factor, std=0.2, generator=torch.Generator().manual_seed(number))
    return one


def test_only_what_is_trained_is_loaded(tiny_base, photos):
    assert set(trainable_model(tiny_base, photos).models) == {"transformer"}
    assert set(trainable_model(tiny_base, photos, lora=BOTH).models) == {
        "transformer",
        "text_encoder",
        "text_encoder_2",
    }


def test_the_losses_of_a_step_are_its_own_and_sum_to_a_mean(tiny_base, photos):
    one = trainable_model(tiny_base, photos, train={"batch": 4})
    whole = torch.stack(list(one.losses(3))).sum().detach()
    single = trainable_model(tiny_base, photos, train={"batch": 4}, limits={"micro_batch": 1})
    parts = list(single.losses(3))
    assert len(parts) == 4 and torch.allclose(torch.stack(parts).sum(), whole, rtol=1e-5)
    assert torch.equal(torch.stack(list(one.losses(3))).sum(), whole)
    assert not torch.equal(torch.stack(list(one.losses(4))).sum(), whole)
    assert whole == pytest.approx(2.0, rel=0.8), "noise minus latent has a variance of about two"


FULL = {"lora": {"rank": 16}, "train": {"method": "full", "batch": 2}, "limits": {"micro_batch": 1}}


def stepped(one: TrainableModel) -> dict:
    """The trained weights after two steps."""
    chosen = optimizer("adamw", one.groups(), weight_decay=0.1)
    chosen.register_step_post_hook(one.publish)
    for step in range(2):
        for loss in one.losses(step):
            loss.backward()
        chosen.step()
        chosen.zero_grad()
    return one.state()["transformer"]


def test_a_full_fine_tune_on_the_host_is_that_on_the_device_bit_for_bit(tiny_base, photos):
    resolved = resolve(wish(tiny_base, photos, **FULL))
    store = fill_cache(resolved, Told())[0]
    here, there = (
        TrainableModel(resolved, store, replace(plain(resolved), optimizer_state=how, checkpointed_blocks=1))
        for how in ("fp32", "host")
    )
    before = there.state()["transformer"]["proj_out.weight"].clone()
    assert equal(stepped(here), stepped(there))
    assert not torch.equal(before, there.state()["transformer"]["proj_out.weight"])
    assert here.validation_loss() == there.validation_loss()
    again = TrainableModel(resolved, store, replace(plain(resolved), optimizer_state="host"))
    again.restore(here.state())
    assert again.validation_loss() == here.validation_loss()
    assert all(each.grad is None for each in there.models["transformer"].parameters())


def test_several_processes_have_the_losses_of_one(tiny_base, photos, monkeypatch):
    one = trainable_model(tiny_base, photos, train={"batch": 4}, limits={"micro_batch": 1})
    whole = list(one.losses(0))
    one.paces, shares = [Pace(1)] * 3, []
    for one.process in range(3):
        shares.append(list(one.losses(0)))
    assert [len(share) for share in shares] == [2, 1, 1]
    assert [shares[n % 3][n // 3] for n in range(4)] == whole


def test_state_goes_from_one_to_another(tiny_base, photos):
    one, other = (
        moved(trainable_model(tiny_base, photos, lora=BOTH)),
        trainable_model(tiny_base, photos, lora=BOTH),
    )
    other.restore({name: {n: v.clone() for n, v in state.items()} for name, state in one.state().items()})
    assert all(equal(other.state()[name], state) for name, state in one.state().items())
    with raises(BadRecipe):
        other.restore({"transformer": one.state()["transformer"]})


def test_adapters_bear_the_names_of_modules_and_their_scale(tiny_base, photos):
    one = moved(trainable_model(tiny_base, photos, lora={**BOTH, "rank": 2, "alpha": 1.0}))
    adapters = one.adapters()
    assert set(adapters) == {"transformer", "text_encoder", "text_encoder_2"}
    assert all(name.startswith("encoder.layers.2.") for name in adapters["text_encoder"])
    layer = one.models["transformer"].transformer_blocks[0].attn.to_q
    factors = adapters["transformer"]["transformer_blocks.0.attn.to_q"]
    every = torch.eye(layer.in_features)
    delta = (layer(every) - layer.base(every)).T
    assert torch.allclose(factors.up @ factors.down, delta, atol=1e-6)


def test_groups_have_the_rates_of_the_recipe(tiny_base, photos):
    one = trainable_model(tiny_base, photos, lora=BOTH, train={"text_encoder_learning_rate": 1e-3})
    groups = one.groups()
    assert [group["lr"] for group in groups] == [1e-2, 1e-3, 1e-3]
    assert sum(len(group["params"]) for group in groups) == len(one.parameters)
    alike = trainable_model(tiny_base, photos, lora=BOTH)
    assert {group["lr"] for group in alike.groups()} == {1e-2}


def test_the_held_out_loss_has_no_luck_in_it(tiny_base, photos):
    one = moved(trainable_model(tiny_base, photos, lora={"dropout": 0.5}, data={"validation_count": 2}))
    torch.manual_seed(1)
    first = one.validation_loss()
    torch.manual_seed(2)
    assert one.validation_loss() == first
    other = moved(
        trainable_model(tiny_base, photos, lora={"dropout": 0.5}, data={"validation_count": 2}, seed=9)
    )
    assert other.validation_loss() == first, "runs of other seeds can be compared"
    assert len(QUANTILES) == len(set(QUANTILES)) and all(0 < each < 1 for each in QUANTILES)


def test_dropout_works_while_training_only(tiny_base, photos):
    one = moved(trainable_model(tiny_base, photos, lora={"dropout": 0.5}))
    quiet = torch.stack(list(one.losses(0)))
    one.dropping(enabled=True)
    noisy = torch.stack(list(one.losses(0)))
    assert not torch.equal(noisy, quiet)
    assert torch.equal(torch.stack(list(one.losses(0))), noisy), "a step draws the same mask again"
    one.dropping(enabled=False)
    assert torch.equal(torch.stack(list(one.losses(0))), quiet)


@pytest.mark.parametrize("lora", [{}, BOTH], ids=["denoiser", "text-encoders"])
def test_the_masks_of_a_sample_do_not_depend_on_its_micro_batch(tiny_base, photos, lora):
    dropping = {**lora, "dropout": 0.5}
    sums = []
    for largest in (4, 3, 1):
        one = moved(
            trainable_model(
                tiny_base, photos, lora=dropping, train={"batch": 4}, limits={"micro_batch": largest}
            )
        )
        one.dropping(enabled=True)
        sums.append(torch.stack(list(one.losses(3))).sum().item())
    assert sums == pytest.approx([sums[0]] * 3, rel=1e-5)


@pytest.mark.parametrize("lora", [{}, BOTH], ids=["denoiser", "text-encoders"])
def test_samples_show_the_weights_as_they_stand(tiny_base, photos, lora):
    sample = {"every": 0, "prompts": ["a thing", "another"], "width": 32, "height": 64, "steps": 2}
    one = trainable_model(tiny_base, photos, lora=lora, sample=sample)
    before = one.sample(2)
    assert [image.size for image in before] == [(32, 64)] * 2
    again = moved(one).sample(2)
    assert any(
        np.abs(np.asarray(a, int) - np.asarray(b, int)).max() > 0 for a, b in zip(before, again, strict=True)
    )
    assert all(np.array_equal(a, b) for a, b in zip(again, one.sample(2), strict=True))


@pytest.mark.parametrize("lora", [{}, BOTH], ids=["denoiser", "text-encoders"])
def test_samples_with_the_lora_on_the_positive_branch_are_those_of_generate(
    tiny_base, photos, tmp_path, lora
):
    sample = {"every": 0, "prompts": ["a thing"], "steps": 2, "guidance": 3.0, "lora_on": "positive"}
    size = {"width": 32, "height": 32}
    one = moved(trainable_model(tiny_base, photos, lora=lora, sample=sample | size))
    (image,) = one.sample(1)
    path = tmp_path / "lora.safetensors"
    file.write(path, one.adapters(), header_entries(about(one.resolved, 0), one.adapters()))
    settings = Settings(steps=2, **size)
    paths = [
        generated(
            path, tmp_path / name, "a thing", base=str(tiny_base), settings=replace(settings, **branches)
        )[0]
        for name, branches in {"asked": {}, "both": {"lora_on": "both", "guidance": 3.0}}.items()
    ]
    asked, both = (
        np.abs(np.asarray(image, int) - np.asarray(Image.open(path).convert("RGB"), int)).max()
        for path in paths
    )
    assert asked <= 1 < both
    assert one.sample(1) == [image], "the adapters are on again"


def test_branches_that_cannot_be_are_told(tiny_base, photos):
    for sections in (
        {"sample": {"lora_on": "positive", "guidance": 1.0}},
        {"sample": {"lora_on": "positive"}, "train": {"method": "full"}, "lora": {"rank": 16}},
    ):
        with raises(BadRecipe):
            resolve(wish(tiny_base, photos, **sections))


def _gradients(one: TrainableModel) -> list[torch.Tensor]:
    for loss in one.losses(0):
        loss.backward()
    found = [factor.grad for factor in one.parameters if factor.grad is not None]
    for factor in one.parameters:
        factor.grad = None
    return found


def test_another_plan_is_the_same_training_to_the_bit(tiny_base, photos):
    shown = {"every": 0, "prompts": ["zorb"], "steps": 1}
    one = moved(trainable_model(tiny_base, photos, train={"batch": 4}, lora={"dropout": 0.5}, sample=shown))
    one.dropping(enabled=True)
    usual, blocks = plain(one.resolved), len(one.resolved.family.arch.blocks_of(one.models["transformer"]))
    one.follow(replace(usual, swapped_blocks=blocks, precompute_modulation=True))
    one.follow(usual)  # from here on weights start at aligned bytes; in a file they need not, and CPUs care
    expected, held_out, painted = _gradients(one), one.validation_loss(), one.sample(1)
    for change in (
        {"checkpointed_blocks": 2},
        {
            "checkpointed_blocks": blocks,
            "keep_attention": True,
            "swapped_blocks": blocks,
            "precompute_modulation": True,
        },
        {"swapped_blocks": 2, "mmap_weights": True},
    ):
        one.follow(replace(usual, **change))
        assert all(map(torch.equal, _gradients(one), expected)), change
        assert (one.validation_loss(), change) == (held_out, change)
        assert one.sample(1) == painted, change
    one.follow(usual)
    assert all(map(torch.equal, _gradients(one), expected))


def test_a_smaller_micro_batch_is_the_same_training_to_rounding(tiny_base, photos):
    one = moved(trainable_model(tiny_base, photos, train={"batch": 4}))
    expected = _gradients(one)
    one.follow(replace(plain(one.resolved), micro_batch=1))
    assert len(list(one.losses(0))) == 4
    assert all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(_gradients(one), expected, strict=True)
    )


def test_weights_in_fewer_bits_are_another_training(tiny_base, photos):
    one = trainable_model(tiny_base, photos)
    with raises(BrokenGraph):
        one.follow(replace(one.plan, weights="nf4"))
    coded = replace(one.plan, weights="nf4", code_modulations=True)
    one = TrainableModel(one.resolved, one.store, coded)
    norm = one.models["transformer"].transformer_blocks[0].norm1.linear
    assert isinstance(norm, QuantizedLinear) and norm.kind == "nf4"
    assert all(loss.isfinite() for loss in one.losses(0))
    with raises(BrokenGraph):
        one.follow(replace(coded, code_modulations=False))


def test_samples_are_decoded_in_tiles_where_the_plan_says_so(tiny_base, photos, monkeypatch):
    monkeypatch.setattr(engine, "TILE_SIDE", 32)
    one = trainable_model(tiny_base, photos, sample={"every": 0, "width": 64, "height": 64, "prompts": ["x"]})
    (plain,) = one.sample(1)
    one.follow(replace(one.plan, decode_tiled=True))
    (tiled,) = one.sample(1)
    assert tiled.size == plain.size == (64, 64) and tiled.tobytes() != plain.tobytes()
    one.follow(replace(one.plan, decode_tiled=False))
    assert one.sample(1)[0].tobytes() == plain.tobytes()


def test_products_in_8_bits_keep_the_direction_of_the_gradient(tiny_base, photos):
    resolved = resolve(wish(tiny_base, photos))
    store = fill_cache(resolved, Told())[0]
    full = replace(plain(resolved), weights="int8")
    ways = [
        full,
        replace(full, matmul_precision="8bit"),
        replace(full, weights="fp8", matmul_precision="8bit"),
    ]
    flat = []
    for plan in ways:
        one = moved(TrainableModel(resolved, store, plan))
        flat.append(torch.cat([each.flatten() for each in _gradients(one)]))
    for mine in flat[1:]:
        assert not torch.equal(mine, flat[0])
        assert float(torch.nn.functional.cosine_similarity(mine, flat[0], dim=0)) >= 0.99
    with raises(BrokenGraph):
        TrainableModel(resolved, store, full).follow(ways[1])


def test_groups_have_the_multipliers_of_their_layers(tiny_base, photos):
    one = trainable_model(tiny_base, photos, lora={"rates": {"attn.to_k": 0.5, "*.ff.*": 2.0}})
    groups = one.groups()
    assert sorted({group["lr"] for group in groups}) == [0.5e-2, 1e-2, 2e-2]
    assert sum(len(group["params"]) for group in groups) == len(one.parameters)
    slow = next(group["params"] for group in groups if group["lr"] == 0.5e-2)
    keys = {id(weight): name for name, weight in one.assembly.named()["transformer"].items()}
    assert slow and all("attn.to_k" in keys[id(weight)] for weight in slow)
