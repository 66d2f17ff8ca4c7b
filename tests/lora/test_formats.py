import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from limner.errors import BadLora
from limner.lora.diffusers_reader import as_loaded
from limner.lora.factors import Factors
from limner.lora.file import require_equal
from limner.lora.formats import from_diffusers, read, to_diffusers
from limner.lora.peft_config import HEADER_KEY
from limner.models.registry import family_keys
from loras import factors
from messages import raises

QWEN = "transformer_blocks.59.attn.to_q"


def test_names_of_flux() -> None:
    flat = to_diffusers(
        {
            "transformer": {"transformer_blocks.0.attn.to_out.0": factors()},
            "text_encoder": {"encoder.layers.3.self_attn.q_proj": factors()},
            "text_encoder_2": {"encoder.block.0.layer.0.SelfAttention.q": factors()},
        }
    )
    assert list(flat) == [
        "transformer.transformer_blocks.0.attn.to_out.0.lora_A.weight",
        "transformer.transformer_blocks.0.attn.to_out.0.lora_B.weight",
        "text_encoder.text_model.encoder.layers.3.self_attn.q_proj.lora_A.weight",
        "text_encoder.text_model.encoder.layers.3.self_attn.q_proj.lora_B.weight",
        "text_encoder_2.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight",
        "text_encoder_2.encoder.block.0.layer.0.SelfAttention.q.lora_B.weight",
    ]


def test_there_and_back() -> None:
    name = "text_model.encoder.layers.3.self_attn.q_proj"
    components = {"unet": {"mid_block.attn.to_q": factors()}, "text_encoder_2": {name: factors(rank=3)}}
    again = from_diffusers(to_diffusers(components))
    assert again.keys() == components.keys()
    for component, adapter in components.items():
        for module, kept in adapter.items():
            found = again[component][module]
            assert isinstance(found, Factors)
            assert torch.equal(found.down, kept.down)
            assert torch.equal(found.up, kept.up)


def test_a_part_beside_the_whole_is_added_as_tools_do() -> None:
    """q, k and v as one, and to_q once more: ComfyUI puts both into the weight."""
    whole, own = Factors(torch.randn(2, 4), torch.randn(12, 2)), Factors(torch.randn(3, 4), torch.randn(4, 3))
    for names in (("to_qkv", "to_q"), ("to_q", "to_qkv")):
        flat = {}
        for name in names:
            change = {"to_qkv": whole, "to_q": own}[name]
            stem = f"transformer.transformer_blocks.0.attn.{name}"
            flat |= {f"{stem}.lora_A.weight": change.down, f"{stem}.lora_B.weight": change.up}
        found = read(flat, {}, "flux").components["transformer"]
        q = found["transformer_blocks.0.attn.to_q"]
        assert isinstance(q, Factors) and q.rank == 5
        assert torch.allclose(q.dense(), whole.dense()[:4] + own.dense(), atol=1e-6)
        assert found["transformer_blocks.0.attn.to_k"].rank == 2
    stem = "transformer.transformer_blocks.0.attn"
    flat = {f"{stem}.to_qkv.lora_A.weight": whole.down, f"{stem}.to_qkv.lora_B.weight": whole.up}
    flat |= {f"{stem}.to_q.lokr_w1": torch.ones(2, 2), f"{stem}.to_q.lokr_w2": torch.ones(2, 2)}
    with raises(BadLora):
        read(flat, {}, "flux")


