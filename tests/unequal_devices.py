"""``limner`` as one of several processes, the last of which has a slow device of half the memory."""

import os
from dataclasses import replace
from typing import Any

from limner.cli import main
from limner.planning import run_plan
from limner.planning.devices import Device
from limner.planning.local_device import device_for


def unequal_device(*arguments: Any, **options: Any) -> Device:
    """This machine, or for the last process one that starts its kernels in ten times as long."""
    device = device_for(*arguments, **options)
    if int(os.environ["RANK"]) < int(os.environ["WORLD_SIZE"]) - 1:
        return device
    rates = replace(device.rates, launch=10 * device.rates.launch)
    return replace(device, name="slow", free=device.free // 2, rates=rates)


if __name__ == "__main__":
    run_plan.device_for = unequal_device
    main()
