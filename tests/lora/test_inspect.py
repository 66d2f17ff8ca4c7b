import base64
import io

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from limner.lora import file, keys
from limner.lora.inspect import inspect, printable, table, thumbnail
from limner.lora.tools import COMFYUI, TOOLS
from limner.models.key_map import KeyMatch, KeyStyle
from limner.models.registry import family_keys, lora_keys
from loras import denoiser, dora, factors

ABOUT = {
    "modelspec.architecture": "Qwen-Image/lora",
    "modelspec.title": "cat\x1b[31m\u202e",
    "modelspec.trigger_phrase": "sks cat",
    "ss_steps": "900",
    "ss_learning_rate": "None",
}


def test_what_is_in_a_file(tmp_path) -> None:
    path = tmp_path / "a.safetensors"
    file.write(path, {"transformer": denoiser("qwen-image")}, ABOUT, torch.float16)
    info = inspect(path)
    (part,) = info.components
    assert (info.family, info.form, info.dtype, info.triggers) == (
        "qwen-image",
        "diffusers",
        "float16",
        ("sks cat",),
    )
    assert info.training == {"steps": "900"}
    assert info.title == "cat [31m "
    assert (part.modules, part.kinds, set(part.ranks)) == (34, ("LoRA",), {"1", "2", "3"})
    assert part.targets["attn.to_q"] == 2
    norms = [change.dense().norm().item() for change in denoiser("qwen-image").values()]  # pyright: ignore
    assert part.norm == pytest.approx(sum(norm**2 for norm in norms) ** 0.5, rel=1e-3)
    assert part.strongest[0][1] == pytest.approx(max(norms), rel=1e-3)
    assert {tool: text for tool, text in info.loads.items() if text == "yes"}.keys() == {
        "diffusers",
        "comfyui",
    }
    assert info.loads["kohya"].endswith("-> limner lora convert --to kohya")
    assert info.loads["diffsynth"].startswith("passes over 34 of its parts")
    text = "\n".join(table(info))
    assert "transformer: 34 modules, LoRA, rank 1 (12), 2 (11), 3 (11)" in text
    assert "\x1b" not in text


def test_a_file_that_diffusers_fails_on(tmp_path) -> None:
    path = tmp_path / "a.safetensors"
    adapter = {"proj_out": factors(), "single_transformer_blocks.0.proj_out": factors()}
    file.write(
        path, {"transformer": adapter}, {"ss_base_model_version": "flux1"}, tool=COMFYUI, family="flux"
    )
    info = inspect(path)
    assert info.form == "ComfyUI (native names)"
    assert info.loads["comfyui"] == "yes"
    assert info.loads["diffusers"].startswith("no: ")


def test_advice_for_files_of_our_own_is_not_given_for_others(tmp_path) -> None:
    """T5's part of a kohya file of FLUX.1: diffusers drops it. There is nothing to export again."""
    path = tmp_path / "a.safetensors"
    flat = {
        f"{stem}.{key}": tensor
        for stem in (
            "lora_unet_double_blocks_0_img_mlp_0",
            "lora_te3_encoder_block_0_layer_1_DenseReluDense_wi_0",
        )
        for key, tensor in keys.encode(factors(), peft=False).items()
    }
    save_file(flat, path)
    text = inspect(path, "flux").loads["diffusers"]
    assert text.startswith("no: it reads 1 modules otherwise, the first is text_encoder_2.")
    assert text.endswith("wi_0 -> limner lora convert --to diffusers")


def test_a_file_of_no_known_family_says_how_to_learn_more(tmp_path) -> None:
    path, stem = tmp_path / "a.safetensors", "transformer.transformer_blocks.0.attn.to_q"
    flat = {f"{stem}.{key}": tensor for key, tensor in keys.encode(factors(3072, 3072), peft=True).items()}
    save_file(flat, path)
    info = inspect(path)
    assert info.loads == {}
    assert info.problems[-1].endswith("Say it with --family.")


PREFIXES = (
    "transformer.",
    "unet.",
    "diffusion_model.",
    "model.diffusion_model.",
    "base_model.model.",
    "transformer.base_model.model.",
    "",
    "lora_unet_",
    "lora_transformer_",
    "lycoris_",
)


