import shutil
import subprocess
import sys
from dataclasses import replace
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file

from limner.assembly.resolve import resolve
from limner.errors import BadBase, BadCheckpoint, BadLora, BadRecipe, BadUsage, DiskFull, Stopped
from limner.generation.settings import Settings
from limner.lora import diffusers_loader, file
from limner.lora.operations import ConvertOptions, extract
from limner.recipe.schema import Recipe
from limner.recipe.toml import change
from limner.recipe.train import Train
from limner.run_folder import RunDir
from limner.runs import train
from limner.training import export as module
from limner.training import train as trainer
from limner.training.cache import fill_cache as fill
from limner.training.export import OUTPUTS, about, export, exported_steps, model_steps, output_of
from limner.training.model import TrainableModel
from messages import raises
from small import Told, equal, generated, losses, weights, wish
from tiny import save_sdxl


def trainable_model(base, photos, **sections) -> TrainableModel:
    resolved = resolve(wish(base, photos, **sections))
    made = TrainableModel(resolved, fill(resolved, Told())[0])
    for number, factor in enumerate(made.parameters):
        torch.nn.init.normal_(factor, generator=torch.Generator().manual_seed(number))
    return made


def test_the_file_holds_what_was_trained(tiny_base, photos, tmp_path):
    one, run, told = (
        trainable_model(tiny_base, photos, data={"trigger": "zorb"}, lora={"alpha": 1.0}),
        RunDir(tmp_path / "run"),
        Told(),
    )
    assert export(one, run, told) == run.lora_path
    found, wanted = file.read(run.lora_path).components, one.adapters()
    assert found.keys() == wanted.keys() == {"transformer"}
    for name, factors in wanted["transformer"].items():
        assert torch.equal(found["transformer"][name].up, factors.up)
        assert torch.equal(found["transformer"][name].down, factors.down)
    assert told.lines == []
    assert [path.name for path in run.path.iterdir()] == ["lora.safetensors"], "no draft is left"


def test_the_metadata_says_what_a_person_needs_and_no_path(tiny_base, photos, tmp_path):
    one, run = (
        trainable_model(tiny_base, photos, data={"trigger": "zorb"}, seed=5, name="My Zorb"),
        RunDir(tmp_path / "run"),
    )
    export(one, run, Told())
    said = file.read(run.lora_path).metadata
    assert said["modelspec.title"] == "My Zorb" and said["modelspec.architecture"] == "flux-1-schnell/lora"
    assert said["ss_steps"] == "4" and said["modelspec.trigger_phrase"] == "zorb"
    assert not any(
        str(place) in value for value in said.values() for place in (tiny_base.parent, photos, tmp_path)
    )
    assert not any("thing number" in value for value in said.values())
    described = about(one.resolved, 4)
    assert (described.base, described.seed, described.resolution) == ("tiny-flux", 5, (32, 32))


def test_a_trained_text_encoder_is_in_the_file_and_told(tiny_base, photos, tmp_path):
    one, told = (
        trainable_model(tiny_base, photos, lora={"text_encoders": ["text_encoder", "text_encoder_2"]}),
        Told(),
    )
    export(one, RunDir(tmp_path / "run"), told)
    assert set(file.read(tmp_path / "run" / "lora.safetensors").components) == {
        "transformer",
        "text_encoder",
        "text_encoder_2",
    }
    assert "passes over the" in told.text and "text_encoder_2" in told.text


def test_a_file_that_stock_would_read_otherwise_never_takes_its_place(
    tiny_base, photos, tmp_path, monkeypatch
):
    one, run = trainable_model(tiny_base, photos), RunDir(tmp_path / "run")
    run.path.mkdir()
    run.lora_path.write_bytes(b"the one before")

    def refuse(*_):
        raise BadLora("other modules")

    monkeypatch.setattr(module.diffusers_loader, "verify", refuse)
    with raises(BadLora):
        export(one, run, Told())
    assert run.lora_path.read_bytes() == b"the one before"
    assert [path.name for path in run.path.iterdir()] == ["lora.safetensors"]
    assert module.diffusers_loader is diffusers_loader


def test_how_many_steps_a_file_was_trained_for(tiny_base, photos, tmp_path):
    run = RunDir(tmp_path / "run")
    assert exported_steps(run.lora_path) is None
    run.path.mkdir()
    run.lora_path.write_bytes(b"torn")
    assert exported_steps(run.lora_path) is None
    export(trainable_model(tiny_base, photos, train={"steps": 0}), run, Told())
    assert exported_steps(run.lora_path) == 0


def test_other_tools_get_files_of_their_own(tiny_base, photos, tmp_path):
    one = trainable_model(tiny_base, photos, export={"for": ["comfyui", "kohya", "diffusers"]})
    run, told = RunDir(tmp_path / "run"), Told()
    export(one, run, told)
    for tool in ("comfyui", "kohya"):
        held = file.read(run.lora_path_for(tool), "flux")
        assert held.components["transformer"].keys() == one.adapters()["transformer"].keys()
        assert f"lora-{tool}.safetensors for {tool}, read back within" in told.text
    assert held.form == "kohya (native names)"
    assert held.metadata["ss_network_module"] == "networks.lora"


