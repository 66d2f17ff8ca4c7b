"""Keeps a pipeline, planned for the card that is there; where memory runs out, by a stronger plan."""

import gc
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch

from limner.assembly.base import ResolvedBase
from limner.assembly.resolve import device_of
from limner.errors import DoesNotFit, first_line
from limner.generation.arrangement import Arrangement
from limner.generation.pipeline import drop_adapters, on_host
from limner.lora import diffusers_loader
from limner.models.family import SamplingParams
from limner.planning.choice import budget
from limner.planning.generation import (
    RESIDENT,
    GenerationProfile,
    choose,
    generation_profile,
    line,
    stronger,
    words,
)
from limner.planning.local_device import device_for

Result = TypeVar("Result")


class PipelineKeeper:
    """Keeps the last pipeline: the same base with other LoRAs is not read from the disk again.

    On a GPU, what generating takes is predicted, and models are kept off the card where they do not all fit.

    Args:
        tell: Hears of the plan, in a line.
    """

    def __init__(self, tell: Callable[[str], None] = lambda line: None) -> None:
        """See the class."""
        self.tell = tell
        self._arrangement: Arrangement | None = None
        self._profile: GenerationProfile | None = None
        self._plan = RESIDENT
        self._pipe: Any = None
        self._base: Any = None
        self._pixels = 0
        self._adapters: dict[str, Any] = {}

    def open(
        self,
        base: ResolvedBase,
        loras: Mapping[str, Path] = MappingProxyType({}),
        overrides: Mapping[str, Any] | None = None,
        *,
        params: SamplingParams,
    ) -> Any:
        """The stock pipeline of a base with LoRAs in it.

        Args:
            base: The base.
            loras: Name of an adapter -> its file. What they do adds up.
            overrides: Settings of the sampler, over those of its config.
            params: Of the largest image that is wanted.

        Raises:
            BadBase: The base cannot be loaded.
            BadLora: A LoRA cannot be; nothing is kept then.
            DoesNotFit: Memory runs out however little is on the device.
        """
        key, pixels = (base.source.root, str(sorted((overrides or {}).items()))), params.width * params.height
        if self._pipe is None or self._base != key or pixels > self._pixels:
            self.release()
            self._read(base, loras, overrides, params)
            self._base, self._pixels = key, pixels
        adapters = {
            name: (path, path.stat().st_mtime_ns, path.stat().st_size) for name, path in loras.items()
        }
        stale = [name for name, adapter in self._adapters.items() if adapters.get(name) != adapter]
        drop_adapters(self._pipe, stale)
        self._adapters = {name: item for name, item in self._adapters.items() if name not in stale}
        with ExitStack() as unless_done:
            unless_done.callback(self.release)  # some layers may have the adapter by then, and others not
            for name in sorted(adapters.keys() - self._adapters.keys()):
                self.computed(lambda name=name: self._load(name, loras[name]))
                self._adapters[name] = adapters[name]
            unless_done.pop_all()
        return self._pipe

    def computed(self, work: Callable[[], Result]) -> Result:
        """What some work with the pipeline gives; where memory runs out, it is done again by a stronger plan.

        Raises:
            DoesNotFit: Memory runs out however little is on the device.
        """
        arrangement = self._arrangement
        assert arrangement is not None
        while True:
            try:
                arrangement.follow(self._plan)
                return work()
            except torch.OutOfMemoryError as error:
                reason = first_line(error)
            finally:
                arrangement.rest()
            self._fall(reason)  # out here, where nothing holds what the work had made

    def release(self) -> bool:
        """Give the memory back; whether there was something to give."""
        was_loaded = self._pipe is not None
        if self._arrangement is not None and was_loaded:
            self._arrangement.rest()
            self._arrangement.empty()
        self._pipe, self._base, self._arrangement, self._adapters = None, None, None, {}
        _give_back()
        return was_loaded

    def _read(
        self,
        base: ResolvedBase,
        loras: Mapping[str, Path],
        overrides: Mapping[str, Any] | None,
        params: SamplingParams,
    ) -> None:
        """Make a plan, and load the base."""
        device, pinned_bytes = device_of("auto"), 0
        self._profile, self._plan = None, RESIDENT
        if device.type == "cuda":
            card = device_for(base.recipe.limits)
            size = sum(path.stat().st_size for path in loras.values())
            self._profile = profile = generation_profile(base.spec, params, size)
            self._plan, pinned_bytes = choose(profile, budget(card)), card.pinned
            self.tell(line(profile, self._plan, card, params))
        self._pipe = on_host(base.family, base.source, overrides)
        self._arrangement = Arrangement(self._pipe, base.family, device, pinned_bytes)

    def _load(self, name: str, path: Path) -> None:
        assert self._arrangement is not None
        try:
            diffusers_loader.load(self._pipe, path, name)
            self._arrangement.settle()
        except torch.OutOfMemoryError:
            drop_adapters(self._pipe, [name])
            raise

    def _fall(self, reason: str) -> None:
        """Take the next stronger plan."""
        new = stronger(self._profile, self._plan) if self._profile else None
        if self._profile is None or new is None:
            self.release()
            raise DoesNotFit(
                f"The device has no memory left ({reason}), and no way of generating takes less. Generate "
                "smaller images, or stop what else uses it."
            )
        assert self._arrangement is not None
        self._arrangement.close()
        _give_back()
        self._plan = new
        self.tell(f"Out of memory. Going on with {words(new, len(self._profile.blocks))}.")


def _give_back() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
