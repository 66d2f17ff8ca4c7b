"""Law: an imported recipe trains the layers that its trainer does, at the same ranks, or says what differs.

``benchmarks/robustness/imported_targets.py`` compares every pair of a trainer and a base at true size.
"""

from pathlib import Path
from typing import Any

import pytest
from benchmarks.robustness.imported_targets import CASES, compared, read

from limner.models.bundled import known
from limner.planning.representative import Shallow

DEPTHS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen-image": ("transformer", {"num_layers": 1}),
    "z-image": ("transformer", {"n_layers": 1, "n_refiner_layers": 1}),
    "flux2-klein-4b": ("transformer", {"num_layers": 1, "num_single_layers": 1}),
    "flux-dev": ("transformer", {"num_layers": 1, "num_single_layers": 1}),
    "flux-kontext": ("transformer", {"num_layers": 1, "num_single_layers": 1}),
    "chroma1-hd": ("transformer", {"num_layers": 1, "num_single_layers": 1}),
    "sd35-medium": ("transformer", {"num_layers": 2, "dual_attention_layers": [0]}),
}
NAMES = [
    name
    for name, case in CASES.items()
    if case.base in DEPTHS and name not in ("ai-toolkit flux, named layers", "DiffSynth-Studio flux2")
]


@pytest.mark.parametrize("name", NAMES)
def test_layers_their_ranks_and_numbers_are_those_of_the_trainer(tmp_path: Path, name: str):
    case = CASES[name]
    source = known(case.base)
    part, changes = DEPTHS[case.base]
    shallow = Shallow(root=source.root, name=source.name, whole=source, part=part, changes=changes)
    result = compared(case, read(case, tmp_path), shallow)
    assert result.equal, result


def test_a_layer_too_many_or_another_rank_would_be_told_apart(tmp_path: Path):
    case, other = CASES["ai-toolkit z-image"], CASES["musubi-tuner z-image"]
    source = known("z-image")
    shallow = Shallow(
        root=source.root, name=source.name, whole=source, part="transformer", changes=DEPTHS["z-image"][1]
    )
    result = compared(case, read(other, tmp_path), shallow)
    assert not result.equal and result.missing and not result.extra
