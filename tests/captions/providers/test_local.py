import json

import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from limner.captions.caption import caption
from limner.captions.client import Patience, Request
from limner.captions.prompt_image import prompt_image
from limner.captions.providers import Options, provider
from limner.captions.spec import STYLES, CaptionSpec
from limner.captions.summary import CaptionSettings
from limner.errors import BadProvider
from messages import raises
from small import Told

SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<image>"]
WORDS = ["a", "grey", "dog", "runs", "on", "sand", "in", "the", "sun", "near", "blue", "water"]
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
)


@pytest.fixture(scope="session")
def llava(tmp_path_factory):
    """A random LLaVA of a few thousand weights, with its processor and a chat template."""
    folder = tmp_path_factory.mktemp("vlm") / "tiny-llava"
    words = {word: n for n, word in enumerate([*SPECIAL, *WORDS])}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, extra_special_tokens=["<image>"], **named)
    side = {"height": 28, "width": 28}
    LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=side),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = LlamaConfig(**small, vocab_size=len(words), pad_token_id=0, bos_token_id=2, eos_token_id=3)
    vision = CLIPVisionConfig(**small, image_size=28, patch_size=14, projection_dim=16)
    LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=4, vision_feature_layer=-1)
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def blip(tmp_path_factory):
    """A random BLIP captioner."""
    folder = tmp_path_factory.mktemp("vlm") / "tiny-blip"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *WORDS]
    (folder.parent / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(vocab={word: n for n, word in enumerate(words)})
    side = {"height": 32, "width": 32}
    BlipProcessor(BlipImageProcessorPil(size=side), tokenizer).save_pretrained(folder)
    torch.manual_seed(1)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(words), "encoder_hidden_size": 16, "projection_dim": 16}
    text |= {"bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    config = BlipConfig(text_config=text, vision_config={**small, "image_size": 32, "patch_size": 16})
    BlipForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture
def photo(tmp_path):
    (tmp_path / "photos").mkdir()
    path = tmp_path / "photos" / "a.png"
    Image.radial_gradient("L").convert("RGB").resize((60, 40)).save(path)
    return path


def test_a_chat_model_reads_prompt_and_picture_and_says_the_same_again(llava, photo):
    one = provider(Options(name="local", model=str(llava), device="cpu"))
    assert (one.takes, one.reads_sets, one.parallel, one.destination) == ("text", True, 1, "")
    request = Request(system="a dog", text="runs", images=(prompt_image(photo, 56),), tokens=12)
    reply = one.ask(request)
    assert one.ask(request) == reply
    assert reply.model == "tiny-llava"
    assert set(reply.text.replace("<unk>", "").split()) <= set(WORDS)
    assert 0 < reply.tokens_out <= 12
    assert reply.cut == (reply.tokens_out == 12)
    more = one.ask(Request(system="a dog", text="runs", images=(prompt_image(photo, 56),) * 2, tokens=1))
    assert more.tokens_in > reply.tokens_in + 3


def test_a_captioner_of_one_task_is_taken_as_it_is(blip, photo):
    one = provider(Options(name="local", model=str(blip), device="cpu"))
    assert (one.takes, one.reads_sets) == ("nothing", False)
    reply = one.ask(Request(system="ignored", text="ignored", images=(prompt_image(photo, 64),), tokens=8))
    assert reply.tokens_out <= 8
    assert set(reply.text.split()) <= set(WORDS) | {"[UNK]", "[MASK]", "[DEC]"}


def test_the_whole_verb_sends_nothing_and_flags_what_a_random_model_says(llava, photo):
    reporter = Told()
    wish = CaptionSpec(trigger="sks", style=STYLES["brief"])
    options = Options(name="local", model=str(llava), device="cpu")
    done = caption(photo.parent, wish, options, CaptionSettings(), reporter, Patience())
    assert "Nothing leaves this machine." in reporter.text
    assert (done.cost, done.estimate, done.destination) == (0.0, 0.0, "")
    assert done.new_captions + len(done.failures) == 1
    row = json.loads((photo.parent / "captions.jsonl").read_text().splitlines()[0])
    assert row["model"] == "tiny-llava"
    assert str(llava.parent) not in (photo.parent / "captions.jsonl").read_text()


def test_models_that_are_not_there_are_told_with_the_command(tmp_path):
    with pytest.raises(
        BadProvider,
        match=r"no/such-model is not on this machine(?:(?!\. ).)*\. Run: hf download no/such-model",
    ):
        provider(Options(name="local", model="no/such-model"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadProvider, match="holds no whole vision-language model"):
        provider(Options(name="local", model=str(tmp_path)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there_is_told(llava):
    with raises(BadProvider):
        provider(Options(name="local", model=str(llava), device="cuda"))


def test_a_package_that_a_model_needs_is_told_with_the_command(llava, monkeypatch):
    def missing(*_, **__):
        raise ImportError("\nQwen2VLVideoProcessor requires the Torchvision library but it was not found.")

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", missing)
    with pytest.raises(BadProvider, match=r"tiny-llava needs .*Torchvision.*pip install 'limner\[local\]'"):
        provider(Options(name="local", model=str(llava)))
