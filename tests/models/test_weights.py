import json
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

import tiny
import tiny_chroma
from equipping import equip
from limner.errors import BadBase, BadRecipe, BrokenGraph
from limner.models.loading import fingerprint, hollow, load, read, shapes, tensors
from limner.models.registry import family_of
from limner.models.source import locate
from limner.nn.layers import lora, quantization
from limner.nn.layers.quantized_linear import QuantizedLinear, storable
from limner.nn.memory import host_buffer
from limner.nn.memory.host_buffer import Placement
from limner.nn.memory.plan import Plan, stored_bytes
from messages import raises

CPU = torch.device("cpu")
KINDS = ("int8", "fp8", "nf4")
SAVERS = {
    "chroma": tiny_chroma.save_chroma,
    "flux": tiny.save_flux,
    "flux2": tiny.save_flux2_klein,
    "krea2": tiny.save_krea2,
    "qwen_image": tiny.save_qwen_image,
    "sd15": tiny.save_sd15,
    "sdxl": tiny.save_sdxl,
    "z_image": tiny.save_z_image,
}


@pytest.fixture(scope="module", params=SAVERS, ids=list(SAVERS))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SAVERS[request.param](tmp_path_factory.mktemp("bases") / request.param)


def opened(folder: Path) -> tuple[Any, Any]:
    source = locate(str(folder), folders={})
    return family_of(str(source.index["_class_name"])), source


def denoiser(
    folder: Path, dtype: torch.dtype = torch.float32, *, weights: Any = None, into: Any = None, **choices: Any
) -> Any:
    family, source = opened(folder)
    plan = Plan(weights=weights or "fp32", mmap_weights=into is not None, **choices)
    return load(family, source, family.denoiser, dtype=dtype, device=CPU, plan=plan, folder=into)


def by_diffusers(folder: Path, dtype: torch.dtype) -> Any:
    family, source = opened(folder)
    _, kind = family.library(family.denoiser)
    import diffusers

    return getattr(diffusers, kind).from_pretrained(source.root / family.denoiser, dtype=dtype)


