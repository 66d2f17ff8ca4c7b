"""Models that are mostly one list of layers which are alike: where the list is, and what it weighs."""

from collections.abc import Iterable

from torch import Tensor, nn


def lists(model: nn.Module, *, least: int = 2) -> dict[str, nn.ModuleList]:
    """The lists of layers that are alike from the second one on, by name; none inside another.

    Args:
        model: Any.
        least: Lists of fewer layers are passed over.
    """
    found: dict[str, nn.ModuleList] = {}
    for name, each in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(each, nn.ModuleList) and len(each) >= least and not inside and _alike(each):
            found[name] = each
    return found


def heaviest(model: nn.Module) -> str | None:
    """The list that holds at least half of a model's weights, by name, if there is one."""
    whole = sum(each.numel() for each in model.parameters())
    sizes = {name: sum(each.numel() for each in layers.parameters()) for name, layers in lists(model).items()}
    name = max(sizes, key=lambda each: sizes[each], default=None)
    return name if name is not None and 2 * sizes[name] >= whole else None


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, each counted once."""
    return sum(each.numel() * each.element_size() for each in {id(each): each for each in tensors}.values())


def _alike(layers: nn.ModuleList) -> bool:
    second = _form(layers[1])
    return all(_form(layer) == second for layer in list(layers)[2:])


def _form(layer: nn.Module) -> list[object]:
    return [type(layer), *((name, each.shape, each.dtype) for name, each in layer.named_parameters())]
