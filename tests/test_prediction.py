import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import DINOv3ViTConfig, DINOv3ViTModel, SiglipVisionConfig, SiglipVisionModel

from limner.assembly.base import family_at
from limner.data.images import read_image
from limner.errors import BadBase, BadData, BadLora, BadUsage
from limner.hyper.predictor import Predictor, PredictorConfig
from limner.hyper.published import STACKS, PublishedPredictor
from limner.hyper.states import states_of
from limner.hyper.targets import linear_layers, targets_of
from limner.hyper.vision import COPIES, ENCODERS, ReferenceImages, embed, load_encoder
from limner.lora import file
from limner.lora.location import locate_base
from limner.prediction import PUBLISHED_ENCODERS, InstantOptions, instant
from limner.runs import train
from messages import raises
from small import Told, wish
from tiny import save_qwen_image, save_z_image
from tiny_edit import VISION


@pytest.fixture(scope="module")
def predictor(tiny_base, tmp_path_factory) -> Path:
    """A random predictor for the tiny base, with a LoRA that is not zero."""
    model = FluxTransformer2DModel.from_pretrained(tiny_base, subfolder="transformer")
    torch.manual_seed(0)
    targets = targets_of(model, ["attn.to_q", "attn.to_v", "norm.linear"])
    sizes = {"rank": 2, "width": 32, "bottleneck": 4, "side": 32}
    network = Predictor(PredictorConfig(base="tiny-flux", targets=targets, **sizes))
    for weight in (*network.up, *network.static_up):
        torch.nn.init.normal_(weight, std=0.1)
    folder = tmp_path_factory.mktemp("predictor")
    network.save(folder / "predictor.safetensors", {"minutes": 0})
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(19):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return folder


def made(pictures, base, out, predictor, told=None, **options):
    chosen = InstantOptions(predictor=str(predictor), **options)
    return instant(pictures, str(base), out, chosen, told or Told())


def test_the_file_is_the_prediction_and_says_how_it_was_made(predictor, pictures, tiny_base, tmp_path):
    paths, told = sorted(pictures.iterdir())[:3], Told()
    report = made(paths, tiny_base, tmp_path / "a.safetensors", predictor, told, strength=0.5)
    assert (report.images, report.rank, report.energy) == (3, 2, 1.0) and 0 < report.similarity <= 1
    content = file.read(tmp_path / "a.safetensors")
    images = [read_image(path) for path in paths]
    wanted = Predictor.load(predictor).predict(images)
    adapter = content.components["transformer"]
    assert adapter.keys() == wanted.keys() and report.layers == len(wanted)
    for layer, (down, up) in wanted.items():
        assert torch.allclose(adapter[layer].dense(), 0.5 * (up @ down).double(), atol=1e-6)
    metadata = content.metadata
    assert metadata["ss_sd_model_name"] == "tiny-flux" and metadata["limner.lora_on"] == "positive"
    assert metadata["limner.guidance"] == "2" and metadata["limner.images"] == "3"
    assert len(metadata["limner.predictor_sha256"]) == 64
    assert not any(str(pictures) in value or str(predictor) in value for value in metadata.values())
    assert "3 pictures" in told.lines[0] and "parameters" in told.lines[0]


def test_many_pictures_are_read_in_groups_and_joined(predictor, pictures, tiny_base, tmp_path):
    told = Told()
    report = made([pictures], tiny_base, tmp_path / "a.safetensors", predictor, told)
    assert (report.images, report.rank) == (19, 6) and "in 3 groups" in told.lines[0]
    images = [read_image(path) for path in sorted(pictures.iterdir())]
    loaded = Predictor.load(predictor)
    parts = [(loaded.predict(group), len(group) / 19) for group in (images[:7], images[7:13], images[13:])]
    adapter = file.read(tmp_path / "a.safetensors").components["transformer"]
    for layer, factors in adapter.items():
        wanted = sum(share * (pairs[layer][1] @ pairs[layer][0]).double() for pairs, share in parts)
        assert torch.allclose(factors.dense(), wanted, atol=1e-6)
    smaller = made([pictures], tiny_base, tmp_path / "b.safetensors", predictor, rank=2)
    assert smaller.rank == 2 and 0 < smaller.energy < 1