def test_what_cannot_be_named_is_refused() -> None:
    with raises(BadLora):
        to_diffusers({"vae": {"x": factors()}})
    module = "encoder.layers.0.mlp.fc1"
    with raises(BadLora):
        to_diffusers({"text_encoder": {module: factors(), f"text_model.{module}": factors()}})


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("transformer.x.diff_b", r"holds changes of biases \(diff_b\) and no factors"),
        ("transformer.x.lora_B.bias", "holds biases beside the factors and no factors"),
        ("clip_g", "is a textual inversion"),
        ("transformer.x.oft_blocks", "OFT"),
        ("transformer.x.a1.weight", "GLoRA"),
        ("transformer.x.lora_up.scale_weight", "fp8 file with scales"),
        ("transformer.x.hada_t1", "Tucker"),
        ("transformer.x.weight", "does not end as a tensor of an adapter does"),
        ("transformer.x.lora_A.geight", "does not end as a tensor of an adapter does"),
        ("transformer_blocks.0.attn.to_q.lora_A.weight", "does not begin with one of: transformer, unet"),
        ("vae.x.lora_A.weight", "does not begin with"),
    ],
)
def test_what_is_not_read_is_named(key: str, reason: str) -> None:
    with pytest.raises(BadLora, match=reason):
        from_diffusers({key: torch.ones(2, 2)})


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (f"transformer.{QWEN}.lora_B.bias", "biases beside the factors"),
        (f"diffusion_model.{QWEN}.diff_b", "changes of biases"),
        (f"lora_unet_{QWEN}.bias_diff", "changes of biases"),
        (f"transformer.{QWEN}.bias", "biases, which"),
        ("diffusion_model.txt_norm.diff", "whole weights"),
        ("lora_unet_txt_norm.w_norm", "normalisation layers"),
        ("bundle_emb.ema yasuhara.clip_g", "bundled embeddings"),
    ],
)
def test_what_stands_beside_the_factors_is_named_and_they_are_read(key: str, kind: str) -> None:
    found = read(pair(f"transformer.{QWEN}") | {key: torch.ones(8)}, {})
    assert list(found.components["transformer"]) == [QWEN]
    (line,) = found.unread
    assert line.startswith(f"1 tensors are {kind}")


def test_what_is_not_read_is_named_of_a_file_of_no_family_too() -> None:
    found = read(pair("transformer.x") | {"transformer.x.diff_b": torch.ones(8)}, {})
    assert found.family is None
    assert found.unread == ("1 tensors are changes of biases (diff_b), which are not read.",)


