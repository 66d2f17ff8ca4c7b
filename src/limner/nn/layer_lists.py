"""Models that are mostly one list of layers which are alike: where the list is, and what it weighs."""

from collections.abc import Iterable

from torch import Tensor, nn


def lists(model: nn.Module, *, least: int = 2) -> dict[str, nn.ModuleList]:
    """The lists of layers that are alike from the second one on, by name; none inside another.

    Args:
        model: Any.
        least: Lists of fewer layers are passed over.
    """
    groups: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        is_nested = any(name.startswith(f"{outer}.") for outer in groups)
        if isinstance(module, nn.ModuleList) and len(module) >= least and not is_nested and _alike(module):
            groups[name] = module
    return groups


def heaviest(model: nn.Module) -> str | None:
    """The list that holds at least half of a model's weights, by name, if there is one."""
    whole = sum(tensor.numel() for tensor in model.parameters())
    sizes = {
        name: sum(tensor.numel() for tensor in layers.parameters()) for name, layers in lists(model).items()
    }
    name = max(sizes, key=lambda key: sizes[key], default=None)
    return name if name is not None and 2 * sizes[name] >= whole else None


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, each counted once."""
    return sum(
        tensor.numel() * tensor.element_size()
        for tensor in {id(tensor): tensor for tensor in tensors}.values()
    )


def _alike(layers: nn.ModuleList) -> bool:
    second = _form(layers[1])
    return all(_form(layer) == second for layer in list(layers)[2:])


def _form(layer: nn.Module) -> list[object]:
    return [type(layer), *((name, tensor.shape, tensor.dtype) for name, tensor in layer.named_parameters())]
