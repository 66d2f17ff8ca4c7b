"""The models that the guide names: tiny random ones of the true architectures, with their true processors."""

from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessorPil,
)
from transformers.models.smolvlm import processing_smolvlm

from limner.captions.client import Request
from limner.captions.prompt_image import prompt_image
from limner.captions.providers import Options, provider

WORDS = ["a", "grey", "dog", "runs", "on", "sand", "in", "the", "sun", "near", "blue", "water"]
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
VISION = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}


def tokenizer(special, **named):
    words = {word: n for n, word in enumerate(["<pad>", "<unk>", "<s>", "</s>", *special, *WORDS])}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named |= {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, extra_special_tokens=list(special), **named)


def template(mark):
    return (
        "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
        f"{mark}{{% else %}}{{{{ ' ' + part['text'] + ' ' }}}}{{% endif %}}{{% endfor %}}{{% endfor %}}"
    )


def qwen(folder, config, model):
    """The Qwen-VL kin. Their readers of videos need torchvision, and are left out where it is missing."""
    special = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    words = tokenizer(special)
    words.chat_template = template("<|vision_start|><|image_pad|><|vision_end|>")
    words.save_pretrained(folder)
    patch = 16 if config is Qwen3VLConfig else 14
    smallest = {"shortest_edge": (2 * patch) ** 2, "longest_edge": (8 * patch) ** 2}
    Qwen2VLImageProcessorPil(patch_size=patch, size=smallest).save_pretrained(folder)
    vision = {"depth": 1, "num_heads": 2, "hidden_size": 32, "intermediate_size": 32, "patch_size": patch}
    if config is Qwen2VLConfig:
        vision |= {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 1}
    else:
        vision |= {"out_hidden_size": 32}
    if config is Qwen2_5_VLConfig:
        vision |= {"fullatt_block_indexes": [0], "window_size": 4 * patch}
    if config is Qwen3VLConfig:
        vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    text = {**TEXT, "vocab_size": len(words), "rope_parameters": rope}
    text |= {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    text |= {"head_dim": 16} if config is Qwen3VLConfig else {}
    marks = dict(
        zip(
            ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id"),
            range(4, 8),
            strict=True,
        )
    )
    model(config(vision_config=vision, text_config=text, **marks)).save_pretrained(folder)


def qwen2(folder, _):
    qwen(folder, Qwen2VLConfig, Qwen2VLForConditionalGeneration)


def qwen2_5(folder, _):
    qwen(folder, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration)


def qwen3(folder, _):
    qwen(folder, Qwen3VLConfig, Qwen3VLForConditionalGeneration)


def idefics(folder, _):
    words = idefics_words()
    images = Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    Idefics3Processor(images, words, image_seq_len=1, chat_template=template("<image>")).save_pretrained(
        folder
    )
    text = {**TEXT, "vocab_size": len(words), "pad_token_id": 0, "model_type": "llama"}
    vision = {**VISION, "image_size": 32, "patch_size": 16}
    config = Idefics3Config(vision_config=vision, text_config=text, image_token_id=4, scale_factor=2)
    Idefics3ForConditionalGeneration(config).save_pretrained(folder)


def idefics_words():
    grid = [f"<row_{y}_col_{x}>" for y in range(1, 5) for x in range(1, 5)]
    return tokenizer(["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *grid])


def smolvlm(folder, monkeypatch):
    monkeypatch.setattr(processing_smolvlm, "num2words", str)  # of the extra; it spells the length of videos
    words = idefics_words()
    words.chat_template = template("<image>")
    words.save_pretrained(folder)
    SmolVLMImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32}).save_pretrained(
        folder
    )
    (folder / "processor_config.json").write_text(
        '{"image_seq_len": 1, "processor_class": "SmolVLMProcessor"}'
    )
    text = {**TEXT, "vocab_size": len(words), "pad_token_id": 0, "model_type": "llama"}
    vision = {**VISION, "image_size": 32, "patch_size": 16}
    config = SmolVLMConfig(vision_config=vision, text_config=text, image_token_id=4, scale_factor=2)
    SmolVLMForConditionalGeneration(config).save_pretrained(folder)


def florence(folder, _):
    words = tokenizer(["<image>"], model_specific_special_tokens={"image_token": "<image>"})
    side = {"height": 64, "width": 64}
    images: Any = CLIPImageProcessorPil(size=side, crop_size=side, do_center_crop=False)
    images.image_seq_length = 5
    Florence2Processor(images, words).save_pretrained(folder)
    vision = {
        "depths": [1, 1, 1, 1],
        "embed_dim": [8, 8, 16, 16],
        "num_heads": [1, 1, 2, 2],
        "num_groups": [1, 1, 2, 2],
        "projection_dim": 16,
        "window_size": 4,
    }
    layers = {
        f"{side}_{what}": n
        for side in ("encoder", "decoder")
        for what, n in (("layers", 1), ("ffn_dim", 16), ("attention_heads", 2))
    }
    ends = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    text = {**layers, **ends, "model_type": "bart", "d_model": 16, "vocab_size": len(words)}
    text |= {"max_position_embeddings": 64, "decoder_start_token_id": 3, "forced_eos_token_id": 3}
    config: Any = Florence2Config
    config = config(vision_config=vision, text_config=text, image_token_id=4, **ends)
    Florence2ForConditionalGeneration(config).save_pretrained(folder)


@pytest.mark.parametrize("build", [qwen2, qwen2_5, qwen3, idefics, smolvlm, florence])
def test_a_model_of_the_true_architecture_reads_a_picture_and_answers(build, tmp_path, monkeypatch):
    torch.manual_seed(0)
    folder = tmp_path / build.__name__
    folder.mkdir()
    build(folder, monkeypatch)
    path = tmp_path / "a.png"
    Image.radial_gradient("L").convert("RGB").resize((60, 40)).save(path)
    one = provider(Options(name="local", model=str(folder), device="cpu"))
    request = Request(system="a dog", text="runs", images=(prompt_image(path, 64),), tokens=6)
    reply = one.ask(request)
    assert one.ask(request) == reply, "greedy"
    assert 0 < reply.tokens_out <= 8 and reply.tokens_in > 3
    assert set(reply.text.replace("<unk>", "").split()) <= set(WORDS)
    told = build is not florence
    assert (one.takes, one.reads_sets) == (("text", True) if told else ("nothing", False))
    if told:
        longer = one.ask(Request(system="a dog", text="runs", images=request.images * 2, tokens=1))
        assert longer.tokens_in > reply.tokens_in, "each picture has its own tokens"
