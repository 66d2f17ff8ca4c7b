import struct
import sys

import numpy as np
import pytest
from PIL import Image

from limner.captions.caption import caption
from limner.captions.client import Patience, Request
from limner.captions.prompt_image import prompt_image
from limner.captions.providers import Options, provider
from limner.captions.spec import CaptionSpec
from limner.captions.summary import CaptionSettings
from limner.errors import BadProvider
from messages import raises
from small import Told

TAGS = [("general", "9"), ("blue_sky", "0"), ("green", "0"), ("red_hair", "0"), ("miku", "4"), ("^_^", "0")]


# A few bytes of protocol buffers spare the tests a package: a field is its number and type, then its content.


def varint(value):
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def field(number, content):
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    content = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(content)) + content


def tensor(name, values):
    kind = {np.dtype(np.float32): 1, np.dtype(np.int64): 7}[values.dtype]
    dims = b"".join(field(1, size) for size in values.shape)
    return dims + field(2, kind) + field(8, name) + field(9, values.tobytes())


def value_info(name, *shape):
    dims = b"".join(field(1, field(1, size)) for size in shape)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, dims)))


def node(kind, inputs, output, attribute=b""):
    return b"".join(field(1, one) for one in inputs) + field(2, output) + field(4, kind) + attribute


def network(weights, bias, side=8):
    """mean over the picture -> (B, G, R) / 255 -> weights -> sigmoid, as an ONNX file."""
    keep = field(5, field(1, "keepdims") + field(3, 0) + field(20, 2))
    nodes = [
        node("ReduceMean", ["image", "axes"], "mean", keep),
        node("MatMul", ["mean", "weights"], "said"),
        node("Add", ["said", "bias"], "raw"),
        node("Sigmoid", ["raw"], "sure"),
    ]
    held = [
        tensor("axes", np.int64([1, 2])),
        tensor("weights", np.float32(weights) / 255),
        tensor("bias", np.float32(bias)),
    ]
    graph = b"".join(field(1, one) for one in nodes) + field(2, "g") + b"".join(field(5, one) for one in held)
    graph += field(11, value_info("image", 1, side, side, 3)) + field(12, value_info("sure", 1, len(bias)))
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 18))


@pytest.fixture
def tagger(tmp_path):
    folder = tmp_path / "tiny-tagger"
    folder.mkdir()
    #           general  sky  green  red  miku  smile, each by (blue, green, red)
    weights = [[0, 20, 0, 0, 0, 0], [0, 0, 20, 0, 0, 0], [0, 0, 0, 20, 0, 0]]
    (folder / "model.onnx").write_bytes(network(weights, [9, -10, -10, -10, 1, 1]))
    rows = "".join(f"{n},{name},{category},1\n" for n, (name, category) in enumerate(TAGS))
    (folder / "selected_tags.csv").write_text(f"tag_id,name,category,count\n{rows}")
    return folder


@pytest.fixture
def sky(tmp_path):
    (tmp_path / "photos").mkdir()
    path = tmp_path / "photos" / "sky.png"
    Image.new("RGB", (40, 40), (0, 0, 255)).save(path)
    return path


def test_tags_are_those_that_are_sure_enough_the_surest_first(tagger, sky):
    one = provider(Options(name="tagger", model=str(tagger)))
    reply = one.ask(Request(system="", text="", images=(prompt_image(sky, 64),)))
    assert reply.text == "blue sky, ^_^"  # miku is 73 % sure, and names want 85 %; ratings are no tags
    assert reply.model == "tiny-tagger"


def test_pictures_are_put_on_white_squares(tagger, tmp_path):
    Image.new("RGB", (80, 8), (0, 0, 0)).save(tmp_path / "wide.png")
    one = provider(Options(name="tagger", model=str(tagger)))
    reply = one.ask(Request(system="", text="", images=(prompt_image(tmp_path / "wide.png", 64),)))
    assert "green" in reply.text  # black with much white around


def test_the_whole_verb_puts_the_trigger_first(tagger, sky):
    reporter = Told()
    done = caption(
        sky.parent,
        CaptionSpec(trigger="skyline"),
        Options(name="tagger", model=str(tagger)),
        CaptionSettings(),
        reporter,
        Patience(),
    )
    assert done.new_captions == 1
    assert sky.with_suffix(".txt").read_text() == "skyline, blue sky, ^_^\n"
    assert "takes no instructions" in reporter.text


def test_what_is_missing_is_told(tagger, monkeypatch):
    with raises(BadProvider):
        provider(Options(name="tagger", model="no/such"))
    (tagger / "selected_tags.csv").write_text("name,category\none,0\n")
    with raises(BadProvider):
        provider(Options(name="tagger", model=str(tagger)))
    (tagger / "selected_tags.csv").write_text("nothing\n1\n")
    with raises(BadProvider):
        provider(Options(name="tagger", model=str(tagger)))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with raises(BadProvider):
        provider(Options(name="tagger", model=str(tagger)))


def test_a_broken_network_is_told(tagger):
    (tagger / "model.onnx").write_bytes(struct.pack("<Q", 12345))
    with pytest.raises(BadProvider, match=r"model.onnx of .* cannot be loaded"):
        provider(Options(name="tagger", model=str(tagger)))
