from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from PIL import Image, ImageChops
from torch import nn
from torch.testing import assert_close

from limner.assembly.assemble import META, assemble
from limner.assembly.resolve import Resolved, resolve
from limner.assembly.training_adapter import FrozenPair, TrainingAdapter, enable_pairs, pending_adapter
from limner.errors import BadCheckpoint, BadLora, BadRecipe
from limner.generation.settings import Settings
from limner.lora import file
from limner.lora.adapters import Dora
from limner.lora.factors import Factors
from limner.nn.layers import lora
from limner.nn.layers.quantized_linear import freeze
from limner.nn.memory.plan import Plan
from limner.planning.dry_run import TraceSpec
from limner.planning.profiling import profile
from limner.run_folder import RunDir
from limner.runs import train
from limner.training.cache import fill_cache
from limner.training.model import TrainableModel, plain
from messages import raises
from small import Told, equal, generated, weights, wish

TRAINED, FREE, LISTED = (
    "single_transformer_blocks.1.attn.to_q",
    "proj_out",
    "transformer_blocks.0.attn.to_out.0",
)
"""A layer in a block that gets a LoRA as well, one outside the blocks that does not, and one that stands in a
list beside a dropout."""
TARGETS = {"targets": ["attn.to_q", "attn.to_k"]}


@pytest.fixture(scope="module")
def adapter(tiny_base, tmp_path_factory) -> Path:
    """A large change of two layers of the tiny base."""
    model = FluxTransformer2DModel.from_pretrained(tiny_base, subfolder="transformer")
    layers = dict(model.named_modules())
    draw = torch.Generator().manual_seed(0)
    change = {
        name: Factors(
            torch.randn(2, layers[name].in_features, generator=draw),
            torch.randn(layers[name].out_features, 2, generator=draw) / 4,
        )
        for name in (TRAINED, FREE, LISTED)
    }
    path = tmp_path_factory.mktemp("adapter") / "de-distill.safetensors"
    file.write(path, {"transformer": change}, {})
    return path


def beside(base, photos, adapter: Path | str, **sections) -> Resolved:
    train_keys = {"adapter": str(adapter), **sections.pop("train", {})}
    return resolve(wish(base, photos, **{"lora": TARGETS, "train": train_keys, **sections}))


def test_step_0_is_the_base_with_the_adapter_merged(tiny_base, photos, adapter):
    with_it = beside(tiny_base, photos, adapter)
    store = fill_cache(with_it, Told())[0]
    bare = TrainableModel(with_it, store)
    model = TrainableModel(with_it, store)
    for name, factors in file.read(adapter).components["transformer"].items():
        module = bare.models["transformer"].get_submodule(name)
        inner = module.base if isinstance(module, lora.Adapter) else module
        assert isinstance(inner, FrozenPair)
        parent, _, attribute = name.rpartition(".")
        inner.layer.weight.data += factors.up @ factors.down
        if isinstance(module, lora.Adapter):
            module.base = inner.layer
        else:
            setattr(bare.models["transformer"].get_submodule(parent), attribute, inner.layer)
    assert not any(isinstance(module, FrozenPair) for module in bare.models["transformer"].modules())
    assert_close(*(torch.stack(list(one.losses(1))).sum() for one in (model, bare)))
    one, two = ({n: f.shape for n, f in lora.named(m.models["transformer"]).items()} for m in (model, bare))
    assert one == two


@pytest.mark.parametrize("codes", ["int8", "nf4"])
def test_streamed_and_checkpointed_it_is_the_same_to_the_bit(tiny_base, photos, adapter, codes):
    resolved = beside(tiny_base, photos, adapter)
    store = fill_cache(resolved, Told())[0]
    here = replace(plain(resolved), weights=codes)
    there = replace(here, swapped_blocks=2, swap_buffers=2, checkpointed_blocks=2)
    gradients = []
    for plan in (here, there):
        model = TrainableModel(resolved, store, plan)
        for factor in model.parameters:
            torch.nn.init.normal_(factor, std=0.2, generator=torch.Generator().manual_seed(1))
        for loss in model.losses(1):
            loss.backward()
        gradients.append({n: f.grad for n, f in lora.named(model.models["transformer"]).items()})
        model.engine.close()
    assert equal(*gradients)


def test_what_samples_show_is_the_exported_file_on_the_bare_base(tiny_base, photos, adapter, tmp_path):
    sample = {"every": 0, "prompts": ["a cat"], "steps": 2, "guidance": 1.0}
    options = {"lora": TARGETS, "sample": sample}
    runs = {}
    for name, keys in {"with": {"adapter": str(adapter)}, "without": {}}.items():
        told = Told()
        train(wish(tiny_base, photos, **options, train=keys | {"steps": 1}), tmp_path / name, told)
        runs[name] = RunDir(tmp_path / name), told
    run, told = runs["with"]
    assert "Training adapter: de-distill.safetensors, 3 layers" in told.text
    first = [Image.open(one.sample_path(0, 0)) for one, _ in runs.values()]
    assert ImageChops.difference(*first).getbbox() is None, "at step 0 samples are of the bare base"
    assert not equal(weights(run.path, 1), weights(runs["without"][0].path, 1))
    metadata = file.read(run.lora_path).metadata
    assert (
        metadata["limner.adapter"] == "de-distill.safetensors"
        and len(metadata["limner.adapter_sha256"]) == 64
    )
    settings = Settings(steps=2, guidance=1.0, width=32, height=32)
    (path,) = generated(run.path, tmp_path / "out", "a cat", settings=settings)
    painted, shown = Image.open(path).convert("RGB"), Image.open(run.sample_path(1, 0)).convert("RGB")
    assert max(high for _, high in ImageChops.difference(painted, shown).getextrema()) <= 1


