"""The parts of a model by name: its repeated blocks, what the engine treats specially, and what is trained.

What training changes is made trainable here, kept in a checkpoint, and put back.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limner.errors import BadRecipe, BrokenGraph


@dataclass(frozen=True, kw_only=True)
class ArchSpec:
    """Names of modules, ``*`` standing for anything but a dot. What a family says of its denoiser.

    ``a.*|a.*.b.*`` is one pattern with two ways to fit it.
    """

    blocks: tuple[str, ...]
    """The repeated blocks: patterns in running order, the modules of each by the numbers in their names."""
    modulations: tuple[str, ...] = ()
    """Linear layers that read one vector per image, known before the first block: AdaLN and its kin."""
    conditions: tuple[str, ...] = ()
    """The embedders whose output the modulations read. If one is trained, nothing can be hoisted."""
    tails: tuple[str, ...] = ()
    """The last linear layers of a block, whose output no gradient inside the block reads."""
    depths: tuple[str, ...] = ()
    """Keys of the config that count the blocks of each pattern. Empty: it cannot be made shallower."""
    per_block: tuple[str, ...] = ()
    """Keys of the config that list something for every block, in running order."""
    listed: tuple[str, ...] = ()
    """Keys of the config that list blocks of the first pattern by number, of another sort than the rest."""

    def blocks_of(self, model: nn.Module) -> dict[str, nn.Module]:
        """The repeated blocks by name, in running order."""
        blocks: dict[str, nn.Module] = {}
        for pattern in self.blocks:
            matches = matching(model, (pattern,))
            blocks |= {name: matches[name] for name in sorted(matches, key=_numbers)}
        return blocks


def _numbers(name: str) -> list[int]:
    return [int(part) for part in name.split(".") if part.isdigit()]


def matching(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Module]:
    """Modules whose name fits one of the patterns, in the model's order."""
    fits = [
        re.compile(re.escape(pattern).replace(r"\*", "[^.]+").replace(r"\|", "|")) for pattern in patterns
    ]
    return {name: module for name, module in model.named_modules() if any(f.fullmatch(name) for f in fits)}


def hoistable(model: nn.Module, arch: ArchSpec) -> dict[str, nn.Module]:
    """The modulations whose weights may be away, by name: an adapter may ask more of one than its output."""
    layers = matching(model, arch.modulations)
    return {name: layer for name, layer in layers.items() if not getattr(layer, "reads_weight", False)}


def frozen(layer: nn.Module) -> nn.Module:
    """The frozen layer inside one with an adapter, ours or peft's; any other layer is its own."""
    children = dict(layer.named_children())
    return children.get("base") or children.get("base_layer") or layer


def stand_in(module: Any, run: Callable[..., Any]) -> Callable[[], None]:
    """Have ``run`` called for a module's ``forward``. Gives what undoes it."""
    before = vars(module).get("forward")
    module.forward = run

    def undo() -> None:
        if before is None:
            del module.forward
        else:
            module.forward = before

    return undo


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


def empty(model: nn.Module) -> None:
    """Leave no weight in a model, whoever still holds it: it cannot compute any more."""
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            table.update(dict.fromkeys(table))


def _alike(layers: nn.ModuleList) -> bool:
    second = _form(layers[1])
    return all(_form(layer) == second for layer in list(layers)[2:])


def _form(layer: nn.Module) -> list[object]:
    return [type(layer), *((name, tensor.shape, tensor.dtype) for name, tensor in layer.named_parameters())]


def get_state(weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The numbers of trained weights, which share their memory."""
    return {name: weight.detach() for name, weight in weights.items()}


@torch.no_grad()
def load_state(weights: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]) -> None:
    """Copy what :func:`get_state` gave into weights of the same names and shapes.

    Raises:
        BadRecipe: Names or shapes differ.
    """
    shapes = {name: value.shape for name, value in state.items() if isinstance(value, Tensor)}
    if shapes != {name: weight.shape for name, weight in weights.items()}:
        raise BadRecipe(
            f"The checkpoint trains {len(state)} tensors, this recipe {len(weights)}, or their shapes "
            "differ. Neither the base nor train.method can change within a run, nor can lora.targets, "
            "lora.text_encoders and the ranks of a LoRA; use another --out."
        )
    for name, weight in weights.items():
        weight.copy_(state[name])


def unfreeze(model: nn.Module) -> nn.Module:
    """Have every floating-point parameter of ``model`` trained: fp32 masters, or shapes on meta.

    Raises:
        BrokenGraph: A weight is stored in half precision, where small steps are lost in rounding.
    """
    for name, weight in model.named_parameters():
        if weight.is_floating_point():
            if weight.dtype != torch.float32:
                raise BrokenGraph(
                    f"{name} is {weight.dtype}; what is trained is fp32. Load the model in fp32."
                )
            # mapped files begin anywhere, and products round by how memory is aligned
            weight.data = weight.data.clone()
            weight.requires_grad_()
    return model


def trained_by_name(model: nn.Module) -> dict[str, nn.Parameter]:
    """Everything trained, by its name in the files of the model, in a fixed order."""
    return dict(sorted((name, weight) for name, weight in model.named_parameters() if weight.requires_grad))


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The same without names."""
    return list(trained_by_name(model).values())
