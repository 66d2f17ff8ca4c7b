"""The model card of a LoRA: front matter that the hub reads, and a page for people."""

import html
import re
import shlex
from typing import Any

from limner.models.facts import FamilyFacts, RegisteredBase
from limner.models.registry import HubLicence, family_of_base, hub_licence
from limner.publishing.publication import Publication

IMAGES = "images"
"""Folder of the pictures, beside the card."""
NO_PROMPT = "-"
"""What stands for a prompt that is not said: the hub shows no picture without a text."""


def image_name(number: int) -> str:
    """Where picture ``number`` of a card is, beside it."""
    return f"{IMAGES}/{number:02d}.png"


def card(item: Publication, repo: str) -> str:
    """The whole text of ``README.md``.

    Args:
        item: What is published.
        repo: Where: owner/name.
    """
    parts = [
        f"---\n{front_matter(item)}\n---",
        f"# {plain(item.title)}",
        "<Gallery />" if item.images else "",
        _introduction(item),
        _trigger(item),
        _strength(item),
        _diffusers(item, repo),
        _comfyui(item),
        _limner(item, repo),
        _training(item),
        _licence(item),
        _captions(item),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def body_for_people(item: Publication) -> str:
    """The card without front matter and code, for pages that take a text."""
    parts = [_introduction(item), _trigger(item), _strength(item), _comfyui(item), _training(item)]
    return "\n\n".join(part for part in [*parts, _licence(item), _captions(item)] if part) + "\n"


def front_matter(item: Publication) -> str:
    """The YAML of the card, by ``huggingface_hub``."""
    from huggingface_hub import ModelCardData

    licence = hub_licence(item.record) if item.record else HubLicence("")
    task = "image-to-image" if item.family and item.family.controls[0] else "text-to-image"
    relation = [f"base_model:adapter:{item.hub_id}"] if item.hub_id else []
    kinds = [*(["lora"] if item.files else []), *(["textual_inversion"] if item.word else [])]
    template = ["template:sd-lora"] if item.files else []
    values: dict[str, Any] = {
        "license": licence.id or None,
        "license_name": licence.name or None,
        "license_link": licence.link or None,
        "base_model": item.hub_id or None,
        "base_model_relation": "adapter" if item.hub_id else None,
        "library_name": "diffusers",
        "pipeline_tag": task,
        "tags": [*kinds, task, "diffusers", *template, *relation],
        "instance_prompt": item.trigger or None,
        "widget": [
            {"text": image.prompt or NO_PROMPT, "output": {"url": image_name(number)}}
            for number, image in enumerate(item.images)
        ]
        or None,
    }
    return ModelCardData(**values).to_yaml().strip()


def plain(text: str) -> str:
    """Text that Markdown and HTML leave as it is."""
    return re.sub(r"([\\`*_\[\]#|~])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def code(text: str) -> str:
    """Text between back-quotes, as it is: between more of them than it holds."""
    marks = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    pad = " " if "`" in text else ""
    return f"{marks}{pad}{' '.join(text.split())}{pad}{marks}"


def _base_link(item: Publication) -> str:
    return f"[{item.hub_id}](https://huggingface.co/{item.hub_id})" if item.hub_id else plain(item.base)


def _introduction(item: Publication) -> str:
    images = item.facts.get("Images")
    kinds = [*(["LoRA"] if item.files else []), *(["textual inversion"] if item.word else [])]
    return f"A {' and a '.join(kinds)} for {_base_link(item)}" + (
        f", trained on {images} images." if images else "."
    )


def _trigger(item: Publication) -> str:
    return f"## Trigger\n\nWrite {code(item.trigger)} in the prompt." if item.trigger else ""


def _strength(item: Publication) -> str:
    return (
        ""
        if item.strength is None
        else f"## Strength\n\nRecommended: {item.strength:g}, by measurement on generated images."
    )


def _diffusers(item: Publication, repo: str) -> str:
    lora, word = item.file_for("diffusers"), item.word
    if (lora is None and word is None) or item.family is None or not item.hub_id:
        return ""
    prompt = next((image.prompt for image in item.images if image.prompt), item.trigger or "..")
    steps = f", num_inference_steps={item.sampling_steps}" if item.sampling_steps else ""
    is_edit = bool(item.family.controls[0])
    photo = 'image=load_image("photo.png"), ' if is_edit else ""
    loads = (
        [f'pipe.load_lora_weights("{repo}", weight_name="{lora.name}", adapter_name="lora")'] if lora else []
    )
    if lora and item.strength is not None:
        loads.append(f'pipe.set_adapters("lora", {item.strength:g})')
    lines = [
        "import torch",
        f"from diffusers import {item.family.pipeline}",
        *(["from diffusers.utils import load_image"] if is_edit else []),
        *(word.imports() if word else ()),
        "",
        *_opened(item.family, item.hub_id),
        'pipe.to("cuda")',
        *loads,
        *(word.diffusers_lines(repo) if word else ()),
        f"image = pipe({photo}prompt={prompt!r}{steps}).images[0]",
    ]
    return "## In diffusers\n\n```python\n" + "\n".join(lines) + "\n```"


def _opened(family: FamilyFacts, hub_id: str) -> list[str]:
    """How diffusers reads the base."""
    if family.modular:
        return [
            f'pipe = {family.pipeline}.from_pretrained("{hub_id}")',
            "pipe.load_components(dtype=torch.bfloat16)",
        ]
    return [f'pipe = {family.pipeline}.from_pretrained("{hub_id}", torch_dtype=torch.bfloat16)']


def _comfyui(item: Publication) -> str:
    lora = item.file_for("comfyui")
    if item.record and item.record.toy:
        return ""
    word = (
        f"Put {code(item.word.word_file.name)} into `models/embeddings` and write "
        f"{code('embedding:' + item.word.word_file.stem)} in the prompt."
        if item.word
        else ""
    )
    if lora is None:
        return f"## In ComfyUI\n\n{word}" if word else ""
    denoiser = item.family.denoiser if item.family else ""
    node = (
        "LoraLoaderModelOnly" if {part.name for part in lora.info.components} == {denoiser} else "Load LoRA"
    )
    strength = 1 if item.strength is None else item.strength
    return (
        f"## In ComfyUI\n\nPut {code(lora.name)} into `models/loras` and choose it in the node *{node}*, "
        f"strength {strength:g}." + (f" {word}" if word else "")
    )


def _limner(item: Publication, repo: str) -> str:
    prompt = next((image.prompt for image in item.images if image.prompt), item.trigger or "..")
    ask = f"--prompt {shlex.quote(prompt)}"
    if item.word is None:
        return f"## In Limner\n\n```\nlimner generate {repo} {ask}\n```"
    lines = [
        f"hf download {repo} embedding.safetensors --local-dir .",
        f"limner generate {repo} --embedding embedding.safetensors {ask}"
        if item.files
        else f"limner generate embedding.safetensors {ask}",
    ]
    return "## In Limner\n\n```\n" + "\n".join(lines) + "\n```"


def _training(item: Publication) -> str:
    rows = [f"| {name} | {plain(text)} |" for name, text in {"Base": item.base, **item.facts}.items()]
    return "## Training\n\n| | |\n|---|---|\n" + "\n".join(rows)


def _licence(item: Publication) -> str:
    if item.record is None:
        return ""
    page = f" Its page: {_base_link(item)}." if item.hub_id else ""
    gate = " It must be accepted there before the base can be fetched." if item.record.gated else ""
    parts = _parts_elsewhere(item.record)
    return f"## Licence\n\nThat of the base: {plain(item.record.licence)}.{page}{gate}{parts}"


def _parts_elsewhere(record: RegisteredBase) -> str:
    """Parts that are not in the base's own repository, whose page names no licence for them."""
    facts = family_of_base(record.name)
    names = [name for name, hub_id in facts.borrowed.items() if hub_id == record.gated_part] if facts else []
    if not names:
        return ""
    link = f"[{record.gated_part}](https://huggingface.co/{record.gated_part})"
    return (
        f" Its {' and '.join(map(code, names))} are not there but at {link}, whose own licence must be "
        "accepted on that page; hand them to the pipeline."
    )


def _captions(item: Publication) -> str:
    lines = [f"- {plain(text)}" for text in item.captions]
    return "## Captions of the dataset\n\n" + "\n".join(lines) if lines else ""
