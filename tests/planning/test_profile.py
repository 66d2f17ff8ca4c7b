import json

import pytest

from limner.planning.profile import Affine, Block, OpCounts, Profile, Stage, from_json, to_json

BLOCK = Block(
    kind="Double",
    weight_bytes={"bf16": 64, "nf4": 18},
    other=4,
    modulation=8,
    widest=32,
    saved=Affine(1, 20),
    input=Affine(0, 2),
    attention_kept=Affine(0, 3),
    forward=OpCounts(gemm=Affine(0, 100), kernels=7),
    backward=OpCounts(),
    tail=OpCounts(),
)
PROFILE = Profile(
    base="flux-dev",
    family="flux",
    size=(1024, 768),
    blocks=(BLOCK, BLOCK),
    rest=BLOCK,
    trained=12,
    tensors=2,
    forward=Affine(3, 4),
    backward=Affine(5, 6),
    recompute=Affine(7, 8),
    stages=(
        Stage(
            phase="cache",
            name="vae",
            weights=1,
            layerwise_weights=1,
            activations=2,
            work=OpCounts(),
            times="image",
        ),
    ),
)


def test_a_line_grows_with_the_images() -> None:
    assert [Affine(3, 4).at(images) for images in (1, 2)] == [7, 11]


def test_a_profile_comes_back_from_json() -> None:
    assert from_json(json.loads(json.dumps(to_json(PROFILE)))) == PROFILE


def test_what_is_no_profile_is_refused() -> None:
    with pytest.raises(ValueError, match="blocks"):
        from_json({"base": "x"})
