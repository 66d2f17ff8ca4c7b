"""Start from a LoRA: what a file changes is where the trained factors begin."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from limner.assembly.assemble import Assembled
from limner.assembly.resolve import Resolved
from limner.errors import BadRecipe
from limner.files import sha256_file, write_json
from limner.lora import file
from limner.lora.adapters import Dora, WeightDelta, to_lora
from limner.lora.factors import Factors, rename_for_model, unknown_layers, with_kernel
from limner.lora.metadata import without_path
from limner.lora.svd import spectrum
from limner.models.family import Family
from limner.models.source import Source
from limner.nn import distributed
from limner.nn.layers import lora
from limner.nn.layers.adapter import LowRankConv
from limner.reporter import Reporter

if TYPE_CHECKING:
    from limner.training.state import TrainState

INSTANT = "instant"
"""What ``train.init`` says for the prediction of the base's own predictor."""


class PredictedLora(Protocol):
    """A LoRA of one pass over pictures: ``prediction.Prediction``."""

    @property
    def adapter(self) -> Mapping[str, Factors]:
        """Layer of the denoiser -> factors."""
        ...

    @property
    def predictor(self) -> str:
        """Name of what made it."""
        ...

    @property
    def sha256(self) -> str:
        """Of its file."""
        ...


Predictor = Callable[[Sequence[Path], Source, Family, str, Reporter], PredictedLora]
"""Pictures, base, family, file of a predictor ("": the base's own) -> a LoRA: ``prediction.predict``."""


@dataclass(frozen=True)
class InitialLora:
    """A LoRA that a training starts from."""

    name: str
    """Without a path of this machine."""
    sha256: str
    components: Mapping[str, Mapping[str, WeightDelta]]
    """Model -> layer, as the base's models name them -> change."""

    def begin(self, state: "TrainState", reporter: Reporter) -> None:
        """Put the LoRA into the trained factors, and record it in the run folder.

        One of a lower rank fills the first rows, and the others begin as ever: at no change. One of a higher
        rank is cut to the nearest of the run's (Eckart and Young 1936). Layers that it does not change begin
        as ever.
        """
        before = after = 0.0
        count = 0
        for component, changes in self.components.items():
            pairs = lora.attached(state.model.models[component])
            for layer, change in changes.items():
                energies = _fill(pairs[layer], change)
                before, after, count = before + energies[0], after + energies[1], count + 1
        state.model.publish()
        if state.average:
            state.average.start(state.model.parameters)
        energy = after / before if before else 1.0
        if distributed.rank() == 0:
            record = {"name": self.name, "sha256": self.sha256, "energy": round(energy, 6)}
            write_json(state.run.init_path, record)
        reporter.line(
            f"Starts from {self.name}: {count} layers; its energy (sum of squared singular values) is "
            f"kept to {100 * energy:.1f} %."
        )


def initial_lora(
    resolved: Resolved, meta: Assembled, reporter: Reporter, predictor: Predictor
) -> InitialLora | None:
    """The LoRA that ``train.init`` names, read and held against what will be trained. None: it names none.

    Args:
        resolved: The run.
        meta: Its models without weights, adapters attached.
        reporter: Is told what a predictor does.
        predictor: Makes a LoRA of pictures, for ``train.init = "instant"``.

    Raises:
        BadRecipe: It changes what is not trained, or is of a kind that no LoRA can hold.
        BadLora: It cannot be had or read.
    """
    name = resolved.recipe.train.init
    if not name:
        return None
    if name == INSTANT:
        return _predicted(resolved, meta, reporter, predictor)
    path = file.weights_file(file.find(name))
    content = file.read(path, resolved.family.name)
    components = {
        component: _fitting(resolved, meta, component, adapter)
        for component, adapter in content.components.items()
    }
    return InitialLora(without_path(name), sha256_file(path), components)


