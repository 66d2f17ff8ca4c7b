import shutil
from pathlib import Path

import pytest
import torch

from limner.errors import BadBase
from limner.hyper.predictor import FILE, Predictor
from limner.hyper.targets import targets_of
from limner.models.loading import skeleton
from limner.models.registry import family_of
from limner.models.source import locate
from limner.reporter import Reporter
from limner.training.predictor_eval import EvalOptions, evaluate_predictor, variance_ratio
from messages import raises
from style_folders import style_folders


@pytest.fixture(scope="module")
def styles(tmp_path_factory) -> Path:
    return style_folders(tmp_path_factory.mktemp("data") / "styles", 3, 3)


@pytest.fixture(scope="module")
def predictor(tiny_base, tmp_path_factory) -> Path:
    """One whose heads have moved, for two layers."""
    from limner.hyper.predictor import PredictorConfig

    family = family_of("FluxPipeline")
    source = locate(str(tiny_base), folders={})
    denoiser = skeleton(family, source, "transformer", dtype=torch.float32)
    targets = targets_of(denoiser, ["attn.to_q", "attn.to_k"])
    torch.manual_seed(0)
    net = Predictor(PredictorConfig(base="tiny", targets=targets, rank=2, width=16, bottleneck=4, side=32))
    for up in net.up:
        up.data += torch.randn(up.shape)
    folder = tmp_path_factory.mktemp("predictor")
    net.save(folder / FILE, {})
    return folder


def test_figures_of_a_predictor(tiny_base, styles, predictor):
    told = Reporter()
    options = EvalOptions(base=str(tiny_base), styles=styles, references=1)
    report = evaluate_predictor(predictor, options, told)
    assert (
        report.styles == 3
        and report.images == 6
        and set(report.by_style) == {p.name for p in styles.iterdir()}
    )
    assert report.gain == pytest.approx(report.base_loss - report.loss, abs=1e-6)
    assert report.gain_interval[0] <= report.gain <= report.gain_interval[1]
    assert report.shuffle_gap is not None and report.best_of_own.endswith(" of 3")
    assert 0 < (report.variance_ratio or 0) < 1 and len(report.lines()) == 2
    again = evaluate_predictor(predictor, options, told)
    assert again == report


def test_the_same_predictor_twice_is_twice_the_lora(tiny_base, styles, predictor):
    one = EvalOptions(base=str(tiny_base), styles=styles)
    two = EvalOptions(base=str(tiny_base), styles=styles, experts=(predictor,))
    first, second = (evaluate_predictor(predictor, options, Reporter()) for options in (one, two))
    assert first.base_loss == second.base_loss and first.loss != second.loss
    assert first.variance_ratio == pytest.approx(second.variance_ratio)


def test_one_style_has_no_other_to_be_compared_with(tiny_base, styles, predictor, tmp_path):
    shutil.copytree(styles / "style-0", tmp_path / "one" / "style-0")
    options = EvalOptions(base=str(tiny_base), styles=tmp_path / "one")
    report = evaluate_predictor(predictor, options, Reporter())
    assert report.shuffle_gap is None and report.variance_ratio is None and len(report.lines()) == 1


def test_the_variance_ratio_is_that_of_the_dense_changes():
    draw = torch.Generator().manual_seed(0)
    pairs = [
        {name: (torch.randn(1, 2, 5, generator=draw), torch.randn(1, 6, 2, generator=draw)) for name in "ab"}
        for _ in range(3)
    ]
    dense = torch.stack([torch.cat([p[n][1][0] @ p[n][0][0] for n in "ab"]) for p in pairs])
    wanted = (dense - dense.mean(0)).square().sum() / dense.square().sum()
    assert variance_ratio(pairs) == pytest.approx(float(wanted), rel=1e-5)
    assert variance_ratio([pairs[0]] * 3) == pytest.approx(0, abs=1e-6)


def test_a_damaged_predictor_is_told(tiny_base, styles, tmp_path):
    (tmp_path / FILE).write_bytes(b"torn")
    with raises(BadBase):
        evaluate_predictor(tmp_path, EvalOptions(base=str(tiny_base), styles=styles), Reporter())
