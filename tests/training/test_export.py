import pytest
import torch

from limner.assembly.resolve import resolve
from limner.errors import BadLora, BadRecipe
from limner.generation.generate import generate
from limner.generation.settings import Settings
from limner.lora import diffusers_loader, file
from limner.run_folder import RunDir
from limner.runs import train
from limner.training import export as module
from limner.training.cache import fill_cache as fill
from limner.training.export import about, export, exported_steps
from limner.training.model import TrainableModel
from messages import raises
from small import Told, wish
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
    described = about(one.resolved)
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
    (picture,) = generate(
        tmp_path / "run",
        base=None,
        prompts=["x"],
        out=tmp_path / "pictures",
        settings=Settings(steps=1, width=32, height=32),
        reporter=told,
    )
    assert picture.is_file() and "painting with prediction_type = v_prediction, rescale" in told.text
