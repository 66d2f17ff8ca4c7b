"""What a plan keeps off the device, while a model is read: it stays on the host, or goes straight into files.

Without it a model would be on the host as a whole before its parts find their places, and with it all the
codes that are made of its weights, where the host may be what is short of memory.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import nn

from limner.nn.arch import ArchSpec, matching
from limner.nn.memory.host_buffer import HostBuffer, Mapped


class Placement:
    """The parts of a model that are not for the device.

    Args:
        model: Its layers are stored as they will be; its parameters may have no data yet.
        arch: Where its blocks are.
        streamed: Which blocks, counted from 0 in running order, stay on the host.
        hoist: Whether the modulations do.
        folder: Where files go, for want of memory: each part becomes one as soon as it is whole, so that no
            more than that of it is ever in memory. None: the parts stay in memory.
    """

    def __init__(
        self,
        model: nn.Module,
        arch: ArchSpec,
        *,
        streamed: Sequence[int] = (),
        hoist: bool = False,
        folder: Path | None = None,
    ) -> None:
        """See the class."""
        self._modulations = list(matching(model, arch.modulations).values()) if hoist else []
        self._parts: dict[nn.Module, nn.Module] = {layer: layer for layer in self._modulations}
        blocks = list(arch.blocks_of(model).values())
        for block in (blocks[number] for number in streamed):
            for layer in block.modules():
                self._parts.setdefault(layer, block)
        self._host = None if folder is None else Mapped(folder)
        self._missing: Counter[nn.Module] = Counter()

    def __contains__(self, layer: nn.Module) -> bool:
        """Whether a layer's own tensors stay on the host."""
        return layer in self._parts

    def expect(self, layers: Iterable[nn.Module]) -> None:
        """Say of each tensor that will come whose it is."""
        self._missing = Counter(self._parts[layer] for layer in layers if layer in self._parts)

    def took(self, layer: nn.Module) -> None:
        """A tensor of a layer has come.

        Raises:
            DiskFull: Its part is whole, and there is no room for it.
        """
        part = self._parts.get(layer)
        if part is None:
            return
        self._missing[part] -= 1
        if not self._missing[part] and self._host is not None:
            HostBuffer(part, self._host, exclude=() if part in self._modulations else self._modulations)
