"""The mask of padding that Cosmos-Predict2 reads beside the latent, where torchvision is missing."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import interpolate


def resize_by_torch() -> None:
    """Have diffusers' model resize its mask of padding by torch where torchvision, which it asks, is missing.

    To the nearest pixel, which torchvision leaves to torch as well.
    """
    from diffusers.models.transformers import transformer_cosmos
    from diffusers.utils import is_torchvision_available

    if not is_torchvision_available() and not hasattr(transformer_cosmos, "transforms"):
        transformer_cosmos.transforms = _Transforms  # pyright: ignore[reportAttributeAccessIssue]


class _Transforms:
    """What of ``torchvision.transforms`` the model calls."""

    class InterpolationMode:
        """Its names of ways to resize."""

        NEAREST = "nearest"

    class functional:  # noqa: N801  its name
        """Its functions."""

        @staticmethod
        def resize(image: Tensor, size: Sequence[int], *, interpolation: str) -> Tensor:
            """(B, C, H, W) -> (B, C, *size)."""
            return interpolate(image, list(size), mode=interpolation)
