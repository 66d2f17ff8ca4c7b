"""A denoiser whose weights are split over the processes of a run: FSDP2 of torch, block by block.

Each process keeps its part of every weight and has a block whole while that computes (Zhao 2023, PyTorch
FSDP, arXiv 2304.11277). Frozen weights are gathered twice for each micro-batch, forward and backward;
adapters stand whole in every process, and their gradients are summed as ever. Where the weights themselves
are trained, masters, gradients and the optimizer's state are parts too; gradients are summed as they come.

Gathering is done by all processes together, so all of them run the same number of passes.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from limner.errors import BadRecipe
from limner.nn.arch import ArchSpec, trained_by_name
from limner.nn.distributed import rank, reaching_all, world
from limner.nn.memory.parts import Parts


class Sharding(Parts):
    """The parts that this process has of a denoiser, and the way to whole tensors and back.

    Args:
        model: On the host or on the device, whole, with what is trained attached.
        arch: Where its blocks are.
        device: Where it computes; parts and, while they compute, whole blocks are there.
        is_trained: Whether its own weights are trained, so that those outside its blocks are split too.

    Raises:
        BadRecipe: This torch is too old.
    """

    def __init__(self, model: nn.Module, arch: ArchSpec, device: torch.device, *, is_trained: bool) -> None:
        """See the class."""
        if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
            raise BadRecipe(
                f"Weights are split by FSDP2 as torch 2.9 has it; this is torch {torch.__version__}. Update "
                'torch, or set limits.shard = "off".'
            )
        self._mesh = init_device_mesh(device.type, (world(),))
        blocks = list(arch.blocks_of(model).values())
        weights = set(model.parameters())
        whole = set() if is_trained else {weight for weight in weights if weight.requires_grad}
        if not is_trained:
            inside = {weight for block in blocks for weight in block.parameters()}
            outside = weights - inside
        else:
            outside = set()
        for block in blocks:
            self._split(block, whole)
        self._split(model, whole | outside)
        self._split_weights = trained_by_name(model) if is_trained else {}
        self.masters = {name: nn.Parameter(_part(weight)) for name, weight in self._split_weights.items()}
        """What is trained, in parts that share the memory of those of the model; none beside a LoRA."""
        self.shapes = {name: weight.shape for name, weight in self._split_weights.items()}

    def _split(self, module: nn.Module, whole: set[nn.Parameter]) -> None:
        module.register_forward_hook(_without_views)  # ahead of torch's own, which is lost on a view
        fully_shard(module, mesh=self._mesh, reshard_after_forward=True, ignored_params=whole)
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)  # losses are shares of a sum
        module.set_force_sum_reduction_for_comms(True)  # gloo scales none

    @torch.no_grad()
    def gather(self) -> None:
        """Add the gradients of a backward pass, which torch has summed over processes, to the masters'."""
        for name, weight in self._split_weights.items():
            if weight.grad is None:
                continue
            gradient, weight.grad = _part(weight.grad), None
            master = self.masters[name]
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)

    def forget(self) -> None:
        """Drop the gradients of a pass that failed half way."""
        for weight in self._split_weights.values():
            weight.grad = None

    def sum(self, parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
        """The loss of all processes; gradients are summed already. As ``distributed.sum_gradients``."""
        del parameters
        total = loss.detach().clone()
        with reaching_all():
            distributed.all_reduce(total)
        return total

    def norm(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """The length of the whole gradient, of which each process has a part."""
        gradients = [weight.grad for weight in parameters if weight.grad is not None]
        square = nn.utils.get_total_norm(gradients).square()
        with reaching_all():
            distributed.all_reduce(square)
        return square.sqrt()

    def whole(self, name: str, part: Tensor) -> Tensor:
        """A master, or what an optimizer keeps of one, put together on the host of the first process.

        All processes ask for it in the same order. The others get their part back.
        """
        shape = self.shapes[name]
        rows = -(-shape[0] // world())
        padded = part.new_zeros(rows, *shape[1:])
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in range(world())] if rank() == 0 else None
        with reaching_all():
            distributed.gather(padded, parts)
        return torch.cat([entry.cpu() for entry in parts])[: shape[0]] if parts else part

    def part(self, name: str, whole: Tensor) -> Tensor:
        """This process's part of a tensor."""
        rows = -(-self.shapes[name][0] // world())
        return whole[rank() * rows : (rank() + 1) * rows]


def _without_views(module: nn.Module, args: Any, outputs: Any) -> Any:
    """What a block gives, in memory of its own: torch gathers the block again when its gradient is due."""
    del module, args
    if isinstance(outputs, tuple):
        return tuple(_without_views(nn.Identity(), (), output) for output in outputs)
    return outputs.clone() if isinstance(outputs, Tensor) and outputs._is_view() else outputs


def _part(weight: Any) -> Tensor:
    return weight.detach().to_local()