def spelled(family: str, prefix: str, naming: str, ending: str) -> dict[str, torch.Tensor]:
    """Two modules of a family and one of a text encoder under a prefix; alpha is half the rank."""
    names, style = family_keys(family), KeyStyle(prefix, naming, flat=prefix.endswith("_"))  # pyright: ignore
    flat: dict[str, torch.Tensor] = {}
    for n, row in enumerate(names.table.rows[:2]):
        match = KeyMatch(row, 0, ("1",) * row.native.count("{}"))
        stem = style.render(names.table.name_of(match, naming))  # pyright: ignore
        out = 8 * (sum(row.shares) if naming == "native" else row.shares[0])
        for key, tensor in keys.encode(factors(out, seed=n), peft=ending == "lora_A").items():
            flat[f"{stem}.{key}"] = tensor / 2 if key == "alpha" else tensor
    if names.text and style.flat:
        flat |= {
            f"lora_te1_text_model_encoder_layers_0_mlp_fc1.{key}": tensor
            for key, tensor in keys.encode(factors(), peft=False).items()
        }
    return flat


@pytest.mark.parametrize("family", lora_keys())
@pytest.mark.parametrize("prefix", PREFIXES)
def test_no_form_of_a_file_ends_in_a_traceback(tmp_path, family: str, prefix: str) -> None:
    """Stock importers fail on many of them with whatever Python raises."""
    path = tmp_path / "a.safetensors"
    for naming in ("diffusers", "native"):
        for ending in ("lora_A", "lora_down"):
            save_file(spelled(family, prefix, naming, ending), path)
            info = inspect(path, family)
            assert info.loads.keys() == TOOLS.keys()
            for tool, text in info.loads.items():
                known = tool in lora_keys()[family].tools
                assert text == "yes" or (" -> limner lora convert" in text) == known


def test_what_stands_beside_the_factors_is_told(tmp_path) -> None:
    path, stem = tmp_path / "a.safetensors", "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    flat = {f"{stem}.{key}": tensor for key, tensor in keys.encode(factors(), peft=False).items()}
    save_file(flat | {f"{stem}.diff_b": torch.ones(8)}, path)
    assert "  note: 1 tensors are changes of biases (diff_b), which are not read." in table(
        inspect(path, "sdxl")
    )


@pytest.mark.parametrize("alphas", [(4.0, 4.0), (4.0, 1.0)])
def test_alphas_beside_the_factors_are_no_reason_to_say_no(tmp_path, alphas: tuple[float, float]) -> None:
    """diffusers reads every kohya file of SDXL; unequal alphas it takes for equal ones (0.42.1)."""
    path, flat = tmp_path / "a.safetensors", {}
    for n, alpha in enumerate(alphas):
        stem = f"lora_unet_input_blocks_4_1_transformer_blocks_{n}_attn1_to_q"
        for key, tensor in keys.encode(factors(seed=n), peft=False).items():
            flat[f"{stem}.{key}"] = torch.tensor(alpha) if key == "alpha" else tensor
    save_file(flat, path)
    text = inspect(path, "sdxl").loads["diffusers"]
    assert (text == "yes") == (alphas[0] == alphas[1])


def test_a_dora_has_the_norm_of_its_factors(tmp_path) -> None:
    path = tmp_path / "a.safetensors"
    file.write(path, {"transformer": {"img_in": dora()}}, ABOUT)
    assert inspect(path).components[0].norm == pytest.approx(dora().factors.dense().norm().item(), rel=1e-5)


def picture(kind: str, side: int = 8) -> str:
    held = io.BytesIO()
    Image.new("RGB", (side, side)).save(held, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(held.getvalue()).decode()}"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", ""),
        (picture("PNG"), "PNG, 8 x 8"),
        (picture("JPEG"), "JPEG, 8 x 8"),
        (picture("PNG", 2500), "not shown: it has 2500 x 2500 pixels"),
        ("javascript:alert(1)", "not shown: it is no JPEG, PNG or WebP"),
        ("data:image/svg+xml;base64,AAAA", "not shown: it is no JPEG"),
        ("data:image/png;base64,AAAA", "not shown: it cannot be decoded (UnidentifiedImageError)"),
        ("data:image/png;base64,@", "not shown: it cannot be decoded (Error)"),
        ("data:image/png;base64," + "A" * 400_000, "not shown: it has 400000 characters"),
    ],
)
def test_pictures_are_not_trusted(url: str, told: str) -> None:
    assert thumbnail(url).startswith(told)