def test_on_meta_a_pair_stands_for_those_of_all_blocks(tiny_base, photos, adapter):
    spec = beside(tiny_base, photos, adapter).spec
    denoiser = assemble(spec, Plan(compute="fp32", weights="fp32"), META).denoiser
    pairs = {name for name, module in denoiser.named_modules() if isinstance(module, FrozenPair)}
    assert pairs == {
        FREE,
        LISTED,
        *(f"single_transformer_blocks.{number}.attn.to_q.base" for number in range(2)),
    }
    assert isinstance(spec.adapter, TrainingAdapter)


def test_on_meta_blocks_that_grow_get_the_pairs_of_their_own_size():
    """As in a U-Net: the same name but for the block's number, and another width."""
    widths = (8, 16, 16)

    def model() -> nn.Module:
        with torch.device("meta"):
            return nn.ModuleDict({"blocks": nn.ModuleList(nn.Linear(width, width) for width in widths)})

    adapter = pending_adapter({f"blocks.{number}": 2 + number for number in range(3)}, model())
    denoiser = model()
    adapter.attach(denoiser, torch.float32)
    sizes = [tuple(layer.down.shape) for layer in denoiser["blocks"]]
    assert sizes == [(2, 8), (4, 16), (4, 16)]  # of the blocks of 16, the largest rank


def test_a_plan_counts_the_pairs_among_what_is_never_quantized(tiny_base, photos, adapter):
    spec = beside(tiny_base, photos, adapter).spec
    profiles = [
        profile(one, TraceSpec(size=(32, 32)), whole=True) for one in (replace(spec, adapter=None), spec)
    ]
    bare, whole = (sum(part.other for part in (*one.blocks, one.rest)) for one in profiles)
    denoiser = assemble(spec, Plan(compute="fp32", weights="fp32"), META).denoiser
    pairs = [module for module in denoiser.modules() if isinstance(module, FrozenPair)]
    assert whole - bare == sum(pair.down.nbytes + pair.up.nbytes for pair in pairs) > 0
    assert profiles[0].trained == profiles[1].trained


def test_what_does_not_fit_is_told_before_anything_is_computed(tiny_base, photos, tmp_path):
    path = tmp_path / "a.safetensors"
    ones = Factors(torch.ones(1, 32), torch.ones(32, 1))
    cases = {
        "elsewhere": {"transformer": {"transformer_blocks.7.attn.to_q": ones}},
        "shape": {"transformer": {TRAINED: Factors(torch.ones(1, 48), torch.ones(32, 1))}},
        "encoder": {"text_encoder": {"text_model.encoder.layers.0.self_attn.q_proj": ones}},
        "dora": {"transformer": {TRAINED: Dora(ones, torch.ones(32), "out")}},
    }
    for components in cases.values():
        file.write(path, components, {})
        with raises(BadRecipe):
            assert beside(tiny_base, photos, path).spec.adapter
    path.write_bytes(b"torn")
    with pytest.raises(BadLora):
        assert beside(tiny_base, photos, path).spec.adapter
    with raises(BadLora):
        assert beside(tiny_base, photos, tmp_path / "nowhere.safetensors").spec.adapter
    for lora_keys, keys in ((TARGETS | {"kind": "dora"}, {}), ({"rank": 16}, {"method": "full"})):
        with raises(BadRecipe):
            wish(tiny_base, photos, lora=lora_keys, train={"adapter": "some/adapter", **keys})


def test_a_run_does_not_go_on_beside_another_adapter(tiny_base, photos, adapter, tmp_path):
    train(
        wish(tiny_base, photos, lora=TARGETS, train={"steps": 1, "adapter": str(adapter)}),
        tmp_path / "run",
        Told(),
    )
    with raises(BadCheckpoint):
        train(wish(tiny_base, photos, lora=TARGETS, train={"steps": 4}), tmp_path / "run", Told())


def test_a_linear_layer_and_its_pair_are_one_changed_weight():
    layer, x = nn.Linear(8, 6), torch.randn(2, 3, 8, requires_grad=True)
    down, up = torch.randn(2, 8), torch.randn(6, 2)
    pair = FrozenPair(layer, down, up)
    whole = nn.functional.linear(x, layer.weight + up @ down, layer.bias)
    assert_close(pair(x), whole)
    probe = torch.randn_like(whole)
    assert_close(*(torch.autograd.grad(y, x, probe)[0] for y in (pair(x), whole)))
    enable_pairs(pair, enabled=False)
    assert torch.equal(pair(x), layer(x))
    assert not pair.up.requires_grad and not pair.down.requires_grad


def test_a_convolution_keeps_its_stride_and_padding():
    layer, x = nn.Conv2d(4, 6, 3, stride=2, padding=1), torch.randn(2, 4, 8, 8)
    down, up = torch.randn(2, 4, 3, 3), torch.randn(6, 2, 1, 1)
    change = (up.flatten(1) @ down.flatten(1)).view_as(layer.weight)
    whole = nn.functional.conv2d(x, layer.weight + change, layer.bias, 2, 1)
    assert_close(FrozenPair(layer, down, up)(x), whole, rtol=1e-4, atol=1e-5)


def test_beside_a_weight_in_few_bits_the_pair_is_whole():
    """Merged, a change below the rounding of the codes would be lost."""
    net = nn.Sequential(nn.Linear(64, 64, bias=False)).requires_grad_(requires_grad=False)
    freeze(net, ["0"], "int8")
    down, up = torch.randn(1, 64), torch.full((64, 1), 1e-5)
    x = torch.randn(4, 64)
    expected = net(x) + x @ down.T @ up.T
    net[0] = FrozenPair(net[0], down, up)
    assert_close(net(x), expected)
    assert not torch.equal(expected, net[0].layer(x))
