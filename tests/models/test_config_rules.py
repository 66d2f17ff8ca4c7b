import json
import os
import shutil

import pytest

from limner.errors import BadBase
from limner.models.bundled import known
from limner.models.config_rules import class_names, require_plain
from limner.models.registry import families, hub_bases
from limner.models.source import locate
from messages import raises

EVIL = {"AutoModel": "../../evil--model.Model"}


@pytest.fixture
def base(tiny_base, tmp_path):
    return shutil.copytree(tiny_base, tmp_path / "base", copy_function=os.link)


def change(path, **entries):
    table = json.loads(path.read_text())
    path.unlink()  # it is a link
    path.write_text(json.dumps({**table, **entries}))


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("model_index.json", "scheduler", ["diffusers", "NoSuchScheduler"]),
        ("model_index.json", "scheduler", ["os", "system"]),
        ("model_index.json", "scheduler", None),
        ("model_index.json", "text_encoder", ["my_module", "CLIPTextModel"]),
        ("model_index.json", "transformer", ["diffusers", "FluxPipeline"]),
        ("model_index.json", "vae", ["diffusers"]),
        ("model_index.json", "_class_name", []),
        ("transformer/config.json", "_class_name", "AnotherModel"),
        ("scheduler/scheduler_config.json", "_class_name", "AnotherScheduler"),
        ("text_encoder/config.json", "auto_map", EVIL),
        ("tokenizer/tokenizer_config.json", "auto_map", {"AutoTokenizer": ["evil.T", None]}),
        ("text_encoder_2/config.json", "_attn_implementation", "kernels-community/flash-attn"),
        ("text_encoder_2/config.json", "text_config", {"attn_implementation": "someone/kernel"}),
        ("text_encoder/config.json", "quantization_config", {"quant_method": "no_such_package"}),
        ("transformer/config.json", "quantization_config", {"quant_method": "bitsandbytes"}),
        ("text_encoder/config.json", "dtype", "nonsense"),
        ("transformer/config.json", "num_layers", 10**9),
        ("text_encoder/config.json", "hidden_size", 10**12),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_names_code_or_no_model_is_refused_by_file_and_key(base, file, key, value):
    change(base / file, **{key: value})
    with raises(BadBase) as error:
        locate(str(base), folders={})
    inner = next(iter(value)) if key == "text_config" else key
    text = str(error.value)
    assert file in text and inner in text and "\n" not in text


def test_a_config_that_nests_without_end(base):
    value: dict = {}
    for _ in range(200):
        value = {"x": [[value]]}
    change(base / "vae/config.json", x=value)
    with raises(BadBase):
        locate(str(base), folders={})
    (base / "vae/config.json").unlink()
    (base / "vae/config.json").write_text('{"x":' * 100_000)
    with pytest.raises(BadBase, match=r"vae/config.json cannot be read"):
        locate(str(base), folders={})


def test_what_is_usual_passes(base):
    change(
        base / "model_index.json",
        image_encoder=[None, None],
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],  # never loaded
        tokenizer_2=["transformers", "T5TokenizerFast"],
        scheduler=["diffusers", "FlowMatchHeunDiscreteScheduler"],
    )
    change(
        base / "text_encoder/config.json", _attn_implementation="sdpa", quantization_config=None, auto_map={}
    )
    assert locate(str(base), folders={}).name == "base"


def test_every_known_base_passes(tmp_path):
    names = list(hub_bases())
    for name in names:
        require_plain(tmp_path, known(name).index)
    assert len(names) >= 10


def test_samplers_are_classes_of_diffusers():
    import diffusers

    for facts in families().values():
        assert all(hasattr(diffusers, name) for name in facts.samplers)
        assert class_names("scheduler", facts) == facts.samplers
    assert class_names("tokenizer_2", families()["flux"]) == ("T5Tokenizer", "T5TokenizerFast")
    assert class_names("vae", families()["flux2"]) == ("AutoencoderKLFlux2",)