@pytest.mark.parametrize(
    ("stem", "modules"),
    [
        ("double_blocks.3.processor.qkv_lora1", ("attn.to_q", "attn.to_k", "attn.to_v")),
        ("double_blocks.3.processor.proj_lora1", ("attn.to_out.0",)),
        ("double_blocks.3.processor.qkv_lora2", ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")),
        ("diffusion_model.double_blocks.3.processor.proj_lora2", ("attn.to_add_out",)),
        ("single_blocks.3.processor.qkv_lora", ("attn.to_q", "attn.to_k", "attn.to_v")),
        ("single_blocks.3.processor.proj_lora", ("proj_out",)),
    ],
)
def test_loras_of_xlabs_are_read_as_diffusers_reads_them(
    tmp_path: Path, stem: str, modules: tuple[str, ...]
) -> None:
    """x-flux' attention processors; diffusers' own importer of them is the judge."""
    columns = 15360 if modules == ("proj_out",) else 3072
    flat = {f"{stem}.down.weight": torch.randn(2, columns)}
    flat |= {f"{stem}.up.weight": torch.randn(3072 * len(modules), 2)}
    found = read(flat, {})
    assert found.family == "flux"
    blocks = "single_transformer_blocks" if "single" in stem else "transformer_blocks"
    adapter = found.components["transformer"]
    assert list(adapter) == [f"{blocks}.3.{module}" for module in modules]
    save_file(flat, tmp_path / "lora.safetensors")
    loaded = as_loaded(tmp_path / "lora.safetensors", family_keys("flux"))
    assert require_equal("lora", "diffusers", loaded, found.components, torch.float32) == 0.0


T5_MODULE = "encoder.block.0.layer.0.SelfAttention.q"
CLIP_MODULE = "text_model.encoder.layers.3.self_attn.q_proj"


@pytest.mark.parametrize(
    ("family", "prefix", "module", "component"),
    [
        ("sd15", "lora_te.", CLIP_MODULE, "text_encoder"),
        ("sdxl", "lora_te1.", CLIP_MODULE, "text_encoder"),
        ("sdxl", "lora_te2.", CLIP_MODULE, "text_encoder_2"),
        ("sdxl", "clip_l.", CLIP_MODULE, "text_encoder"),
        ("sdxl", "clip_g.", CLIP_MODULE, "text_encoder_2"),
        ("sd3", "t5.", T5_MODULE, "text_encoder_3"),
        ("sd3", "lora_te3.", T5_MODULE, "text_encoder_3"),
        ("flux", "clip_l.", CLIP_MODULE, "text_encoder"),
        ("flux", "t5.", T5_MODULE, "text_encoder_2"),
        ("flux", "t5xxl.", T5_MODULE, "text_encoder_2"),
        ("flux", "lora_te2.", T5_MODULE, "text_encoder_2"),
    ],
)
def test_dotted_names_of_text_encoders_are_read(
    family: str, prefix: str, module: str, component: str
) -> None:
    found = read(pair(prefix + module), {}, family)
    assert list(found.components) == [component]
    assert list(found.components[component]) == [module]


def test_a_control_lora_is_called_so() -> None:
    flat = {"img_in.lora_A.weight": torch.ones(2, 128), "img_in.lora_B.weight": torch.ones(3072, 2)}
    flat |= {"double_blocks.0.img_attn.norm.key_norm.scale": torch.ones(128)}
    with pytest.raises(BadLora, match="is a control LoRA of FLUX.1"):
        read(flat, {})


@pytest.mark.parametrize(("half", "missing"), [("A", "lora_B"), ("B", "lora_A")])
def test_half_a_pair_is_refused(half: str, missing: str) -> None:
    with pytest.raises(BadLora, match=f"transformer.x has no {missing}"):
        from_diffusers({f"transformer.x.lora_{half}.weight": torch.ones(2, 2)})


def test_shapes_that_do_not_fit_are_named() -> None:
    flat = {"transformer.x.lora_A.weight": torch.ones(2, 4), "transformer.x.lora_B.weight": torch.ones(4, 3)}
    with raises(BadLora):
        from_diffusers(flat)


def pair(
    stem: str, down: str = "lora_A.weight", up: str = "lora_B.weight", **more: Tensor
) -> dict[str, Tensor]:
    one = factors()
    return {f"{stem}.{down}": one.down, f"{stem}.{up}": one.up} | {f"{stem}.{k}": v for k, v in more.items()}


SPELLINGS = {
    "diffusers": (pair(f"transformer.{QWEN}"), 1.0),
    "adapter name": (pair(f"transformer.{QWEN}", "lora_A.default.weight", "lora_B.default.weight"), 1.0),
    "peft": (pair(f"base_model.model.{QWEN}"), 1.0),
    "ComfyUI": (pair(f"diffusion_model.{QWEN}"), 1.0),
    "bare": (pair(QWEN), 1.0),
    "kohya": (pair("lora_unet_" + QWEN.replace(".", "_"), "lora_down.weight", "lora_up.weight"), 1.0),
    "alpha": (pair(f"transformer.{QWEN}", alpha=torch.tensor(8)), 4.0),
    "OneTrainer": (
        pair("lora_transformer_" + QWEN.replace(".", "_"), "lora_down.weight", "lora_up.weight"),
        1.0,
    ),
    "before peft": (pair(f"transformer.{QWEN}", "lora.down.weight", "lora.up.weight"), 1.0),
}


@pytest.mark.parametrize("spelled", SPELLINGS)
def test_every_spelling_is_read(spelled: str) -> None:
    flat, scale = SPELLINGS[spelled]
    found = read(flat, {})
    change = found.components["transformer"][QWEN]
    assert found.family == "qwen-image"
    assert torch.equal(change.up, factors().up * scale)  # pyright: ignore
    assert torch.equal(change.down, factors().down)  # pyright: ignore


def test_names_of_the_first_diffusers_are_read() -> None:
    stem = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora"
    one = factors(into=768)
    found = read({f"{stem}.down.weight": one.down, f"{stem}.up.weight": one.up}, {}, "sd15")
    assert list(found.components["unet"]) == [
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0"
    ]


@pytest.mark.parametrize("level", ["text_model.", ""])
@pytest.mark.parametrize("prefix", ["text_encoder_2.", "lora_te2_", "text_encoders.clip_g.transformer."])
def test_text_encoders_of_both_transformers(prefix: str, level: str) -> None:
    module = f"{level}encoder.layers.3.mlp.fc1"
    stem = prefix + (module.replace(".", "_") if prefix.startswith("lora_") else module)
    found = read(pair(stem), {}, "sdxl")
    assert list(found.components["text_encoder_2"]) == ["text_model.encoder.layers.3.mlp.fc1"]


def test_a_convolution_through_a_middle_one() -> None:
    stem = "lora_unet_input_blocks_1_0_in_layers_2"
    down, mid, up = torch.randn(3, 5, 1, 1), torch.randn(2, 3, 3, 3), torch.randn(4, 2, 1, 1)
    flat = {f"{stem}.lora_down.weight": down, f"{stem}.lora_mid.weight": mid, f"{stem}.lora_up.weight": up}
    change = read(flat, {}, "sdxl").components["unet"]["down_blocks.0.resnets.0.conv1"]
    image = torch.randn(1, 5, 6, 6)
    conv = torch.nn.functional.conv2d
    assert isinstance(change, Factors)
    assert torch.allclose(
        conv(conv(image, change.down), change.up), conv(conv(conv(image, down), mid), up), atol=1e-4
    )


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"transformer.r": 2, "transformer.lora_alpha": 8}, 4.0),
        ({"transformer.lora_alpha": 8, "transformer.use_rslora": True}, 8 / 2**0.5),
        ({"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"attn.to_q": 1}}, 0.5),
        ({"text_encoder.lora_alpha": 8}, 1.0),
    ],
)
def test_strength_kept_in_settings_is_multiplied_in(settings: dict[str, object], scale: float) -> None:
    found = read(pair(f"transformer.{QWEN}"), {HEADER_KEY: json.dumps(settings)})
    change = found.components["transformer"][QWEN]
    assert torch.allclose(change.up, factors().up * scale)  # pyright: ignore
    assert "which only diffusers reads" in found.repairs[0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not JSON"),
        ("[1]", "is no JSON object"),
        ('{"transformer.r": 2}', "for transformer has no lora_alpha"),
        ('{"transformer.lora_alpha": "x"}', "for transformer has no lora_alpha"),
    ],
)
def test_settings_that_mean_nothing_are_refused(text: str, reason: str) -> None:
    with pytest.raises(BadLora, match=reason):
        read(pair(f"transformer.{QWEN}"), {HEADER_KEY: text})


