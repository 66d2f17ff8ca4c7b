from pathlib import Path
from typing import Any

import pytest

from limner.importing import objectives, rules
from limner.importing.book import Book
from limner.importing.options import ForeignOption


def changed(rule: Any, **values: Any) -> dict[str, Any]:
    book = Book([ForeignOption(key, value) for key, value in values.items()])
    rule(book)
    assert not [option for option in book.options if option.key in values], "an option was left"
    return book.changes


@pytest.mark.parametrize(
    ("values", "ours"),
    [
        ({"timestep_sampling": "sigmoid"}, {"train.time_density": "sigmoid", "train.time_shift": 1.0}),
        (
            {"timestep_sampling": "uniform", "discrete_flow_shift": 3.0},
            {"train.time_density": "uniform", "train.time_shift": 1.0},
        ),
        (
            {"timestep_distribution": "LOGIT_NORMAL", "timestep_shift": 2.0},
            {"train.time_density": "logit-normal", "train.time_shift": 2.0},
        ),
        (
            {"timestep_distribution": "UNIFORM", "dynamic_timestep_shifting": True},
            {"train.time_density": "uniform", "train.time_shift": "auto"},
        ),
        (
            {"timestep_sampling": "flux_shift"},
            {"train.time_density": "logit-normal", "train.time_shift": "auto"},
        ),
        ({"weighting_scheme": "none"}, {"train.time_density": "uniform"}),
        ({"timestep_distribution": "SIGMOID"}, {}),
        ({"timestep_type": "linear"}, {"train.time_density": "uniform", "train.time_shift": 1.0}),
        ({"discrete_flow_shift": 2.0}, {"train.time_shift": 2.0}),
        ({"timestep_type": "sigmoid", "content_or_style": "style"}, {"train.time_density": "style"}),
        (
            {"timestep_type": "linear", "content_or_style": "balanced"},
            {"train.time_density": "uniform", "train.time_shift": 1.0},
        ),
    ],
)
def test_words_for_timesteps(values: dict[str, Any], ours: dict[str, Any]):
    assert changed(objectives.timesteps, **values) == ours


@pytest.mark.parametrize(
    ("values", "side"),
    [
        ({"resolution": "1024,1024"}, 1024),
        ({"resolution": "768,1344"}, 1008),
        ({"resolution": [960, 544]}, 720),
        ({"resolution": [512, 768, 1024]}, (512, 768, 1024)),
        (
            {"datasets.0.resolution": 512, "datasets.1.resolution": 1024, "datasets.2.resolution": 512},
            (512, 1024),
        ),
        ({"resolution": 640}, 640),
        ({"max_pixels": 262144}, 512),
    ],
)
def test_sides_in_pixels(values: dict[str, Any], side: int | tuple[int, ...]):
    assert changed(rules.resolution, **values) == {"data.resolution": side}


@pytest.mark.parametrize(("trainer", "value"), [("ai-toolkit", [512, 768]), ("OneTrainer", "512,768")])
def test_two_numbers_are_two_sizes_where_the_trainer_means_so(trainer: str, value: object):
    book = Book([ForeignOption("resolution", value)], facts={"trainer": trainer})
    rules.resolution(book)
    assert book.changes == {"data.resolution": (512, 768)}


@pytest.mark.parametrize(
    ("values", "bits"),
    [
        ({"fp8_base": True}, "8bit"),
        ({"quantize": True, "qtype": "qfloat8"}, "8bit"),
        ({"quantize": True, "qtype": "uint4"}, "4bit"),
        ({"base_model_precision": "nf4-bnb"}, "4bit"),
        ({"load_in_4bit": True}, "4bit"),
    ],
)
def test_eight_and_four_bits_are_bounds(values: dict[str, Any], bits: str):
    assert changed(rules.quantization, **values) == {"limits.weights_precision": bits}


