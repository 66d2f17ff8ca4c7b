import pytest
import torch
from torch import nn

from limner.models import family_of
from limner.models.bundled import known
from limner.models.loading import hush, skeleton
from limner.nn.layer_lists import bytes_of, heaviest, lists


def stack(*widths: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(width, width) for width in widths)


def test_only_layers_that_are_alike_make_a_list():
    model = nn.ModuleDict(
        {
            "alike": stack(8, 4, 4, 4),
            "widths": stack(8, 8, 8, 16),
            "kinds": nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), nn.Conv2d(4, 4, 1)]),
            "few": stack(4, 4),
            "one": stack(4),
            "nest": nn.ModuleList(nn.ModuleDict({"inner": stack(4, 4, 4)}) for _ in range(3)),
        }
    )
    assert list(lists(model)) == ["alike", "few", "nest"]
    assert list(lists(model, least=3)) == ["alike", "nest"]


def test_a_list_is_heaviest_only_with_half_of_the_weights():
    model = nn.ModuleDict({"layers": stack(4, 4, 4), "embedding": nn.Embedding(15, 4)})
    assert heaviest(model) == "layers"
    model["more"] = nn.Linear(4, 4)
    assert heaviest(model) is None
    assert heaviest(nn.Linear(2, 2)) is None


def test_a_tied_weight_is_counted_once():
    weight = nn.Parameter(torch.zeros(3, 5, dtype=torch.bfloat16))
    assert bytes_of([weight, weight, torch.zeros(2)]) == 30 + 8


@pytest.mark.parametrize(
    ("base", "part", "name"),
    [
        ("flux-dev", "text_encoder", "encoder.layers"),
        ("flux-dev", "text_encoder_2", "encoder.block"),
        ("qwen-image", "text_encoder", "model.language_model.layers"),
        ("flux2-klein-9b", "text_encoder", "model.layers"),
        ("z-image", "text_encoder", "layers"),
        ("sdxl", "text_encoder_2", "text_model.encoder.layers"),
        ("sdxl", "vae", None),
        ("qwen-image", "vae", None),
    ],
)
def test_where_true_encoders_have_their_layers(base: str, part: str, name: str | None):
    hush()
    source = known(base)
    family = family_of(source.index["_class_name"])
    assert heaviest(skeleton(family, source, part, dtype=torch.bfloat16)) == name
