"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) on a frozen model: where peft puts them."""

import fnmatch
import re
from collections.abc import Sequence

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from limner.errors import BadRecipe
from limner.nn.dropout import PlacedDropout, Places

NAME = "default"


def matching(
    model: nn.Module, endings: Sequence[str], *, layers: str = "", since: int = 0, until: int | None = None
) -> list[str]:
    """Names of the linear layers that end in one of ``endings``.

    Args:
        model: The model.
        endings: Endings at a dot, such as ``attn.to_q``; ``*`` stands for anything.
        layers: Path of the model's list of layers, needed for ``since`` and ``until``.
        since: Index of the first layer to train; modules below it, or outside the list, are left out.
        until: Index of the first layer that never runs; modules from it on are left out. None: all run.

    Raises:
        BadRecipe: An ending matches nothing.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    chosen: set[str] = set()
    for ending in endings:
        found = [n for n in linear if fnmatch.fnmatchcase(n, ending) or fnmatch.fnmatchcase(n, f"*.{ending}")]
        if not found:
            known = ", ".join(sorted({_tail(name) for name in linear}))
            raise BadRecipe(f"lora.targets: no linear layer ends in {ending!r}. Endings here: {known}.")
        chosen.update(found)
    places = {n: int(n[len(layers) + 1 :].split(".")[0]) for n in chosen if n.startswith(f"{layers}.")}
    if since:
        chosen = {n for n, layer in places.items() if layer >= since}
    return sorted(n for n in chosen if until is None or places.get(n, -1) < until)


def _tail(name: str) -> str:
    """What is left of a name behind the index of its layer: an ending that matches it in every layer."""
    return re.split(r"\.\d+\.", name, maxsplit=1)[-1]


def attach(
    model: nn.Module,
    names: Sequence[str],
    *,
    rank: int,
    alpha: float,
    dropout: float,
    seed: int,
    places: Places | None = None,
) -> nn.Module:
    """Freeze ``model`` and put a LoRA on each named linear layer: y = W x + (alpha / rank) U (D x).

    D is drawn from ``seed`` on the CPU, U is zero, so step 0 is the base model. Factors are fp32 masters.
    Dropout is off until :func:`dropping` switches it on; its masks depend on ``places``, which the caller
    keeps up to date (``nn.dropout``).
    """
    model.requires_grad_(requires_grad=False)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]  peft divides, any number will do
        lora_dropout=dropout,
        target_modules=list(names),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, adapter_name=NAME)
    for parameter in trained(model):
        parameter.data = parameter.data.float()
    for name, module in model.named_modules() if dropout else ():
        if isinstance(module, LoraLayer):
            module.lora_dropout[NAME] = PlacedDropout(dropout, name, [] if places is None else places)
    dropping(model, on=False)
    return model


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The factors, in a fixed order."""
    return [p for _, p in sorted(model.named_parameters()) if p.requires_grad]


def named_state(model: nn.Module) -> dict[str, Tensor]:
    """Everything that training changes, by parameter name: for checkpoints."""
    return {name: p.detach() for name, p in sorted(model.named_parameters()) if p.requires_grad}


@torch.no_grad()
def restore(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put back what :func:`named_state` gave; names and shapes must be the same."""
    mine = {name: p for name, p in model.named_parameters() if p.requires_grad}
    shapes = {name: value.shape for name, value in state.items() if isinstance(value, Tensor)}
    if shapes != {name: parameter.shape for name, parameter in mine.items()}:
        raise BadRecipe(
            f"The checkpoint trains {len(state)} tensors, this recipe {len(mine)}, or their shapes differ. "
            "lora.rank, lora.targets and lora.text_encoders cannot change within a run; use another --out."
        )
    for name, parameter in mine.items():
        parameter.copy_(state[name])


def dropping(model: nn.Module, *, on: bool) -> None:
    """Switch the adapters' own dropout; the frozen model's stays off, or T5 would be trained with noise."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.lora_dropout.train(on)