def _predicted(resolved: Resolved, meta: Assembled, reporter: Reporter, predictor: Predictor) -> InitialLora:
    """A LoRA of one pass over the images that are trained on, without the layers that are not trained."""
    paths = list(dict.fromkeys(view.example.path for view in resolved.own))
    prediction = predictor(paths, resolved.source, resolved.family, "", reporter)
    pairs = lora.attached(meta.models[resolved.family.denoiser])
    changes = {layer: factors for layer, factors in prediction.adapter.items() if layer in pairs}
    if not changes:
        raise BadRecipe(
            f"train.init: {prediction.predictor} changes none of the layers of lora.targets. Set "
            'lora.targets = "all-linear", or remove train.init.'
        )
    if rest := len(prediction.adapter) - len(changes):
        whole, part = (sum(f.norm() ** 2 for f in some.values()) for some in (prediction.adapter, changes))
        reporter.line(
            f"{prediction.predictor}: {rest} of its {len(prediction.adapter)} layers are not in lora.targets "
            f"and stay as they are; those that are have {100 * part / whole:.0f} % of its energy. To train "
            'them all: lora.targets = ["*"].'
        )
    return InitialLora(prediction.predictor, prediction.sha256, {resolved.family.denoiser: changes})


def _fitting(
    resolved: Resolved, meta: Assembled, component: str, adapter: Mapping[str, WeightDelta]
) -> dict[str, WeightDelta]:
    """Layer, as the model names it -> change."""
    name = resolved.recipe.train.init
    if component not in resolved.first_layers:
        raise BadRecipe(
            f"train.init: {name} changes {component}, which this run does not train. Set "
            f'lora.text_encoders = ["{component}"], or name another LoRA.'
        )
    pairs = lora.attached(meta.models[component])
    if unknown := unknown_layers(adapter, pairs):
        raise BadRecipe(
            f"train.init: {len(unknown)} of the {len(adapter)} layers that {name} changes in {component} are "
            f'not trained here, such as {unknown[0]}. Set lora.targets = "all-linear", or name a LoRA of '
            "this base."
        )
    changes = rename_for_model(adapter, pairs)
    for layer, change in changes.items():
        weight = pairs[layer].weight
        if isinstance(change, Dora):
            raise BadRecipe(
                f"train.init: {name} holds a DoRA, which depends on the base's weights. Make a LoRA of it: "
                "limner lora convert FILE --to diffusers --flatten 32 --base BASE"
            )
        if change.shape != (weight.shape[0], weight[0].numel()):
            raise BadRecipe(
                f"train.init: {name} changes {layer} as {change.shape[0]} x {change.shape[1]}, and this base "
                f"has {weight.shape[0]} x {weight[0].numel()}. Name a LoRA of this base."
            )
    return changes


@torch.no_grad()
def _fill(pair: Any, change: WeightDelta) -> tuple[float, float]:
    """Energy of the change before and after it was put into a pair of factors."""
    rank = len(pair.down)
    factors = to_lora(change)
    energy = kept = factors.norm() ** 2
    if factors.rank > rank:
        singular = spectrum(change, rank)
        energy, kept = (values.square().sum().item() for values in (singular.values, singular.values[:rank]))
        factors = singular.cut(rank)
    kernel = tuple(pair.down.shape[2:]) if isinstance(pair, LowRankConv) else ()
    factors = with_kernel(factors, kernel)
    _write(pair, factors)
    return energy, kept


def _write(pair: Any, factors: Factors) -> None:
    down, up = factors.down.flatten(1), factors.up.flatten(1) / pair.scale
    alive = (down != 0).any(1) | (up != 0).any(0)  # a row of which both sides are zero would never learn
    rows = alive.nonzero().flatten().to(pair.down.device)
    pair.down.view(len(pair.down), -1)[rows] = down[alive].to(pair.down.device)
    pair.up.view(len(pair.up), -1)[:, rows] = up[:, alive].to(pair.up.device)
