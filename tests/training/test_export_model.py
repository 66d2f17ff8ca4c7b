"""A full fine-tune from its recipe to a base that stock diffusers opens."""

import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from limner.errors import BadBase, BadCheckpoint, BadUsage, DiskFull, Stopped
from limner.generation.generate import generate
from limner.generation.settings import Settings
from limner.lora.operations import ConvertOptions, extract
from limner.run_folder import RunDir
from limner.runs import train
from limner.training import train as module
from limner.training.export_model import model_steps
from messages import raises
from small import Told, equal, losses, weights, wish

FULL = {"method": "full", "learning_rate": 1e-3}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def full(base, photos, **sections):
    train_ = {**FULL, **sections.pop("train", {})}
    return wish(base, photos, lora={"rank": 16}, train=train_, **sections)


@pytest.fixture(scope="module")
def halved(tiny_base, tmp_path_factory):
    """The tiny base with its denoiser in bf16, as most bases are published."""
    from safetensors.torch import save_file

    base = tmp_path_factory.mktemp("halved") / "base"
    shutil.copytree(tiny_base, base)
    path = base / "transformer" / WEIGHTS
    save_file({name: each.bfloat16() for name, each in load_file(path).items()}, path, {"format": "pt"})
    return base


def test_every_weight_is_trained_and_a_stopped_run_ends_as_a_whole_one(halved, photos, tmp_path, monkeypatch):
    recipe = full(halved, photos, train={"ema": 0.5, "clip": 0.1}, sample={"every": 2, "prompts": ["zorb"]})
    done = train(recipe, tmp_path / "whole", Told())
    assert done.lora is None and done.model == tmp_path / "whole" / "model"
    base = load_file(halved / "transformer" / WEIGHTS)
    state = weights(tmp_path / "whole", 4)
    assert {name.removeprefix("transformer.") for name in state} == set(base)
    still = [name for name, each in base.items() if torch.equal(each.float(), state[f"transformer.{name}"])]
    assert not still, "weights that no gradient reached"

    between = module._between

    def stopping(state, step, *more):
        between(state, step, *more)
        if step == 2:
            raise Stopped("two steps are done")

    planned = module._planned

    def away(*args):
        fallback = planned(*args)
        moved = replace(fallback.plan, optimizer_state="host")
        fallback.run_plan = replace(fallback.run_plan, plan=moved)
        return fallback

    monkeypatch.setattr(module, "_planned", away)  # it begins on the host, and ends on the device
    monkeypatch.setattr(module, "_between", stopping)
    with pytest.raises(Stopped):
        train(recipe, tmp_path / "run", Told())
    monkeypatch.setattr(module, "_planned", planned)
    monkeypatch.setattr(module, "_between", between)
    train(recipe, tmp_path / "run", Told())
    assert equal(weights(tmp_path / "run", 4), state)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    ours, theirs = (load_file(tmp_path / run / "model/transformer" / WEIGHTS) for run in ("run", "whole"))
    assert equal(ours, theirs) and {each.dtype for each in ours.values()} == {torch.bfloat16}


STOCK = """
import sys, torch, diffusers
pipe = diffusers.DiffusionPipeline.from_pretrained(sys.argv[1])
assert "limner" not in sys.modules
print(type(pipe).__name__, sum(p.double().sum().item() for p in pipe.transformer.parameters()))
"""


def test_stock_diffusers_opens_it_limner_paints_with_it_and_takes_a_lora_from_it(halved, photos, tmp_path):
    recipe, run = full(halved, photos, train={"steps": 2}), tmp_path / "run"
    train(recipe, run, Told())
    assert model_steps(RunDir(run)) == 2
    made = load_file(run / "model/transformer" / WEIGHTS)
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STOCK, str(run / "model")], capture_output=True, text=True
    )
    name, total = said.stdout.split()
    assert name == "FluxPipeline"
    assert float(total) == pytest.approx(sum(each.double().sum().item() for each in made.values()), rel=1e-4)

    settings = Settings(steps=1, width=16, height=16)
    painted = generate(
        run, base=None, prompts=["cat"], out=tmp_path / "p", settings=settings, reporter=Told()
    )
    assert painted[0].is_file()
    for more in ({"base": str(halved)}, {"settings": Settings(steps=1, lora_scale=0.5)}):
        with raises(BadUsage):
            given = {"base": None, "settings": settings, **more}
            generate(run, prompts=["cat"], out=tmp_path / "p", reporter=Told(), **given)

    lora = extract(halved, run / "model", 2, tmp_path / "l.safetensors", ConvertOptions(), Told())
    assert lora.modules and lora.path.is_file()


def test_a_run_cannot_become_a_lora_nor_a_lora_whole(tiny_base, photos, tmp_path):
    run = tmp_path / "run"
    train(wish(tiny_base, photos, lora={"rank": 16}, train={"steps": 2}), run, Told())
    with raises(BadCheckpoint):
        train(full(tiny_base, photos), run, Told())


def test_the_disk_must_hold_checkpoints_and_the_model(tiny_base, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(module.TrainState, "require_room", lambda self: None)
    asked = {}

    def short(folder, size, what):
        asked[what.split(", the ")[-1]] = size
        if "model" in what:
            raise DiskFull("full")

    monkeypatch.setattr("limner.training.export_model.require_space", short)
    with pytest.raises(DiskFull):
        train(full(tiny_base, photos, train={"steps": 1, "save_every": 1}), tmp_path / "run", Told())
    assert asked["trained model,"] > (tiny_base / "transformer" / WEIGHTS).stat().st_size
    assert not list((tmp_path / "run").glob(".model*")) and model_steps(RunDir(tmp_path / "run")) is None


def test_weights_that_the_disk_did_not_keep_are_told(tiny_base, photos, tmp_path, monkeypatch):
    def torn(*args, **kwargs):
        from limner.models.layout import write

        paths = write(*args, **kwargs)
        data = bytearray(paths[0].read_bytes())
        data[-1] ^= 1
        paths[0].write_bytes(data)
        return paths

    monkeypatch.setattr("limner.training.export_model.write", torn)
    with raises(BadBase):
        train(full(tiny_base, photos, train={"steps": 1, "save_every": 1}), tmp_path / "run", Told())
