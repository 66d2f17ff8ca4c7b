"""Numbers of the host brought to the device, beside what it computes."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on ``device``, whose work under way is not waited for.

    A GPU's driver reads locked memory by itself. Of ordinary memory torch waits for the copy, and so for all
    that was asked of the GPU before: a micro-batch would not be prepared until the one before it is done.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)  # torch keeps the room until it is there
