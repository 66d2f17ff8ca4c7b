import pytest
import transformers
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from limner.models.auto_class import class_in

SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def test_a_class_is_that_of_the_library(tmp_path):
    folder = tmp_path / "clip"
    CLIPTextModel(CLIPTextConfig(vocab_size=32, **SIZES)).save_pretrained(folder)
    theirs = transformers.AutoModel.from_pretrained(folder)
    assert class_in(transformers.MODEL_MAPPING, folder) is type(theirs)
    config = T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(tmp_path / "t5")
    with pytest.raises(ValueError, match="T5Config is of no such model"):
        class_in(transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, tmp_path / "t5")
    with pytest.raises(OSError, match="nowhere"):
        class_in(transformers.MODEL_MAPPING, tmp_path / "nowhere")
