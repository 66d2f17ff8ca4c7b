import pytest
from PIL import Image

from limner.assembly.resolve import resolve
from limner.errors import BadCache
from limner.run_folder import RunDir
from limner.training import samples as module
from limner.training.cache import fill_cache
from limner.training.model import TrainableModel
from limner.training.samples import sample
from small import Told, wish


@pytest.fixture
def trainable_model(tiny_base, photos):
    resolved = resolve(wish(tiny_base, photos, sample={"every": 0, "prompts": ["one", "two"], "steps": 2}))
    return TrainableModel(resolved, fill_cache(resolved, Told())[0])


def test_pictures_of_every_prompt(trainable_model, tmp_path):
    run, told = RunDir(tmp_path), Told()
    for step in (0, 7):
        sample(trainable_model, run, step, told)
    assert {step: sorted(found) for step, found in run.samples().items()} == {0: [0, 1], 7: [0, 1]}
    with Image.open(run.sample_path(7, 1)) as picture:
        assert picture.size == (32, 32)
    assert told.lines == []
    assert not list(tmp_path.rglob(".*")), "no draft is left"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory.\nmore"),
        ValueError(),
        TypeError("x"),
        KeyError("y"),
        OSError("z"),
        BadCache("gone"),
    ],
)
def test_no_failure_ends_the_training(trainable_model, tmp_path, monkeypatch, error):
    def fail(_: int):
        raise error

    monkeypatch.setattr(trainable_model, "sample", fail)
    told = Told()
    sample(trainable_model, RunDir(tmp_path), 3, told)
    (line,) = told.lines
    assert (
        line.startswith("Samples at step 3 failed (")
        and line.endswith("training goes on.")
        and "\n" not in line
    )


def test_a_signal_is_no_failure(trainable_model, tmp_path, monkeypatch):
    def stop(_: int):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainable_model, "sample", stop)
    with pytest.raises(KeyboardInterrupt):
        sample(trainable_model, RunDir(tmp_path), 3, Told())


def test_only_the_first_process_paints(trainable_model, tmp_path, monkeypatch):
    monkeypatch.setattr(module.distributed, "rank", lambda: 1)
    sample(trainable_model, RunDir(tmp_path), 3, Told())
    assert RunDir(tmp_path).samples() == {}
