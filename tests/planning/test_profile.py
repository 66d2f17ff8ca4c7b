import json

import pytest

from limner.planning.profile import Block, Line, Profile, Stage, Work, from_json, to_json

BLOCK = Block(
    kind="Double",
    stored={"bf16": 64, "nf4": 18},
    other=4,
    modulation=8,
    widest=32,
    kept=Line(1, 20),
    input=Line(0, 2),
    attention_kept=Line(0, 3),
    forward=Work(gemm=Line(0, 100), kernels=7),
    backward=Work(),
    tail=Work(),
)
PROFILE = Profile(
    base="flux-dev",
    family="flux",
    size=(1024, 768),
    blocks=(BLOCK, BLOCK),
    rest=BLOCK,
    trained=12,
    tensors=2,
    forward=Line(3, 4),
    backward=Line(5, 6),
    recompute=Line(7, 8),
    stages=(Stage(phase="cache", name="vae", weights=1, least=1, activations=2, work=Work(), times="image"),),
)


def test_a_line_grows_with_the_images() -> None:
    assert [Line(3, 4).at(images) for images in (1, 2)] == [7, 11]


def test_a_profile_comes_back_from_json() -> None:
    assert from_json(json.loads(json.dumps(to_json(PROFILE)))) == PROFILE


def test_what_is_no_profile_is_refused() -> None:
    with pytest.raises(ValueError, match="blocks"):
        from_json({"base": "x"})
