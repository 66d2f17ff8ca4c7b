"""Published models at true size on the meta device, and small ones of random numbers against a reference."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from layouts import hash_of_layout
from limner.errors import BadBase
from limner.hyper.published import PublishedPredictor, layout_of, rank_of
from limner.hyper.targets import Target
from limner.models.bundled import known
from limner.models.loading import skeleton
from limner.models.registry import family_of
from messages import raises

QWEN = (
    (("attn.to_q", 1, 1), ("attn.to_k", 1, 1), ("attn.to_v", 1, 1), ("attn.to_out.0", 1, 1)),
    (("img_mlp.net.2", 4, 1), ("img_mod.1", 1, 6)),
    (
        ("attn.add_q_proj", 1, 1),
        ("attn.add_k_proj", 1, 1),
        ("attn.add_v_proj", 1, 1),
        ("attn.to_add_out", 1, 1),
    ),
    (("txt_mlp.net.2", 4, 1), ("txt_mod.1", 1, 6)),
)
Z = (
    (
        *(("attention.to_q", 1, 1), ("attention.to_k", 1, 1)),
        *(("attention.to_v", 1, 1), ("attention.to_out.0", 1, 1)),
    ),
    (("feed_forward.w1", 1, 8 / 3), ("feed_forward.w2", 8 / 3, 1), ("feed_forward.w3", 1, 8 / 3)),
)


class Block(nn.Module):
    """Heads of one group, as the published modules nest them; a reference of its own by Linear and view."""

    def __init__(self, sides, wide, narrow, rank, states=None) -> None:
        super().__init__()
        self.sides, self.rank = sides, rank

        def two(first, middle, last) -> nn.Module:
            pair = nn.Module()
            pair.proj_in = nn.Linear(first, middle, bias=False)
            pair.proj_out = nn.Linear(last[0], last[1], bias=False)
            return pair

        self.layers = nn.ModuleList()
        for columns, rows in sides:
            layer = nn.Module()
            layer.proj_a = two(wide, narrow, (narrow, columns * rank))
            layer.proj_b = two(wide, narrow, (narrow, rows * rank))
            self.layers.append(layer)
        if states:
            tokens, width, middle = states
            self.proj_residual = two(width, middle, (tokens * middle, narrow))

    def forward(self, x, states):
        shift = 0.0
        if hasattr(self, "proj_residual"):
            tokens = torch.stack([self.proj_residual.proj_in(token * 0.05) for token in states])
            shift = self.proj_residual.proj_out(tokens.reshape(-1))
        for layer, (columns, rows) in zip(self.layers, self.sides, strict=True):
            down = layer.proj_a.proj_out(layer.proj_a.proj_in(x) + shift)
            up = layer.proj_b.proj_out(layer.proj_b.proj_in(x) + shift)
            yield down.reshape(self.rank, columns), up.reshape(rows, self.rank)


def model(groups, depth, side, **sizes) -> nn.Module:
    whole = nn.Module()
    whole.blocks = nn.ModuleList(
        Block([(round(a * side), round(b * side)) for _, a, b in group], **sizes)
        for group in groups
        for _ in range(depth)
    )
    return whole


def qwen(depth, side, **sizes) -> nn.Module:
    return model(QWEN, depth, side, **sizes)


def z_image(depths, side, **sizes) -> nn.Module:
    whole = nn.Module()
    for name, depth in zip(("layers", "context_refiner", "noise_refiner"), depths, strict=True):
        setattr(whole, f"{name}_lora", model(Z, depth, side, **sizes))
    return whole


def targets(groups, depth, side, prefix) -> dict[str, Target]:
    names = [(f"{prefix}.{n}.{name}", a, b) for n in range(depth) for group in groups for name, a, b in group]
    return {name: Target(name, round(a * side), round(b * side)) for name, a, b in names}


RECOGNISED = {
    "style": "0aad514690602ecaff932c701cb4b0bb",
    "coarse": "a166c33455cdbd89c0888a3645ca5c0f",
    "fine": "a5476e691767a4da6d3a6634a10f7408",
    "z": "9510cb8cd1dd34ee0e4f111c24905510",
}
"""Of the names and shapes in the published files: what DiffSynth-Studio 2.1.12 recognises them by."""
TRUE = {
    "style": ("qwen-image", 2_406_481_920, 2880, 720, {"narrow": 64}),
    "coarse": ("qwen-image", 7_927_234_560, 3360, 720, {"narrow": 128, "states": (71, 3584, 1024)}),
    "fine": ("qwen-image", 7_573_340_160, 3360, 720, {"narrow": 128, "states": (1376, 3584, 64)}),
    "z": ("z-image", 1_613_234_176, 952, 238, {"narrow": 128}),
}


@pytest.mark.parametrize("name", TRUE)
def test_at_true_size_every_tensor_fits_its_layer(name):
    base, weights, tensors, layers, sizes = TRUE[name]
    with torch.device("meta"):
        if base == "z-image":
            network = z_image((30, 2, 2), 3840, wide=5632, rank=4, **sizes)
        else:
            network = qwen(60, 3072, wide=5632, rank=4, **sizes)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert sum(math.prod(shape) for shape in shapes.values()) == weights and len(shapes) == tensors
    assert hash_of_layout(shapes) == RECOGNISED[name]
    layout = layout_of(shapes)
    assert (layout.family, layout.expert, layout.width) == (base, name if name != "z" else "style", 5632)
    assert layout.tokens == sizes.get("states", (0,))[0] and layout.bottleneck == sizes["narrow"]
    family = family_of({"qwen-image": "QwenImagePipeline", "z-image": "ZImagePipeline"}[base])
    denoiser = skeleton(family, known(base), family.denoiser, dtype=torch.bfloat16)
    found = {
        key: Target(key, layer.in_features, layer.out_features)
        for key, layer in denoiser.named_modules()
        if isinstance(layer, nn.Linear)
    }
    assert rank_of(layout, shapes, found) == 4
    assert sum(len(head.layers) for head in layout.heads) == layers
    other = {key: Target(key, 64, 64) for key in found}
    with raises(BadBase):
        rank_of(layout, shapes, dict(list(other.items())[:3]))


SMALL = {
    "style": {"narrow": 3},
    "coarse": {"narrow": 3, "states": (5, 8, 6)},
    "fine": {"narrow": 6, "states": (7, 8, 2)},
    "z": {"narrow": 4},
}


def small(name: str, folder: Path) -> tuple[Path, nn.Module, dict[str, Target]]:
    torch.manual_seed(0)
    if name == "z":
        network = z_image((3, 2, 1), 12, wide=10, rank=2, **SMALL[name])
        stacks = zip((3, 2, 1), ("layers", "context_refiner", "noise_refiner"), strict=True)
        sizes = {key: value for depth, stack in stacks for key, value in targets(Z, depth, 12, stack).items()}
    else:
        network = qwen(2, 12, wide=10, rank=2, **SMALL[name])
        sizes = targets(QWEN, 2, 12, "transformer_blocks")
    path = folder / f"{name}.safetensors"
    save_file(network.state_dict(), path)
    return path, network, sizes


@pytest.mark.parametrize("name", SMALL)
def test_what_is_emitted_is_that_of_the_nested_modules(name, tmp_path):
    path, network, sizes = small(name, tmp_path)
    predictor = PublishedPredictor(path, sizes)
    x, counts = torch.randn(10), []
    states = torch.randn(*SMALL[name]["states"][:2]) if "states" in SMALL[name] else None
    pairs = predictor.predict(x, states, lambda: counts.append(1))
    assert pairs.keys() == sizes.keys() and predictor.rank == 2
    stacks = [("transformer_blocks", QWEN, network)]
    if name == "z":
        names = ("layers", "context_refiner", "noise_refiner")
        stacks = [(stack, Z, getattr(network, f"{stack}_lora")) for stack in names]
    for prefix, groups, stack in stacks:
        depth = len(stack.blocks) // len(groups)
        for number, block in enumerate(stack.blocks):
            for (layer, _, _), (down, up) in zip(groups[number // depth], block(x, states), strict=True):
                one, other = pairs[f"{prefix}.{number % depth}.{layer}"]
                assert torch.allclose(one, down, atol=1e-6) and torch.allclose(other, up, atol=1e-6)
                target = sizes[f"{prefix}.{number % depth}.{layer}"]
                assert (other @ one).shape == (target.outputs, target.inputs)
    assert len(counts) == sum(len(stack.blocks) for _, _, stack in stacks)


def test_what_is_no_such_model_is_told(tmp_path):
    path, network, sizes = small("coarse", tmp_path)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    first = "blocks.0.layers.0.proj_a.proj_in.weight"
    for wrong in (
        {},
        {key: shape for key, shape in shapes.items() if key != first},
        shapes | {"blocks.0.stray": (3,)},
        shapes | {"blocks.3.layers.1.proj_b.proj_out.weight": (144, 4)},
        shapes | {"blocks.3.proj_residual.proj_out.weight": (3, 31)},
        {key: shape for key, shape in shapes.items() if not key.startswith("blocks.7.")},
    ):
        with raises(BadBase):
            layout_of(wrong)
    predictor = PublishedPredictor(path, sizes)
    for inputs in (
        (torch.ones(9), torch.ones(5, 8)),
        (torch.ones(10), torch.ones(6, 8)),
        (torch.ones(10), None),
    ):
        with raises(BadBase):
            predictor.predict(*inputs)
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(BadBase):
        PublishedPredictor(torn, sizes)
    with raises(BadBase):
        PublishedPredictor(path, sizes | {"transformer_blocks.0.img_mod.1": Target("x", 6, 72)})