def test_endless_texts_are_cut() -> None:
    assert printable("a\nb\tc") == "a b c"
    assert len(printable("x" * 9999)) < 310


@pytest.mark.parametrize(("tool", "family"), [("sd-scripts", "sdxl"), ("musubi", "qwen-image")])
@pytest.mark.parametrize("ending", ["lora_A", "lora_down"])
def test_kohyas_trainers_know_their_own_endings_alone(tmp_path, tool: str, family: str, ending: str) -> None:
    path, style = tmp_path / "a.safetensors", family_keys(family).tools[tool].writes
    flat = spelled(family, style.prefix, style.naming, ending)
    save_file({name: tensor for name, tensor in flat.items() if "_te1_" not in name}, path)
    assert inspect(path, family).loads[tool].startswith("yes" if ending == "lora_down" else "passes over 2 ")


@pytest.mark.parametrize(
    ("family", "stem", "rows", "reader"),
    [
        ("flux", "lora_unet_double_blocks_0_img_mlp_0", (12288, 3072), "stops at a module without alpha"),
        ("sd3", "lora_unet_joint_blocks_0_x_block_mlp_fc1", (6144, 1536), "stops at a module without alpha"),
        ("sd15", "lora_unet_mid_block_attentions_0_proj_in", (1280, 1280), ""),
    ],
)
def test_sd_scripts_stops_at_a_module_without_alpha_but_for_u_nets(tmp_path, family, stem, rows, reader):
    """``modules_alpha[lora_name]`` of lora_flux.py and lora_sd3.py; lora.py fills in the rank."""
    path = tmp_path / "a.safetensors"
    high, wide = rows
    flat = {f"{stem}.lora_down.weight": torch.ones(2, wide), f"{stem}.lora_up.weight": torch.ones(high, 2)}
    save_file(flat, path)
    said = inspect(path, family).loads["sd-scripts"]
    assert reader in said and said.startswith("no: sd-scripts" if reader else "yes")
    save_file(flat | {f"{stem}.alpha": torch.tensor(2.0)}, path)
    assert inspect(path, family).loads["sd-scripts"] == "yes"


@pytest.mark.parametrize(
    ("family", "wide", "loads"), [("sdxl", 2048, "yes"), ("sd15", 768, "no: StableDiffusionPipeline has no")]
)
def test_of_u_nets_diffusers_knows_the_authors_names_for_sdxl_alone(tmp_path, family, wide, loads) -> None:
    """Of all ``load_lora_weights`` only SDXL's hands on the config by which they are told apart."""
    stem, path = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", tmp_path / "a.safetensors"
    flat = {f"{stem}.lora_down.weight": torch.ones(2, wide), f"{stem}.lora_up.weight": torch.ones(640, 2)}
    save_file(flat | {f"{stem}.alpha": torch.tensor(2.0)}, path)
    assert inspect(path, family).loads["diffusers"].startswith(loads)


@pytest.mark.parametrize(("block", "loads"), [("down_blocks_1", "yes"), ("mid_block", "passes over 1")])
def test_sd_scripts_turns_diffusers_names_of_sdxl_into_its_own(tmp_path, block, loads) -> None:
    """``convert_diffusers_to_sai_if_needed`` looks for down and up blocks alone."""
    stem, path = f"lora_unet_{block}_attentions_0_transformer_blocks_0_attn2_to_k", tmp_path / "a.safetensors"
    wide = 640 if block.startswith("down") else 1280
    flat = {f"{stem}.lora_down.weight": torch.ones(2, 2048), f"{stem}.lora_up.weight": torch.ones(wide, 2)}
    save_file(flat | {f"{stem}.alpha": torch.tensor(2.0)}, path)
    assert inspect(path, "sdxl").loads["sd-scripts"].startswith(loads)
