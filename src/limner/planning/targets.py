"""Which layers a recipe trains: those that are alike together, with their numbers."""

import re
from collections.abc import Iterator, Mapping

from limner.assembly.assemble import ModelSpec
from limner.nn.layers import lora
from limner.planning.profile import TargetGroup, ranges

NUMBER = re.compile(r"\.(\d+)(?=\.)")
"""The first number in a name: that of its block."""


def target_groups(spec: ModelSpec) -> tuple[TargetGroup, ...]:
    """The trained layers of the base at its full depth; none where all of the denoiser is trained.

    Raises:
        BadRecipe: A target matches nothing.
    """
    if not spec.trainable.freezes_base:
        return ()
    models = {name: spec.skeleton(name) for name in spec.first_layers}
    ranks = {name: spec.trainable.layers(spec, name, model) for name, model in models.items()}
    spec.trainable.attach(spec, models, [])
    groups: list[TargetGroup] = []
    for name, model in models.items():
        trained = {
            layer: sum(factor.numel() for factor in adapter.factors().values())
            for layer, adapter in lora.attached(model).items()
        }
        groups += _grouped(name, ranks[name], trained)
    return tuple(groups)


def _grouped(component: str, ranks: Mapping[str, int], trained: Mapping[str, int]) -> Iterator[TargetGroup]:
    members: dict[tuple[str, int], list[str]] = {}
    for layer in trained:
        members.setdefault((NUMBER.sub(".*", layer, count=1), ranks[layer]), []).append(layer)
    for (form, rank), layers in members.items():
        numbers = [int(match[1]) for layer in layers if (match := NUMBER.search(layer))]
        yield TargetGroup(
            component=component,
            layers=form.replace("*", ranges(numbers), 1) if numbers else form,
            count=len(layers),
            rank=rank,
            trained=sum(trained[layer] for layer in layers),
        )
