"""A predictor whose heads are divided between processes: each has those of some layers, and what they learn.

Weights, gradients, the optimizer's state and the average of a head are in the process that owns it; trunk and
encoders are whole everywhere. In a pass every process gets the vectors of all, writes the factors of its own
layers for all of their samples, and sends each process the rows of its samples: an all-to-all each way, and
the same backwards for gradients. A loss is a share of a sum over processes, so what comes to an owner is the
whole gradient, and nothing is left to be summed.

All processes pass as often. The way is that of expert parallelism (GShard: Lepikhin 2020, arXiv:2006.16668),
with layers in place of experts.
"""

from bisect import bisect_left
from collections.abc import Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn

from limner.errors import BadRecipe
from limner.hyper.predictor import PredictorConfig
from limner.hyper.targets import Target
from limner.hyper.train import Experts
from limner.nn.arch import trained_by_name
from limner.nn.distributed import gather, rank, reaching_all, sum_gradients, world
from limner.nn.layers.per_sample import Pairs
from limner.nn.memory.parts import Parts

HEADS = ("static_down.", "static_up.", "down.", "up.")
"""How the names of what a target alone has begin; its number follows."""
INNER = "inner"
"""The first matrices of all heads, two rows for each target."""


def factors_of(targets: Sequence[Target], rank: int) -> int:
    """Numbers of a LoRA."""
    return sum(rank * (target.inputs + target.outputs) for target in targets)


def heads_of(config: PredictorConfig) -> list[int]:
    """Numbers that are trained for each target alone."""
    read = 2 * sum(config.sizes) * config.bottleneck
    return [(config.bottleneck + 1) * factors_of([target], config.rank) + read for target in config.targets]


def sizes_of(experts: Experts) -> dict[str, int]:
    """Numbers trained of all heads, and numbers of the LoRA written for a sample: as a plan counts them."""
    config = experts.learner.config
    if not config.looks:
        return {}
    return {"heads": sum(heads_of(config)), "factors": factors_of(config.targets, config.rank)}


def divided(sizes: Sequence[int], processes: int) -> list[range]:
    """Which of the heads each process has: some in a row, at least one, as equal in size as that allows.

    Raises:
        BadRecipe: There are fewer heads than processes.
    """
    if len(sizes) < processes:
        raise BadRecipe(
            f"The predictor has heads for {len(sizes)} layers, which {processes} processes cannot divide. "
            f'Start at most {len(sizes)}, or set limits.shard = "off".'
        )
    ends = [0, *accumulate(sizes)]
    cuts = [0]
    for process in range(1, processes):
        target = ends[-1] * process / processes
        position = bisect_left(ends, target)
        nearest = position if ends[position] - target < target - ends[position - 1] else position - 1
        cuts.append(min(max(nearest, cuts[-1] + 1), len(sizes) - processes + process))
    return [range(start, end) for start, end in pairwise([*cuts, len(sizes)])]


