"""What is trained, of which each process has a part: whole in a checkpoint, in parts everywhere else."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Parts(ABC):
    """The parts of trained weights that this process has, and the way to whole tensors and back."""

    masters: dict[str, nn.Parameter]
    """What is trained here, by name: the same names in the same order in all processes."""
    shapes: Mapping[str, torch.Size]
    """Of the whole tensors."""

    @abstractmethod
    def gather(self) -> None:
        """Done after each backward pass."""

    @abstractmethod
    def forget(self) -> None:
        """Done before the first pass of a step: what one that failed half way left behind is dropped."""

    def publish(self) -> None:
        """The model computes with the masters' own memory: there is nothing to do."""
        return

    @abstractmethod
    def sum(self, parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
        """Have all gradients summed over processes. The loss of all."""

    @abstractmethod
    def norm(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """The length of the whole gradient, of which each process has a part."""

    @abstractmethod
    def whole(self, name: str, part: Tensor) -> Tensor:
        """A master, or what an optimizer keeps of one, put together on the host of the first process.

        All processes ask for it in the same order. The others get their part back.
        """

    @abstractmethod
    def part(self, name: str, whole: Tensor) -> Tensor:
        """This process's part of a tensor."""

    @property
    def numbers(self) -> int:
        """How many are trained, in all processes."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def whole_weights(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Trained tensors by name, as :meth:`whole` puts them together."""
        return {name: self.whole(name, part) for name, part in parts.items()}

    def part_weights(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The way back. What is of another shape is left to whoever compares names and shapes."""
        return {
            name: self.part(name, tensor) if self.shapes.get(name) == tensor.shape else tensor
            for name, tensor in tensors.items()
        }

    def whole_list(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """One for each master, in their order, as :meth:`whole` puts it together."""
        return [self.whole(name, part) for name, part in zip(self.masters, parts, strict=True)]

    def part_list(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The way back."""
        return list(self.part_weights(dict(zip(self.masters, tensors, strict=True))).values())

    def whole_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """``optimizer.state_dict()`` as that of an optimizer of whole weights. As :meth:`whole`."""
        return self._mapped(optimizer, optimizer.state_dict(), is_whole=False)

    def part_state(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        """The way back: what :meth:`whole_state` gave, for this process's optimizer."""
        return self._mapped(optimizer, state, is_whole=True)

    def _mapped(
        self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any], *, is_whole: bool
    ) -> dict[str, Any]:
        masters = [master for group in optimizer.param_groups for master in group["params"]]
        of_master = {id(master): name for name, master in self.masters.items()}
        names = [of_master[id(master)] for master in masters]
        change = self.part if is_whole else self.whole
        entries: dict[Any, Any] = {}
        for index, entry in sorted(state["state"].items()):
            shape = self.shapes[names[index]] if is_whole else masters[index].shape
            entries[index] = {
                key: change(names[index], value)
                if isinstance(value, Tensor) and value.ndim and value.shape == shape
                else value
                for key, value in entry.items()
            }
        return {**state, "state": entries}