def test_a_cut_keeps_the_first_ranks_of_a_nested_prediction(predictor, pictures, tiny_base, tmp_path):
    network = Predictor.load(predictor)
    network.config = replace(network.config, nested=True)
    network.save(tmp_path / "nested.safetensors", {})
    paths = sorted(pictures.iterdir())[:3]
    report = made(paths, tiny_base, tmp_path / "a.safetensors", tmp_path / "nested.safetensors", rank=1)
    wanted = Predictor.load(predictor).predict([read_image(path) for path in paths])
    adapter = file.read(tmp_path / "a.safetensors").components["transformer"]
    for layer, (down, up) in wanted.items():
        assert torch.allclose(adapter[layer].dense(), (up[:, :1] @ down[:1]).double(), atol=1e-6)
    assert report.rank == 1 and 0 < report.energy < 1
    # joined groups are in no order: the nearest LoRA it is
    report = made([pictures], tiny_base, tmp_path / "b.safetensors", tmp_path / "nested.safetensors", rank=2)
    plain = made([pictures], tiny_base, tmp_path / "c.safetensors", predictor, rank=2)
    assert report.energy == plain.energy


def test_experts_are_added_up_along_the_rank(predictor, pictures, tiny_base, tmp_path):
    shown, told, folder = [pictures / "00.png"], Told(), tmp_path / "experts"
    folder.mkdir()
    shutil.copy(predictor / "predictor.safetensors", folder / "style.safetensors")
    made([pictures / "01.png"], tiny_base, folder / "bias.safetensors", predictor, strength=0.3)
    report = made(shown, tiny_base, tmp_path / "a.safetensors", folder, told, experts="style, bias:-0.5")
    assert (report.rank, report.predictor) == (4, "style + bias:-0.5")
    assert any("bias: a LoRA of 8 layers" in line for line in told.lines)
    made(shown, tiny_base, tmp_path / "alone.safetensors", predictor)
    paths = (tmp_path / "a.safetensors", tmp_path / "alone.safetensors", folder / "bias.safetensors")
    whole, style, bias = (file.read(path).components["transformer"] for path in paths)
    for layer, factors in whole.items():
        assert torch.allclose(factors.dense(), style[layer].dense() - bias[layer].dense() / 2, atol=1e-6)
    assert file.read(tmp_path / "a.safetensors").metadata["limner.lora_on"] == "positive"
    for names, place in (
        ("style,fine", folder),
        ("style,style", folder),
        ("style", folder / "style.safetensors"),
    ):
        with raises(BadUsage):
            made(shown, tiny_base, tmp_path / "b.safetensors", place, experts=names)
    save_file(
        {
            "transformer.x_embedder.lora_A.weight": torch.ones(1, 3),
            "transformer.x_embedder.lora_B.weight": torch.ones(5, 1),
        },
        folder / "other.safetensors",
    )
    with raises(BadLora):
        made(shown, tiny_base, tmp_path / "b.safetensors", folder, experts="style,other")


def test_pictures_that_differ_are_told(predictor, pictures, tiny_base, tmp_path, monkeypatch):
    told = Told()
    monkeypatch.setattr("limner.prediction.LITTLE_IN_COMMON", 1.1)
    made([pictures], tiny_base, tmp_path / "a.safetensors", predictor, told)
    assert any("little in common" in line for line in told.lines)