@pytest.fixture(scope="module")
def tiny_sdxl(tmp_path_factory):
    return save_sdxl(tmp_path_factory.mktemp("bases") / "tiny-sdxl")


def test_a_module_that_a_tool_cannot_hold_is_told_before_anything_is_computed(tiny_sdxl, photos, tmp_path):
    recipe = wish(
        tiny_sdxl, photos, lora={"text_encoders": ["text_encoder"]}, export={"for": ["comfyui", "diffsynth"]}
    )
    told = Told()
    with raises(BadRecipe):
        train(recipe, tmp_path / "run", told)
    assert not told.counts and not list((tmp_path / "run").glob("checkpoints/*"))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' Euler
def test_what_the_base_s_denoiser_says_is_in_the_file_and_heard_when_painting(tiny_sdxl, photos, tmp_path):
    wishes = {"prediction": "v", "zero_terminal_snr": True, "steps": 1}
    told = Told()
    train(wish(tiny_sdxl, photos, train=wishes), tmp_path / "run", told)
    said = file.read(tmp_path / "run" / "lora.safetensors").metadata
    assert said["modelspec.prediction_type"] == "v" and said["ss_zero_terminal_snr"] == "True"
    settings = Settings(steps=1, width=32, height=32)
    (picture,) = generated(tmp_path / "run", tmp_path / "pictures", "x", told=told, settings=settings)
    assert picture.is_file() and "sampling with prediction_type = v_prediction, rescale" in told.text


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

    between = trainer._between

    def stopping(state, step, *more):
        between(state, step, *more)
        if step == 2:
            raise Stopped("two steps are done")

    planned = trainer._planned

    def away(*args):
        fallback = planned(*args)
        moved = replace(fallback.plan, optimizer_state="host")
        fallback.run_plan = replace(fallback.run_plan, plan=moved)
        return fallback

    monkeypatch.setattr(trainer, "_planned", away)  # it begins on the host, and ends on the device
    monkeypatch.setattr(trainer, "_between", stopping)
    with pytest.raises(Stopped):
        train(recipe, tmp_path / "run", Told())
    monkeypatch.setattr(trainer, "_planned", planned)
    monkeypatch.setattr(trainer, "_between", between)
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
    painted = generated(run, tmp_path / "p", "cat", settings=settings)
    assert painted[0].is_file()
    for more in ({"base": str(halved)}, {"settings": Settings(steps=1, lora_scale=0.5)}):
        with raises(BadUsage):
            generated(run, tmp_path / "p", "cat", **{"settings": settings, **more})

    lora = extract(halved, run / "model", 2, tmp_path / "l.safetensors", ConvertOptions(), Told())
    assert lora.modules and lora.path.is_file()


def test_a_run_cannot_become_a_lora_nor_a_lora_whole(tiny_base, photos, tmp_path):
    run = tmp_path / "run"
    train(wish(tiny_base, photos, lora={"rank": 16}, train={"steps": 2}), run, Told())
    with raises(BadCheckpoint):
        train(full(tiny_base, photos), run, Told())


def test_the_disk_must_hold_checkpoints_and_the_model(tiny_base, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer.TrainState, "require_room", lambda self: None)
    asked = {}

    def short(folder, size, what):
        asked[what.split(", the ")[-1]] = size
        if "model" in what:
            raise DiskFull("full")

    monkeypatch.setattr("limner.training.export.require_space", short)
    with pytest.raises(DiskFull):
        train(full(tiny_base, photos, train={"steps": 1, "save_every": 1}), tmp_path / "run", Told())
    assert asked["trained model,"] > (tiny_base / "transformer" / WEIGHTS).stat().st_size
    assert not list((tmp_path / "run").glob(".model*")) and model_steps(RunDir(tmp_path / "run")) is None


def test_weights_that_the_disk_did_not_keep_are_told(tiny_base, photos, tmp_path, monkeypatch):
    from limner.models import convert

    write = convert.write

    def torn(*args, **kwargs):
        paths = write(*args, **kwargs)
        data = bytearray(paths[0].read_bytes())
        data[-1] ^= 1
        paths[0].write_bytes(data)
        return paths

    monkeypatch.setattr("limner.models.convert.write", torn)
    with raises(BadBase):
        train(full(tiny_base, photos, train={"steps": 1, "save_every": 1}), tmp_path / "run", Told())


def test_every_method_of_training_ends_in_something(tmp_path):
    assert set(get_args(Train.model_fields["method"].annotation)) == set(OUTPUTS)
    run = RunDir(tmp_path)
    for method, ends in (("lora", run.lora_path), ("full", run.model_path)):
        recipe = change(Recipe(), {"train.method": method})
        output = output_of(method, with_lora=False)
        assert [path for path in output.paths(run).values() if path] == [ends]
        assert not output.complete(run, recipe, 0)
