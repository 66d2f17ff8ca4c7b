from limner.models.lora_keys import KOHYA_CLIP_L, by_either_name, diffusers_keys, dotted, flat, kohya_keys


def test_styles_render_names_as_files_have_them():
    assert flat("lora_unet_").render("blocks.3.attn.to_q") == "lora_unet_blocks_3_attn_to_q"
    assert dotted("transformer.").render("blocks.3.attn.to_q") == "transformer.blocks.3.attn.to_q"


def test_diffusers_names_each_component_by_itself():
    rules = diffusers_keys("unet", "text_encoder")
    assert rules.peft and rules.writes.prefix == "unet."
    assert [style.prefix for style in rules.text["text_encoder"]] == ["text_encoder."]


def test_an_encoder_may_be_called_as_diffusers_calls_it_besides():
    text = {"text_encoder": KOHYA_CLIP_L, "text_encoder_2": KOHYA_CLIP_L}
    wider = by_either_name(text, "text_encoder")
    assert wider["text_encoder"] == (*KOHYA_CLIP_L, dotted("text_encoder."))
    assert wider["text_encoder_2"] == KOHYA_CLIP_L == kohya_keys(text).text["text_encoder"]