def test_bad_input_is_one_line(predictor, pictures, tiny_base, tmp_path):
    out = tmp_path / "a.safetensors"
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.txt").write_text("no picture")
    for photos in ([tmp_path / "empty"], []):
        with raises(BadData):
            made(photos, tiny_base, out, predictor)
    for photos in ([tmp_path / "words.txt"], [tmp_path / "nowhere.png"]):
        with raises(BadUsage):
            made(photos, tiny_base, out, predictor)
    (tmp_path / "torn.png").write_bytes(b"torn")
    with pytest.raises(BadData):
        made([tmp_path / "torn.png"], tiny_base, out, predictor)
    for options in ({"rank": 0}, {"rank": 3}, {"strength": 0.0}):
        with raises(BadUsage):
            made([pictures / "00.png"], tiny_base, out, predictor, **options)
    with raises(BadUsage):
        made([pictures / "00.png"], tiny_base, tmp_path / "a.ckpt", predictor)
    with raises(BadUsage):
        instant([pictures / "00.png"], str(tiny_base), out, InstantOptions(), Told())
    with raises(BadLora):
        made([pictures / "00.png"], tiny_base, out, tmp_path / "no-predictor")
    assert not out.exists()


def test_a_predictor_for_another_base_or_a_damaged_one_is_told(predictor, pictures, tiny_base, tmp_path):
    out = tmp_path / "a.safetensors"
    with raises(BadBase):
        made([pictures / "00.png"], "glyph", out, predictor)
    whole = (predictor / "predictor.safetensors").read_bytes()
    torn = tmp_path / "torn.safetensors"
    for damage in (whole[:-100], b"", whole.replace(b"limner-instant-1", b"limner-instant-9")):
        torn.write_bytes(damage)
        with pytest.raises(BadBase) as caught:
            made([pictures / "00.png"], tiny_base, out, torn)
        assert "\n" not in str(caught.value)


def test_a_training_starts_from_the_prediction(predictor, photos, tiny_base, tmp_path, monkeypatch):
    """Of the layers that the recipe trains; the rest is said."""
    monkeypatch.setattr("limner.hyper.catalog.embedded_predictors", lambda: {"tiny-flux": predictor})
    told = Told()
    recipe = wish(tiny_base, photos, train={"init": "instant", "steps": 0}, lora={"rank": 2})
    train(recipe, tmp_path / "run", told)
    content = file.read(tmp_path / "run" / "lora.safetensors")
    (line,) = (line for line in told.lines if "lora.targets" in line)
    assert line.startswith("tiny-flux-instant: 2 of its 8 layers are not in lora.targets")
    moved = {layer for layer, change in content.components["transformer"].items() if change.norm()}
    assert moved and all(layer.endswith(("to_q", "to_v")) for layer in moved)
    assert content.metadata["limner.init"] == "tiny-flux-instant"
    assert json.loads((tmp_path / "run" / "init.json").read_text())["energy"] == pytest.approx(1, abs=1e-3)