class HeadShards(Parts):
    """The heads that this process has of a predictor that is trained.

    Args:
        experts: Whole, on the host, what is trained unfrozen. Its own heads stay in it, on the device.
        device: Where it computes.

    Raises:
        BadRecipe: There are fewer heads than processes.
    """

    def __init__(self, experts: Experts, device: torch.device) -> None:
        """See the class."""
        self._learner, config = experts.learner, experts.learner.config
        self._shares = divided(heads_of(config), world())
        self._factors = [
            factors_of([config.targets[number] for number in share], config.rank) for share in self._shares
        ]
        weights = trained_by_name(experts)
        self.shapes = {name: weight.shape for name, weight in weights.items()}
        self._rows = {name: rows for name in weights if (rows := self._rows_of(name))}
        with torch.no_grad():
            for name, weight in weights.items():
                weight.data = self.part(name, weight.data).clone()
        experts.to(device)
        self.masters = trained_by_name(experts)
        self._hits: set[str] = set()
        """Targets whose factors a gradient came to in this step."""
        self._learner.split = self._write

    def _rows_of(self, name: str) -> dict[int, tuple[int, int]]:
        """Process -> first row and the one behind the last that it has of a tensor; none of what all have."""
        own_name = name.removeprefix("learner.")
        if own_name == INNER:
            return {owner: (2 * share.start, 2 * share.stop) for owner, share in enumerate(self._shares)}
        if not own_name.startswith(HEADS):
            return {}
        number = _number(name)
        owner = next(owner for owner, share in enumerate(self._shares) if number in share)
        return {owner: (0, self.shapes[name][0])}

    def _write(self, vectors: Tensor | None, count: int) -> Pairs:
        """What the heads of all processes write of the vectors here. As ``Predictor.write``."""
        counts, process = gather(count), rank()
        if vectors is not None:
            numbers = vectors.shape[1]
            outgoing = vectors.expand(world(), -1, -1).reshape(-1)
            sizes = [numbers * other for other in counts]
            vectors = _exchanged(outgoing, [vectors.numel()] * world(), sizes).view(-1, numbers)
        pairs = self._learner.write(vectors, sum(counts), self._shares[process])
        factors = torch.cat([factor.flatten(1) for pair in pairs.values() for factor in pair], 1)
        out_sizes = [self._factors[process] * other for other in counts]
        in_sizes = [count * numbers for numbers in self._factors]
        parts = _exchanged(factors.flatten(), out_sizes, in_sizes).split(in_sizes)
        return dict(
            entry
            for part, share in zip(parts, self._shares, strict=True)
            for entry in self._pairs(part.view(count, -1), share)
        )

    def _pairs(self, part: Tensor, share: range) -> list[tuple[str, tuple[Tensor, Tensor]]]:
        """(S, numbers) of one process's heads -> name, A (S, rank, in) and B (S, out, rank) of each."""
        config = self._learner.config
        targets, width = [config.targets[number] for number in share], config.rank
        sizes = [width * side for target in targets for side in (target.inputs, target.outputs)]
        columns = iter(part.split(sizes, 1))
        pairs = []
        for target in targets:
            down, up = next(columns), next(columns)
            down, up = down.view(-1, width, target.inputs), up.view(-1, target.outputs, width)
            if down.requires_grad:
                down.register_hook(partial(self._reach, target.name))
            pairs.append((target.name, (down, up)))
        return pairs

    def _reach(self, name: str, gradient: Tensor) -> None:
        del gradient
        self._hits.add(name)

    def gather(self) -> None:
        """Nothing: gradients come to the masters themselves."""

    def forget(self) -> None:
        """See ``Parts.forget``."""
        self._hits.clear()

    @torch.no_grad()
    def sum(self, parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
        """Sum the gradients of what all have. The loss of all processes.

        A head whose layer no gradient comes to in any of them stays without, as in one process. What another
        process owns gets an empty gradient where its owner has one: the optimizers of all have the same
        entries.
        """
        del parameters
        total = sum_gradients([self.masters[name] for name in self.shapes if name not in self._rows], loss)
        names = [target.name for target in self._learner.config.targets]
        flags = [name in self._hits for name in names]
        flags += [self.masters[name].grad is not None for name in self._rows]
        counts = torch.tensor(flags, dtype=torch.float32, device=loss.device)
        with reaching_all():
            distributed.all_reduce(counts)
        hits, learns = counts.split([len(names), len(self._rows)])
        for (name, rows), learning in zip(self._rows.items(), learns.tolist(), strict=True):
            weight, is_shared = self.masters[name], len(rows) > 1
            if not learning or not is_shared and not hits[_number(name)]:
                weight.grad = None
            elif weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        return total

    def norm(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """The length of the whole gradient: what all have counts once."""
        del parameters
        sides = [
            [weight.grad for name, weight in self.masters.items() if (name in self._rows) == is_split]
            for is_split in (False, True)
        ]
        common, square = (
            nn.utils.get_total_norm([grad for grad in side if grad is not None]).square() for side in sides
        )
        square = square.to(common.device)
        with reaching_all():
            distributed.all_reduce(square)
        return (common + square).sqrt()

    def whole(self, name: str, part: Tensor) -> Tensor:
        """As ``Parts.whole``: owner by owner, to the first process."""
        if name not in self._rows:
            return part
        process = rank()
        tensors = []
        for owner, (start, end) in self._rows[name].items():
            if process == owner:
                tensors.append(part)
                if owner:
                    with reaching_all():
                        distributed.send(part.contiguous(), 0)
            elif process == 0:
                tensors.append(part.new_empty(end - start, *self.shapes[name][1:]))
                with reaching_all():
                    distributed.recv(tensors[-1], owner)
        return torch.cat([tensor.cpu() for tensor in tensors]) if process == 0 else part

    def part(self, name: str, whole: Tensor) -> Tensor:
        """This process's rows of a tensor; none of what another owns."""
        if name not in self._rows:
            return whole
        start, end = self._rows[name].get(rank(), (0, 0))
        return whole[start:end]


def _number(name: str) -> int:
    """Of the target whose head alone a tensor is."""
    return int(name.rpartition(".")[2])


class _Exchange(torch.autograd.Function):
    """An all-to-all of flat tensors, whose gradients go back the same way."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, out_sizes: list[int], in_sizes: list[int]) -> Tensor:
        ctx.sizes = in_sizes, out_sizes
        result = tensor.new_empty(sum(in_sizes))
        with reaching_all():
            distributed.all_to_all_single(result, tensor.contiguous(), in_sizes, out_sizes)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Exchange.apply(gradients[0], *ctx.sizes), None, None  # pyright: ignore[reportReturnType]


def _exchanged(tensor: Tensor, out_sizes: list[int], in_sizes: list[int]) -> Tensor:
    """What all processes send to this one, in their order; so many numbers of ``tensor`` go to each."""
    result: Any = _Exchange.apply(tensor, out_sizes, in_sizes)
    return result