def everything(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters, buffers that are saved or not, and tables that modules hold as plain attributes."""
    held = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, module in model.named_modules():
        held |= {f"{name}.{key}": t for key, t in vars(module).items() if isinstance(t, torch.Tensor)}
    return held


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_what_diffusers_loads_to_the_bit(base: Path, dtype: torch.dtype):
    mine, theirs = denoiser(base, dtype), by_diffusers(base, dtype)
    one, other = everything(mine), everything(theirs)
    assert one.keys() == other.keys()
    assert all(one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one)
    assert {n: p.dtype for n, p in one.items()} == {n: p.dtype for n, p in other.items()}
    assert not mine.training and not any(p.requires_grad for p in mine.parameters())
    assert {k: v for k, v in mine.config.items() if k[0] != "_"} == {
        k: v for k, v in theirs.config.items() if k[0] != "_"
    }


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_stored_as_wished_and_the_rest_as_it_is(base: Path, kind):
    family, _ = opened(base)
    plain, few = denoiser(base, torch.bfloat16), denoiser(base, torch.bfloat16, weights=kind)
    names = storable(plain, family.arch)
    frozen = {name: module for name, module in few.named_modules() if isinstance(module, QuantizedLinear)}
    assert names and set(frozen) == set(names)
    full = denoiser(base)  # stored from the files' own precision, not from bf16
    for name, layer in frozen.items():
        wanted = quantization.quantize(full.get_submodule(name).weight, kind)
        assert all(torch.equal(a, b) for a, b in zip(layer.tensors, wanted, strict=True))
        assert sum(t.nbytes for t in layer.tensors) == stored_bytes(kind, *layer.shape)
    mine, theirs = everything(few), everything(plain)
    shared = mine.keys() & theirs.keys()
    assert theirs.keys() - shared == {f"{name}.weight" for name in names}
    assert all(torch.equal(mine[name], theirs[name]) for name in shared)
    assert not any(t.is_meta for t in mine.values())


def sharded(folder: Path, part: str) -> None:
    """Split a part's weights over two files, as large bases are."""
    whole = next((folder / part).glob("*.safetensors"))
    held = load_file(whole)
    names, where = sorted(held), {}
    for number in range(2):
        path = whole.with_name(f"{whole.stem}-0000{number + 1}-of-00002.safetensors")
        save_file({name: held[name].clone() for name in names[number::2]}, path, metadata={"format": "pt"})
        where |= dict.fromkeys(names[number::2], path.name)
    whole.with_name(f"{whole.name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    whole.unlink()


def test_shards_are_read_one_after_another(tmp_path: Path):
    folder = tiny.save_flux(tmp_path / "base")
    before = everything(denoiser(folder))
    sharded(folder, "transformer")
    after = everything(denoiser(folder))
    assert all(torch.equal(before[name], after[name]) for name in before) and before.keys() == after.keys()
    assert denoiser(folder, weights="nf4")


class Live(TorchDispatchMode):
    """Counts the bytes of tensors that are alive: what was made under it and is not yet gone."""

    def __init__(self) -> None:
        super().__init__()
        self.uses: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor) and not tensor.is_meta:
                self.seen(tensor)
        return made

    def seen(self, tensor: torch.Tensor) -> None:
        if in_files(tensor):
            return
        place, size = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
        if not self.uses.get(place):
            self.now += size
            self.peak = max(self.peak, self.now)
        self.uses[place] = self.uses.get(place, 0) + 1
        weakref.finalize(tensor, self.gone, place, size)

    def gone(self, place: int, size: int) -> None:
        self.uses[place] -= 1
        self.now -= size * (not self.uses[place])


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_than_one_tensor_is_ever_there_in_full(tmp_path: Path, kind, monkeypatch: pytest.MonkeyPatch):
    """Wide enough that two of its tensors in full would be seen beside all that is stored."""
    monkeypatch.setattr(quantization, "CHUNK", 2048)  # as small beside these as CHUNK is beside true weights
    folder = tiny.save_flux(tmp_path / "base")
    (folder / "transformer" / "config.json").write_text(
        json.dumps(
            json.loads((folder / "transformer" / "config.json").read_text())
            | {"attention_head_dim": 32, "num_attention_heads": 4, "axes_dims_rope": [8, 12, 12]}
            | {"num_layers": 3}
        )
    )
    family, source = opened(folder)
    import diffusers

    wide = diffusers.FluxTransformer2DModel.from_config(source.config("transformer"))
    wide.save_pretrained(folder / "transformer")
    largest = max(p.nbytes for p in wide.parameters())
    whole = sum(p.nbytes for p in wide.parameters())
    with torch.device("meta"):
        model = hollow(type(wide), source.config("transformer"), torch.bfloat16)
    names = storable(model, family.arch)
    with Live() as live:
        read(
            model, source.weights("transformer"), torch.bfloat16, CPU, layer_kinds=dict.fromkeys(names, kind)
        )
    held = sum(t.nbytes for t in everything(model).values())
    assert live.now <= held + 4096, "nothing is left over"
    assert live.peak < held + largest / 2 and live.peak < 0.75 * whole
    assert largest > 100_000
    with torch.device("meta"):
        model = hollow(type(wide), source.config("transformer"), torch.bfloat16)
    with Live() as live:
        stored = dict.fromkeys(names, kind)
        every = range(len(family.arch.blocks_of(model)))
        read(
            model,
            source.weights("transformer"),
            torch.bfloat16,
            CPU,
            layer_kinds=stored,
            placement=lambda it: Placement(it, family.arch, streamed=every, hoist=True, folder=tmp_path),
        )
    blocks = [sum(t.nbytes for t in each.state_dict().values()) for each in blocks_of(model)]
    rest = sum(t.nbytes for t in everything(model).values() if not in_files(t))
    assert sum(blocks) > 3 * max(blocks)
    assert live.peak < rest + max(blocks) + largest / 2, "no more than one block of codes at a time"


def blocks_of(model: Any) -> list[torch.nn.Module]:
    return [*model.transformer_blocks, *model.single_transformer_blocks]


def placement(folder: Path, into: Path | None, **options: Any) -> Any:
    """A denoiser of which all blocks and modulations stay on the host."""
    return denoiser(folder, into=into, swapped_blocks=1000, precompute_modulation=True, **options)


def in_files(tensor: torch.Tensor) -> bool:
    return Path(tensor.untyped_storage().filename or "").name == host_buffer.WEIGHTS


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_what_stays_in_files_is_what_it_would_be_in_memory(base: Path, tmp_path: Path, kind):
    family, _ = opened(base)
    whole = everything(denoiser(base, torch.bfloat16, weights=kind))
    for into in (None, tmp_path):
        model = placement(base, into, dtype=torch.bfloat16, weights=kind)
        found = everything(model)
        assert found.keys() == whole.keys() and all(torch.equal(found[name], whole[name]) for name in whole)
        blocks = tuple(family.arch.blocks_of(model))
        inside = {name for name in dict(model.named_parameters()) if name.startswith(blocks)}
        away = {name for name, tensor in found.items() if in_files(tensor)}
        assert inside <= away if into else not away
    assert not list(tmp_path.iterdir()), "files go with their tensors"


def test_a_plan_takes_the_files_as_they_are(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nothing is copied from file to file, with adapters attached in between, nor when a plan is changed."""
    family, _ = opened(base)
    model = placement(base, tmp_path, dtype=torch.bfloat16, weights="int8")
    lora.attach(model, storable_of(model), rank=2, alpha=1, dropout=0, seed=0)
    before = {name: tensor.clone() for name, tensor in everything(model).items()}
    made: list[int] = []
    monkeypatch.setattr(
        host_buffer.Mapped, "__call__", lambda self, size: made.append(size) or host_buffer.ordinary(size)
    )
    every = range(len(family.arch.blocks_of(model)))
    how = {"device": CPU, "streamed": every, "mapped": True, "folder": tmp_path}
    engine = equip(model, family.arch, hoist=True, **how)
    engine.close()
    assert not made and all(torch.equal(before[name], each) for name, each in everything(model).items())
    equip(model, family.arch, hoist=True, **how).close()
    assert not made
    if family.arch.modulations:  # inside blocks, and so in files of their own
        equip(model, family.arch, **how).close()
    assert all(torch.equal(before[name], each) for name, each in everything(model).items())


def storable_of(model: torch.nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)]


@pytest.mark.parametrize("weights", [None, "int8"])
@pytest.mark.parametrize("damage", ["lacks", "shape", "nan"])
def test_damage_is_told(tmp_path: Path, weights, damage: str):
    folder = tiny.save_flux(tmp_path / "base")
    path = next((folder / "transformer").glob("*.safetensors"))
    held = {name: value.clone() for name, value in load_file(path).items()}
    name = "transformer_blocks.0.attn.to_q.weight"
    match damage:
        case "lacks":
            del held[name]
        case "shape":
            held[name] = torch.zeros(7, 7)
        case "nan":
            held[name][0, 0] = float("nan")
    save_file(held, path, metadata={"format": "pt"})
    told = {
        "lacks": rf"^base: transformer/ lacks 1 tensors: {name} \.\. Copy",
        "shape": rf"/ cannot be loaded: {name} is \(7, 7\), and the config makes it \(32, 32\)",
        "nan": rf"^base: transformer/ cannot be loaded: {name}: a weight holds numbers that are not finite",
    }[damage]
    if damage == "nan" and weights is None:  # the loss will say it
        assert denoiser(folder)
        return
    with pytest.raises(BadBase, match=told):
        denoiser(folder, weights=weights)


def test_only_a_denoiser_has_blocks(tiny_base: Path):
    family, source = opened(tiny_base)
    with raises(BrokenGraph):
        load(family, source, "vae", dtype=torch.float32, device=CPU, plan=Plan(weights="int8"))


def test_products_that_cannot_be_are_refused_before_anything_is_read(tiny_base: Path):
    with raises(BadRecipe):
        denoiser(tiny_base, weights="nf4", matmul_precision="8bit")


def test_attention_of_old_files_is_found_under_its_new_names(tmp_path: Path):
    from diffusers import AutoencoderKL

    plain = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, layers_per_block=1)
    plain.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    new = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, value in load_file(path).items():
        for now, then in new.items():
            name = name.replace(f"attentions.0.{now}", f"attentions.0.{then}")
        old[name] = value.clone()
    assert "encoder.mid_block.attentions.0.query.weight" in old
    save_file(old, path)
    model: Any = hollow(AutoencoderKL, json.loads((tmp_path / "config.json").read_text()), torch.float32)
    assert read(model, [path], torch.float32, CPU, layer_kinds={}) == []
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    assert dict(tensors(model, [path])).keys() == model.state_dict().keys()


def test_how_blocks_are_stored_is_part_of_an_identity(tiny_base: Path):
    family, source = opened(tiny_base)
    seen = {
        fingerprint(family, source, "transformer", torch.bfloat16, weights)
        for weights in (None, "int8", "fp8", "nf4")
    }
    assert len(seen) == 4


def test_shapes_are_read_from_headers(tiny_base: Path):
    path = tiny_base / "transformer" / "diffusion_pytorch_model.safetensors"
    assert dict(shapes([path])) == {name: tuple(value.shape) for name, value in load_file(path).items()}


def flux_config(**sizes: int) -> dict[str, Any]:
    """Of a small denoiser."""
    plain = {"in_channels": 4, "num_layers": 2, "num_single_layers": 4, "attention_head_dim": 16}
    more = {"num_attention_heads": 2, "joint_attention_dim": 8, "pooled_projection_dim": 8}
    return {**plain, **more, "axes_dims_rope": (4, 6, 6), **sizes}


def test_hollow_models_in_one_thread_are_nothing_to_another():
    """Ordinary models are made meanwhile, from a seed: equal to the bit, of their own dtype and device."""
    from diffusers import FluxTransformer2DModel

    wrong: list[str] = []
    begun, ended = threading.Event(), threading.Event()

    def build() -> None:
        begun.wait(10)
        for _ in range(6):
            model = hollow(FluxTransformer2DModel, flux_config(), torch.bfloat16)
            if {(p.dtype, p.device.type) for p in model.parameters()} != {(torch.bfloat16, "meta")}:
                wrong.append("a hollow model has data")
        ended.set()

    def layer() -> torch.nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8), torch.nn.Conv2d(2, 2, 3))

    reference, rounds = list(layer().parameters()), 0
    thread = threading.Thread(target=build)
    thread.start()
    begun.set()
    while not ended.is_set() or rounds < 3:
        rounds += 1
        values = list(layer().parameters())
        assert all(torch.equal(a, b) for a, b in zip(values, reference, strict=True))
        tensors_here = [torch.empty(2), torch.ones(2), torch.tensor(1.5), torch.arange(3) / 2]
        assert {(t.dtype, t.device.type) for t in tensors_here} == {(torch.float32, "cpu")}
    thread.join()
    assert not wrong and rounds > 3, rounds


def test_tables_of_a_hollow_model_have_their_numbers():
    """As of a model that diffusers makes with data."""
    from diffusers import QwenImageTransformer2DModel, SD3Transformer2DModel

    qwen = {"num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 8}
    model: Any = hollow(QwenImageTransformer2DModel, {**qwen, "axes_dims_rope": (4, 6, 6)}, torch.bfloat16)
    whole: Any = QwenImageTransformer2DModel(**qwen, axes_dims_rope=(4, 6, 6))  # pyright: ignore
    assert torch.equal(model.pos_embed.pos_freqs, whole.pos_embed.pos_freqs)
    sd3 = {"sample_size": 8, "num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2}
    sizes = {**sd3, "caption_projection_dim": 16, "pos_embed_max_size": 8}
    model = hollow(SD3Transformer2DModel, sizes, torch.bfloat16)
    whole = SD3Transformer2DModel(**sizes)  # pyright: ignore
    assert torch.equal(model.pos_embed.pos_embed, whole.pos_embed.pos_embed)
    assert model.pos_embed.pos_embed.dtype == torch.float32
