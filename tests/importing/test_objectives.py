from pathlib import Path
from typing import Any

import pytest

from limner.importing import objectives
from limner.importing.book import Book
from limner.importing.importer import import_recipe
from limner.importing.options import ForeignOption


def changed(rule: Any, **values: Any) -> dict[str, Any]:
    book = Book([ForeignOption(key, value) for key, value in values.items()])
    rule(book)
    assert not [option for option in book.options if option.key in values], "an option was left"
    return book.changes


@pytest.mark.parametrize(
    ("values", "ours"),
    [
        (
            {"diff_output_preservation": True, "diff_output_preservation_class": "cat"},
            {"prior.kind": "teacher", "prior.class_word": "cat"},
        ),
        (
            {"diff_output_preservation": False, "diff_output_preservation_class": "person"}
            | {"diff_output_preservation_multiplier": 1.0, "blank_prompt_preservation": True}
            | {"blank_prompt_preservation_multiplier": 0.5},
            {"prior.kind": "blank", "prior.weight": 0.5},
        ),
        ({"diff_output_preservation_multiplier": 1.0, "blank_prompt_preservation": False}, {}),
    ],
)
def test_the_bare_base_as_the_teacher(values: dict[str, Any], ours: dict[str, Any]):
    assert changed(objectives.prior, **values) == ours


WORD = {"embedding.placeholder": "<zot>", "embedding.token_count": 3}


@pytest.mark.parametrize(
    ("method", "values", "ours"),
    [
        ("EMBEDDING", {"learning_rate": 3e-3}, {"inversion.rate": 3e-3}),
        ("EMBEDDING", {"embedding_learning_rate": 4e-3}, {}),
        ("LORA", WORD | {"embedding_learning_rate": 4e-3}, {}),
    ],
)
def test_a_new_word_counts_where_one_is_trained(method: str, values: dict[str, Any], ours: dict[str, Any]):
    """What the rule leaves is read by its spelling."""
    options = [ForeignOption(key, value) for key, value in {"training_method": method, **values}.items()]
    book = Book(options)
    objectives.new_word(book)
    assert book.changes == ours
    assert [option.key for option in book.options if option.key in values] == (
        ["embedding_learning_rate"] if method == "EMBEDDING" and not ours else []
    )


SLIDER = """
job: extension
config:
  name: ages
  process:
    - type: concept_slider
      trigger_word: ""
      network: {type: lora, linear: 8, linear_alpha: 8}
      train: {steps: 500, lr: 1e-4, dtype: bf16}
      datasets: [{folder_path: portraits, caption_dropout_rate: 0.05, resolution: [512]}]
      slider:
        guidance_strength: 2.5
        anchor_strength: 1.0
        target_class: person
        positive_prompt: an old person
        negative_prompt: a young person
        anchor_class: ""
"""


def test_a_slider_of_ai_toolkit_is_one_here(tmp_path):
    (tmp_path / "slider.yaml").write_text(SLIDER)
    imported = import_recipe(tmp_path / "slider.yaml")
    recipe = imported.recipe
    assert recipe.train.objective == "slider" and recipe.train.steps == 500 and recipe.lora.rank == 8
    assert recipe.slider.neutral == ("person",) and recipe.slider.guidance == 2.5
    assert (recipe.slider.positive, recipe.slider.negative) == ("an old person", "a young person")
    outcomes = {row.key.rpartition(".")[2]: row.outcome for row in imported.rows}
    assert outcomes["anchor_strength"] == outcomes["caption_dropout_rate"] == "cannot be had"
    assert outcomes["folder_path"] == "cannot be had" and recipe.data.images == Path("images")
    (tmp_path / "slider.yaml").write_text(SLIDER.replace("guidance_strength: 2.5\n        ", ""))
    assert import_recipe(tmp_path / "slider.yaml").recipe.slider.guidance == 3.0, "ai-toolkit's default"


@pytest.mark.parametrize(
    ("rule", "values", "ours"),
    [
        (objectives.distillation, {"task": "direct_distill:train"}, {"train.objective": "distill"}),
        (objectives.distillation, {"task": "sft"}, {}),
        (objectives.precision, {"mixed_precision": "fp16"}, {}),
        (objectives.precision, {"mixed_precision": "no"}, {"limits.compute_dtype": "fp32"}),
        (
            objectives.controlled_prompts,
            {"prompts": ["a cat --ctrl_img a.png", "a dog --ctrl_img b.png"]},
            {"sample.prompts": ("a cat", "a dog"), "sample.control": (Path("a.png"), Path("b.png"))},
        ),
        (
            objectives.controlled_prompts,
            {"prompts": ["a cat --ctrl_img a.png", "a dog"]},
            {"sample.prompts": ("a cat", "a dog")},
        ),
    ],
)
def test_what_other_words_become(rule: Any, values: dict[str, Any], ours: dict[str, Any]):
    assert changed(rule, **values) == ours


def test_tables_of_other_optimizers_and_of_parts_are_not_taken_for_settings():
    values = {
        "optimizer_defaults.ADAFACTOR.weight_decay": 0.5,
        "optimizer_defaults.ADAMW.beta1": 0.1,
        "transformer.train": True,
        "unet.train": False,
        "prior.train": True,
        "transformer.model_name": "other.safetensors",
    }
    book = Book([ForeignOption(key, value) for key, value in values.items()])
    objectives.of_parts(book)
    outcomes = ["off", "off", "always so", "cannot be had", "off", "cannot be had"]
    assert [row.outcome for row in book.rows] == outcomes and not book.changes


def test_a_shift_by_resolution_of_simple_tuner():
    assert changed(objectives.timesteps, flow_schedule_auto_shift=True) == {"train.time_shift": "auto"}