def test_a_scale_said_twice_is_refused() -> None:
    settings = {HEADER_KEY: json.dumps({"transformer.lora_alpha": 8})}
    with raises(BadLora):
        read(pair(f"transformer.{QWEN}", alpha=torch.tensor(8.0)), settings)


DOUBLE = "transformer_blocks.3.attn.to_q"


def test_families_are_told_apart() -> None:
    assert (
        read(pair(f"diffusion_model.{DOUBLE}"), {"modelspec.architecture": "Qwen-Image"}).family
        == "qwen-image"
    )
    assert read(pair("diffusion_model.double_blocks.18.img_attn.proj"), {}).family == "flux"
    assert read(pair("diffusion_model.double_blocks.4.img_attn.proj"), {}).family == "flux2"
    for width, family in ((768, "sd15"), (2048, "sdxl")):
        stem = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
        flat = {f"{stem}.lora_down.weight": torch.ones(1, width), f"{stem}.lora_up.weight": torch.ones(4, 1)}
        assert read(flat, {}).family == family
    with raises(BadLora):
        read(pair(f"diffusion_model.{DOUBLE}"), {})
    assert read(pair(f"transformer.{DOUBLE}"), {}).family is None


def test_what_is_in_no_family_is_named() -> None:
    flat = pair("lora_unet_double_blocks_0_img_attn_proj") | pair("lora_unet_nowhere")
    with raises(BadLora):
        read(flat, {})
    with raises(BadLora):
        read(flat, {}, "qwen-image")


def test_two_spellings_of_one_module_are_refused() -> None:
    with raises(BadLora):
        read(pair(f"transformer.{QWEN}") | pair(f"diffusion_model.{QWEN}"), {})
    with raises(BadLora):
        read(pair(QWEN) | pair(QWEN, "lora_A.other.weight", "lora_B.other.weight"), {})
