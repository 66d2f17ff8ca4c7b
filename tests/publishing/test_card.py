from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from limner.models.registry import families, named_base
from limner.publishing.card import card, code, front_matter, plain
from limner.publishing.card_images import CardImage
from limner.publishing.publication import Publication, publication
from publishing.runs_to_publish import INFO, finished_run, lora_file


@pytest.fixture(scope="module")
def item(tmp_path_factory: pytest.TempPathFactory) -> Publication:
    return publication(finished_run(tmp_path_factory.mktemp("card") / "run").path)


def front(item: Publication) -> dict[str, Any]:
    return yaml.safe_load(front_matter(item))


def test_the_front_matter_has_what_the_hub_reads(item: Publication):
    assert front(item) == {
        "license": "other",
        "license_name": "flux-1-dev-non-commercial-license",
        "license_link": "https://huggingface.co/black-forest-labs/FLUX.1-dev",
        "base_model": "black-forest-labs/FLUX.1-dev",
        "base_model_relation": "adapter",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": [
            "lora",
            "text-to-image",
            "diffusers",
            "template:sd-lora",
            "base_model:adapter:black-forest-labs/FLUX.1-dev",
        ],
        "instance_prompt": "sks cat",
        "widget": [
            {"text": "sks cat on a hill", "output": {"url": "images/00.png"}},
            {"text": "-", "output": {"url": "images/01.png"}},
        ],
    }


def test_a_base_that_is_not_on_the_hub_is_no_base_model(item: Publication):
    values = front(replace(item, record=named_base("glyph"), base="glyph", images=(), trigger=""))
    assert (
        values["license"] == "apache-2.0" and not {"base_model", "widget", "instance_prompt"} & values.keys()
    )
    unknown = front(replace(item, record=None, base="someone/my-flux"))
    assert unknown["base_model"] == "someone/my-flux" and "license" not in unknown


def test_the_page_says_how_to_use_it(item: Publication):
    text = card(item, "ada/cat")
    assert "# My Cat\n\n<Gallery />" in text and "Write `sks cat` in the prompt." in text
    assert "black-forest-labs/FLUX.1-dev), trained on 2 images." in text and "Recommended" not in text
    snippet = text.split("```python\n")[1].split("```")[0]
    compile(snippet, "card", "exec")
    assert 'pipe.load_lora_weights("ada/cat", weight_name="pytorch_lora_weights.safetensors"' in snippet
    assert "set_adapters" not in snippet and "num_inference_steps=20" in snippet
    assert "Put `my-cat-comfyui.safetensors` into `models/loras`" in text and "*LoraLoaderModelOnly*" in text
    assert "limner generate ada/cat --prompt 'sks cat on a hill'" in text
    assert "| Steps | 300 |" in text and "It must be accepted there" in text


def test_a_strength_is_said_where_it_was_measured(item: Publication):
    text = card(replace(item, strength=0.8), "ada/cat")
    assert "Recommended: 0.8" in text and 'set_adapters("lora", 0.8)' in text and "strength 0.8." in text


def test_an_edit_model_is_shown_a_picture(tmp_path: Path):
    text = card(
        publication(lora_file(tmp_path / "a.safetensors", replace(INFO, base="flux-kontext"))), "ada/cat"
    )
    assert "pipeline_tag: image-to-image" in text and 'image=load_image("photo.png"), prompt=' in text
    assert "FluxKontextPipeline.from_pretrained" in text


def test_modular_blocks_are_told_to_load_their_parts(item: Publication):
    text = card(
        replace(item, record=named_base("anima"), family=families()["anima"], base="anima"), "ada/cat"
    )
    snippet = text.split("```python\n")[1].split("```")[0]
    compile(snippet, "card", "exec")
    assert 'AnimaModularPipeline.from_pretrained("circlestone-labs/Anima-Base-v1.0-Diffusers")' in snippet
    assert "pipe.load_components(dtype=torch.bfloat16)" in snippet


def test_words_of_a_stranger_stay_words(item: Publication):
    words = "a `cat` <script> [x](y) | *b*"
    hostile = replace(
        item, title=words, trigger=words, images=(CardImage(Path("x"), words),), captions=(words,)
    )
    text = card(hostile, "ada/cat")
    assert yaml.safe_load(text.split("---")[1])["widget"][0]["text"] == words
    assert "# a \\`cat\\` &lt;script&gt; \\[x\\](y) \\| \\*b\\*" in text
    compile(text.split("```python\n")[1].split("```")[0], "card", "exec")
    assert code("a `b`") == "`` a `b` ``" and plain("a\nb") == "a b"


def test_a_base_that_borrows_a_gated_part_says_where_its_licence_is_accepted(item: Publication):
    borrower = replace(item, record=named_base("hidream-i1-full"))
    text = card(borrower, "ada/cat").split("## Licence")[1]
    assert "`tokenizer_4` and `text_encoder_4` are not there but at [meta-llama/Meta-Llama-3.1-8B" in text
    assert "must be accepted on that page" in text and "accepted there before" not in text
    gated = replace(item, record=named_base("flux-dev"))
    text = card(gated, "ada/cat").split("## Licence")[1]
    assert "accepted there before" in text and "are not there" not in text
