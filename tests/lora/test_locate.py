import pytest

from limner.lora.locate import locate
from limner.models.key_map import KeyStyle
from limner.models.registry import lora_keys

FLUX = lora_keys()["flux"]
FC1, T5_Q = "text_model.encoder.layers.0.mlp.fc1", "encoder.block.0.layer.0.SelfAttention.q"


@pytest.mark.parametrize(
    ("stem", "component", "module"),
    [
        ("transformer.transformer_blocks.3.attn.to_k", "transformer", "transformer_blocks.3.attn.to_k"),
        ("base_model.model.x_embedder", "transformer", "x_embedder"),
        ("lora_unet_double_blocks_3_img_attn_proj", "transformer", "transformer_blocks.3.attn.to_out.0"),
        ("lora_te1_encoder_layers_0_mlp_fc1", "text_encoder", "text_model.encoder.layers.0.mlp.fc1"),
        (
            "lora_te1_text_model_encoder_layers_0_mlp_fc1",
            "text_encoder",
            "text_model.encoder.layers.0.mlp.fc1",
        ),
        (
            "lora_te3_encoder_block_0_layer_0_SelfAttention_q",
            "text_encoder_2",
            "encoder.block.0.layer.0.SelfAttention.q",
        ),
    ],
)
def test_a_module_is_found_in_every_spelling(stem: str, component: str, module: str) -> None:
    location = locate(stem, FLUX)
    assert location is not None
    assert (location.component, location.match.modules[location.match.member or 0]) == (component, module)


def test_only_the_styles_that_are_given_are_tried() -> None:
    styles = (KeyStyle("transformer.", "diffusers"),)
    assert locate("x_embedder", FLUX, styles, {}) is None
    assert locate("transformer.x_embedder", FLUX, styles, {}) is not None
    assert locate("lora_te1_text_model_encoder_layers_0_mlp_fc1", FLUX, styles, {}) is None
    assert locate("text_model.encoder.layers.0.mlp.fc1", FLUX, (), {"no_encoder": styles}) is None
