import torch
from torch import Tensor, nn

from limner.nn.arch import ArchSpec
from limner.nn.layers import lora
from limner.planning.trace import Machine, again, plain, trace

FINE = Machine(granule=1)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.modulation = nn.Linear(8, 8)
        self.inner = nn.Linear(8, 64)
        self.outer = nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(self.inner(x).sin()) * self.modulation(x[:1])


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.table = [torch.ones(50)]

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def make() -> Model:
    with torch.device("meta"):
        model = Model()
    lora.attach(model, [f"blocks.{n}.inner" for n in range(3)], rank=2, alpha=2, dropout=0.0, seed=0)
    return model


def run(model: Model, *, rows: int = 100, checkpointed: int = 0):
    blocks = {f"blocks.{n}": block for n, block in enumerate(model.blocks)}
    with again(list(model.blocks)[:checkpointed]):
        return trace(
            lambda: model(torch.empty(rows, 8, device="meta")).square().mean(),
            {"denoiser": model},
            blocks,
            arch=ArchSpec(blocks=("blocks.*",), modulations=("blocks.*.modulation",)),
            state=777,
            machine=FINE,
        )


def test_what_lives_before_the_step_is_told_apart() -> None:
    causes = run(make()).causes
    assert causes["modulations"] == 3 * 4 * (8 * 8 + 8)
    assert causes["adapter"] == 3 * 4 * 2 * (8 + 64)
    assert causes["optimizer"] == 777
    assert causes["weights"] == 3 * 4 * (8 * 64 * 2 + 72) + 200, "a plain tensor counts"


def test_segments_follow_the_blocks_there_and_back() -> None:
    seen = run(make())
    assert list(seen.of("forward")) == ["blocks.0", "blocks.1", "blocks.2"]
    assert list(seen.of("backward")) == ["blocks.2", "blocks.1", "blocks.0"]
    starts = [each.start for each in seen.of("forward").values()]
    assert starts[0] < starts[1] < starts[2] < seen.saved
    assert all(each.gemm > 2 * 100 * 8 * 64 * 2 for each in seen.of("forward").values())


def test_checkpoints_keep_less_and_compute_more() -> None:
    whole, part, none = (run(make(), checkpointed=count) for count in (3, 2, 0))
    assert whole.saved < part.saved < none.saved
    assert whole.peak < none.peak
    work = [sum(each.gemm for each in seen.segments) for seen in (whole, none)]
    assert work[0] > work[1]


def test_a_trace_leaves_nothing_behind() -> None:
    model = make()
    first, second = run(model), run(model)
    assert first.peak == second.peak
    assert all(parameter.grad is None for parameter in model.parameters())
    assert first.events[-1] == second.events[-1]


def test_memory_grows_in_a_line_with_the_rows() -> None:
    peaks = [run(make(), rows=rows).peak for rows in (100, 200, 300)]
    assert peaks[2] - peaks[1] == peaks[1] - peaks[0] > 0


def test_plain_tensors_are_found_in_lists_and_dicts() -> None:
    module = nn.Linear(1, 1)
    module.one, module.some, module.named = torch.ones(1), [torch.ones(2), 3], {"a": torch.ones(3)}
    assert [each.numel() for each in plain(module)] == [1, 2, 3]
