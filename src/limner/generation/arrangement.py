"""The models of a stock pipeline where a plan has them: on the device, or taking turns there."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from limner.models.family import Family
from limner.nn.arch import bytes_of, heaviest
from limner.nn.memory.engine import tile_vae
from limner.nn.memory.turns import Turns
from limner.planning.generation import GenerationPlan

HOST = torch.device("cpu")


class Arrangement:
    """Where the models of a pipeline are.

    Args:
        pipe: A stock pipeline, on the host.
        family: Its family.
        device: Where it computes.
        pinned_bytes: Most memory of the host that may be locked.
    """

    def __init__(self, pipe: Any, family: Family, device: torch.device, pinned_bytes: int) -> None:
        """See the class."""
        self.plan: GenerationPlan | None = None
        """What is followed; None: all models are on the host."""
        self._pipe, self._family, self._device = pipe, family, device
        self._pinned_bytes = pinned_bytes
        self._turns: Turns | None = None

    def follow(self, plan: GenerationPlan) -> None:
        """Have the models where a plan has them.

        Raises:
            OutOfMemoryError: There is no room; they are on the host again.
        """
        if plan == self.plan:
            return
        self.close()
        tile_vae(self._pipe.vae, on=plan.decode_tiled)
        if plan.model_offload:
            self._turns = self._taking_turns(plan)
        else:
            self._move(self._device)
        self.plan = plan

    def settle(self) -> None:
        """Have adapters that were just loaded where their models are."""
        if self._turns is None:
            self._move(self._device)

    def rest(self) -> None:
        """Where models take turns: have none on the device."""
        if self._turns is not None:
            self._turns.rest()

    def close(self) -> None:
        """Have all models on the host."""
        self.plan = None
        if self._turns is not None:
            self._turns.close()
            self._turns = None
        self._move(HOST)

    def empty(self) -> None:
        """Leave no weight in memory, whoever still holds a model; none can be used afterwards.

        Garbage that was alive at a late import is never collected (``limner.imports``): to let go is not
        enough.
        """
        self.plan = None
        if self._turns is not None:
            self._turns.close()
            self._turns = None
        self._move(torch.device("meta"))

    @property
    def _models(self) -> dict[str, nn.Module]:
        return {name: item for name, item in self._pipe.components.items() if isinstance(item, nn.Module)}

    def _move(self, device: torch.device) -> None:
        for model in self._models.values():
            model.to(device)

    def _taking_turns(self, plan: GenerationPlan) -> Turns:
        models = self._models
        count = plan.swapped_blocks
        blocks_by_model: dict[nn.Module, Sequence[nn.Module]] = {}
        for part in self._family.denoisers:
            blocks = [*self._family.arch.blocks_of(models[part]).values()]
            blocks_by_model[models[part]] = [
                blocks[number * len(blocks) // count] for number in range(min(count, len(blocks)))
            ]
        for name, model in models.items() if plan.layerwise_encoders else ():
            layers = heaviest(model) if name.startswith("text_encoder") else None
            if layers is not None:
                blocks_by_model[model] = [*model.get_submodule(layers).children()]
        size = bytes_of(
            weight for group in blocks_by_model.values() for block in group for weight in block.parameters()
        )
        return Turns(models.values(), self._device, blocks_by_model, pinned=size <= self._pinned_bytes)