def test_warm_up_is_counted_in_steps():
    book = Book([ForeignOption("lr_warmup_steps", 0.05)], changes={"train.steps": 400})
    rules.warmup(book)
    assert book.changes["train.warmup"] == 20
    assert changed(rules.warmup, lr_warmup_steps=100) == {"train.warmup": 100}
    assert changed(rules.warmup, warmup_ratio=0.1) == {}


def test_an_adapter_of_another_kind_is_told():
    book = Book([ForeignOption("network_module", "lycoris.kohya")])
    rules.network(book)
    assert [row.outcome for row in book.rows] == ["cannot be had"]


@pytest.mark.parametrize(
    ("values", "ours"),
    [
        ({"masked_loss": True, "conditioning_data_dir": "masks"}, {"data.masks": Path("masks")}),
        ({"masked_loss": True, "alpha_mask": True}, {"data.masks": "alpha"}),
        (
            {"masked_training": True, "unmasked_weight": 0.1},
            {"data.masks": "sidecar", "train.mask_floor": 0.1},
        ),
        ({"masked_training": False, "unmasked_weight": 0.1, "normalize_masked_area_loss": False}, {}),
        ({"mask_path": "m", "mask_min_value": 0.0}, {"data.masks": Path("m"), "train.mask_floor": 0.0}),
        ({"alpha_mask": True, "mask_path": "m"}, {"data.masks": "alpha"}),
    ],
)
def test_masks_are_where_their_switches_say(values: dict[str, Any], ours: dict[str, Any]):
    assert changed(rules.masks, **values) == ours


def test_a_folder_of_conditions_without_masked_loss_is_left_to_control_images():
    book = Book([ForeignOption("conditioning_data_dir", "poses")])
    rules.masks(book)
    assert len(book.options) == 1 and not book.changes


@pytest.mark.parametrize(
    ("values", "folders"),
    [
        ({"control_path": "before"}, ["before"]),
        ({"control_path": ["pose", "face"]}, ["pose", "face"]),
        ({"control_path_2": "face", "control_path_1": "pose"}, ["pose", "face"]),
        ({"control_directory": "before", "no_resize_control": True}, ["before"]),
        ({"conditioning_data_dir": "before"}, ["before"]),
    ],
)
def test_folders_of_control_images_in_their_order(values: dict[str, Any], folders: list[str]):
    assert changed(rules.controls, **values) == {"data.control": tuple(map(Path, folders))}


def test_control_images_of_a_second_data_set_are_named():
    options = [ForeignOption(f"datasets.{number}.control_path", f"before-{number}") for number in (0, 1)]
    book = Book(options)
    rules.controls(book)
    assert book.changes == {"data.control": (Path("before-0"),)}
    assert [(row.key, row.outcome) for row in book.rows] == [
        ("datasets.0.control_path", "kept"), ("datasets.1.control_path", "cannot be had")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "outcome"),
    [
        ("data_file_keys", "image,edit_image", "always so"),
        ("extra_inputs", "edit_image", "always so"),
        ("extra_inputs", "controlnet_image", "cannot be had"),
        ("dataset_metadata_path", "photos/metadata.csv", "always so"),
        ("dataset_metadata_path", "photos/metadata_edit.json", "cannot be had"),
        ("edit_plus", True, "always so"),
        ("qwen_image_edit_control_resolution", [1024, 1024], "cannot be had"),
    ],
)
def test_words_about_control_images(key: str, value: Any, outcome: str):
    book = Book([ForeignOption(key, value)])
    rules.controls(book)
    assert [row.outcome for row in book.rows] == [outcome] and not book.changes


def test_width_and_height_of_diffsynth_are_those_of_training():
    options = [
        ForeignOption(key, value) for key, value in (("height", 512), ("width", 768), ("max_pixels", 9))
    ]
    book = Book(options, facts={"trainer": "DiffSynth-Studio"})
    rules.resolution(book)
    assert book.changes == {"data.resolution": 624} and not book.options
