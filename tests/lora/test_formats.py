import pytest
import torch

from limner.errors import BadLora
from limner.lora.adapter import Factors
from limner.lora.formats import from_diffusers, to_diffusers


def factors(rank: int = 2) -> Factors:
    return Factors(torch.randn(rank, 4), torch.randn(6, rank))


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
    components = {"unet": {"mid_block.attn.to_q": factors()}, "text_encoder_2": {name: factors(3)}}
    again = from_diffusers(to_diffusers(components))
    assert again.keys() == components.keys()
    for component, adapter in components.items():
        for module, kept in adapter.items():
            assert torch.equal(again[component][module].down, kept.down)
            assert torch.equal(again[component][module].up, kept.up)


def test_what_cannot_be_named_is_refused() -> None:
    with pytest.raises(BadLora, match="component 'vae'"):
        to_diffusers({"vae": {"x": factors()}})
    module = "encoder.layers.0.mlp.fc1"
    with pytest.raises(BadLora, match=r"both be written as text_encoder\.text_model\.encoder"):
        to_diffusers({"text_encoder": {module: factors(), f"text_model.{module}": factors()}})


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", "kohya"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha", "kohya"),
        ("diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight", "ComfyUI"),
        ("base_model.model.x.lora_A.weight", "peft does on its own"),
        ("transformer.x.lora_A.default.weight", "peft's adapter"),
        ("transformer.x.alpha", "scale beside the factors"),
        ("transformer.x.lora_magnitude_vector", "DoRA"),
        ("transformer.x.dora_scale", "DoRA"),
        ("transformer.x.lokr_w1", "LoKr"),
        ("transformer.x.hada_w1_a", "LoHa"),
        ("unet.x.lora.down.weight", "before peft"),
        ("unet.x.attn1.processor.to_q_lora.up.weight", "before peft"),
        ("text_encoder.x.lora_linear_layer.up.weight", "before peft"),
        ("transformer_blocks.0.attn.to_q.lora_A.weight", "does not begin with one of: transformer, unet"),
        ("transformer.x.lora_A.bias", "does not begin with"),
        ("vae.x.lora_A.weight", "does not begin with"),
    ],
)
def test_other_forms_are_named(key: str, reason: str) -> None:
    with pytest.raises(BadLora, match=reason):
        from_diffusers({key: torch.ones(2, 2)})


@pytest.mark.parametrize(("half", "missing"), [("A", "lora_B"), ("B", "lora_A")])
def test_half_a_pair_is_refused(half: str, missing: str) -> None:
    with pytest.raises(BadLora, match=f"transformer.x has no {missing}"):
        from_diffusers({f"transformer.x.lora_{half}.weight": torch.ones(2, 2)})


def test_shapes_that_do_not_fit_are_named() -> None:
    flat = {"transformer.x.lora_A.weight": torch.ones(2, 4), "transformer.x.lora_B.weight": torch.ones(4, 3)}
    with pytest.raises(BadLora, match=r"transformer\.x: Factors of shapes \(2, 4\) and \(4, 3\)"):
        from_diffusers(flat)