def published(folder: Path) -> tuple[Path, Path]:
    """A tiny Z-Image, and a random published predictor for it, with its encoders beside."""
    base = save_z_image(folder / "z")
    source = locate_base(str(base))
    layers = linear_layers(source, family_at(source))
    draw = torch.Generator().manual_seed(0)
    tensors = {}
    for stack in STACKS["z-image"]:
        depth = len({name.split(".")[1] for name in layers if name.startswith(f"{stack.prefix}.")})
        for number in range(depth * len(stack.groups)):
            for position, layer in enumerate(stack.groups[number // depth]):
                target = layers[f"{stack.prefix}.{number % depth}.{layer}"]
                for side, size in (("a", target.inputs), ("b", target.outputs)):
                    stem = f"{stack.stem}blocks.{number}.layers.{position}.proj_{side}"
                    tensors[f"{stem}.proj_in.weight"] = torch.randn(4, 32, generator=draw)
                    tensors[f"{stem}.proj_out.weight"] = torch.randn(2 * size, 4, generator=draw) / 9
    path = folder / "z-i2l.safetensors"
    save_file(tensors, path)
    save_encoders(folder)
    return base, path


def save_encoders(folder: Path) -> None:
    """The two of the published predictors, tiny: 16 and 16 numbers."""
    tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32}
    SiglipVisionModel(SiglipVisionConfig(**tiny, intermediate_size=16)).save_pretrained(folder / "siglip2")
    DINOv3ViTModel(DINOv3ViTConfig(**tiny, intermediate_size=16)).save_pretrained(folder / "dinov3")


def test_a_published_predictor_is_run_with_its_encoders(pictures, tmp_path):
    base, path = published(tmp_path)
    paths, told = sorted(pictures.iterdir())[:3], Told()
    report = made(paths, base, tmp_path / "a.safetensors", path, told, encoders=str(tmp_path))
    assert (report.images, report.rank) == (3, 6) and "z-image, style" in told.lines[0]
    source = locate_base(str(base))
    predictor = PublishedPredictor(path, linear_layers(source, family_at(source)))
    models = {name: load_encoder(name, str(tmp_path / name)) for name in ("siglip2", "dinov3")}
    parts = [
        predictor.predict(torch.cat([embed(name, models[name], read_image(picture)) for name in models]))
        for picture in paths
    ]
    content = file.read(tmp_path / "a.safetensors")
    adapter = content.components["transformer"]
    assert len(adapter) == report.layers == len(parts[0])
    for layer, factors in adapter.items():
        wanted = sum((pairs[layer][1] @ pairs[layer][0]).double() for pairs in parts) / 3
        assert torch.allclose(factors.dense(), wanted, atol=1e-4), layer
    assert content.metadata["limner.guidance"] == "4" and content.metadata["limner.lora_on"] == "positive"
    with raises(BadBase):
        made(paths, base, tmp_path / "b.safetensors", path)
    with raises(BadBase):
        made(paths, "glyph", tmp_path / "b.safetensors", path)


def test_a_published_predictor_and_its_encoders_are_found_by_name(pictures, tmp_path, monkeypatch):
    """In the hub's cache, as its own files and DiffSynth's copies of the encoders, which have no config."""
    base, path = published(tmp_path)
    hub = tmp_path / "hub"
    in_hub_cache(hub, "DiffSynth-Studio/Z-Image-i2L", "model.safetensors").symlink_to(path)
    for name in ("siglip2", "dinov3"):
        encoder = ENCODERS[name]
        weights = in_hub_cache(hub, COPIES, encoder.copy)
        state = load_file(tmp_path / name / "model.safetensors")
        layers = {
            key.removeprefix("model.").removeprefix("vision_model."): value for key, value in state.items()
        }
        save_file(layers, weights)
        sizes = json.loads((tmp_path / name / "config.json").read_text())
        monkeypatch.setitem(ENCODERS, name, replace(encoder, sizes=sizes))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    paths = sorted(pictures.iterdir())[:2]
    by_path = made(paths, base, tmp_path / "a.safetensors", path, encoders=str(tmp_path))
    by_name = made(paths, base, tmp_path / "b.safetensors", "z-image-i2l")
    assert (by_path.rank, by_name.predictor) == (by_name.rank, "z-image-i2l")
    adapters = [file.read(tmp_path / f"{word}.safetensors").components["transformer"] for word in "ab"]
    assert len(adapters[0]) == len(adapters[1]) > 0
    assert all(torch.equal(adapters[0][layer].up, adapters[1][layer].up) for layer in adapters[0])
    folder = tmp_path / "copies"
    folder.mkdir()
    for name in ("siglip2", "dinov3"):  # fetched into a folder, as `hf download --local-dir` does
        shutil.copytree(
            in_hub_cache(hub, COPIES, ENCODERS[name].copy).parent, folder / ENCODERS[name].copy.split("/")[0]
        )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    made(paths, base, tmp_path / "c.safetensors", path, encoders=str(folder))
    changes = file.read(tmp_path / "c.safetensors").components["transformer"]
    assert all(torch.equal(adapters[0][layer].up, changes[layer].up) for layer in adapters[0])


def in_hub_cache(root: Path, hub_id: str, name: str) -> Path:
    """Where a file of a repository lies in the hub's cache; its folders are made."""
    repository = root / f"models--{hub_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text("a" * 40)
    path = repository / "snapshots" / ("a" * 40) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def coarse_and_fine(folder: Path) -> Path:
    """A tiny Qwen-Image, and beside it a Coarse and a Fine expert with their encoders and a bias."""
    base = save_qwen_image(folder / "qwen", vision=VISION)
    source = locate_base(str(base))
    layers, draw = linear_layers(source, family_at(source)), torch.Generator().manual_seed(0)
    (stack,) = STACKS["qwen-image"]
    depth = len({name.split(".")[1] for name in layers if name.startswith(f"{stack.prefix}.")})
    picture = Image.new("RGB", (30, 30))
    for expert, middle in (("coarse", 8), ("fine", 2)):
        (states,) = states_of([picture], source, family_at(source), expert, print)
        tensors = {}
        for number in range(depth * len(stack.groups)):
            stem = f"blocks.{number}"
            for position, layer in enumerate(stack.groups[number // depth]):
                target = layers[f"{stack.prefix}.{number % depth}.{layer}"]
                for side, size in (("a", target.inputs), ("b", target.outputs)):
                    name = f"{stem}.layers.{position}.proj_{side}"
                    tensors[f"{name}.proj_in.weight"] = torch.randn(4, 32, generator=draw)
                    tensors[f"{name}.proj_out.weight"] = torch.randn(2 * size, 4, generator=draw) / 9
            tensors[f"{stem}.proj_residual.proj_in.weight"] = torch.randn(middle, 16, generator=draw)
            length = len(states) * middle
            tensors[f"{stem}.proj_residual.proj_out.weight"] = torch.randn(4, length, generator=draw) / 9
        save_file(tensors, folder / f"{expert}.safetensors")
    save_encoders(folder)
    return base


def test_coarse_and_fine_read_the_states_of_the_text_encoder_too(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("limner.hyper.states.SIDES", {"coarse": 32, "fine": 96})
    base = coarse_and_fine(tmp_path)
    paths = sorted(pictures.iterdir())[:2]
    report = made(
        paths, base, tmp_path / "a.safetensors", tmp_path, experts="coarse,fine", encoders=str(tmp_path)
    )
    assert report.rank == 2 * 2 * 2  # of two pictures by two experts
    source = locate_base(str(base))
    family, layers = family_at(source), linear_layers(source, family_at(source))
    images = [read_image(path) for path in paths]
    vectors = [*ReferenceImages(paths, str(tmp_path)).vectors(PUBLISHED_ENCODERS).values()]
    wanted = dict.fromkeys(layers, 0)
    for expert in ("coarse", "fine"):
        predictor = PublishedPredictor(tmp_path / f"{expert}.safetensors", layers)
        states = states_of(images, source, family, expert, print)
        assert len(states[0]) == predictor.layout.tokens and not torch.equal(*states)
        for row, state in zip(torch.cat(vectors, 1), states, strict=True):
            for layer, (down, up) in predictor.predict(row, state).items():
                wanted[layer] = wanted[layer] + (up @ down).double() / 2
    adapter = file.read(tmp_path / "a.safetensors").components["transformer"]
    assert len(adapter) == report.layers == 2 * 12
    for layer, factors in adapter.items():
        assert torch.allclose(factors.dense(), wanted[layer], atol=1e-4), layer


def test_the_weights_of_the_base_are_not_needed(predictor, pictures, tiny_base, tmp_path):
    base = Path(shutil.copytree(tiny_base, tmp_path / "tiny-flux"))
    for path in base.rglob("*.safetensors"):
        path.unlink()
    report = made([pictures / "00.png"], base, tmp_path / "a.safetensors", predictor)
    assert report.layers == 8 and (tmp_path / "a.safetensors").exists()
    with raises(BadBase):
        made([pictures / "00.png"], "sdxl", tmp_path / "b.safetensors", predictor)
