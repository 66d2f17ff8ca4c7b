"""Keys as people of other trainers type them: each is read as ours, or answered truly."""

import re
from pathlib import Path

import pytest

from limner.errors import BadRecipe
from limner.recipe import Recipe, Train
from limner.recipe.aliases import ANSWERS, SPELLINGS, answer, find, keys, nearest, own
from limner.recipe.readers import READERS, WORDS
from limner.recipe.spellings import ALIASES, INSTEAD, SYNONYMS
from limner.recipe.toml import change, dump, get, parse
from recipes import override

READ = {
    "diffusers": [
        ("pretrained_model_name_or_path", "flux-dev", "base", "flux-dev"),
        ("instance_data_dir", "dog", "data.images", Path("dog")),
        ("train_data_dir", "dog", "data.images", Path("dog")),
        ("instance_prompt", "a photo of sks dog", "data.default_caption", "a photo of sks dog"),
        ("class_data_dir", "dogs", "prior.images", Path("dogs")),
        ("class_prompt", "a photo of dog", "prior.prompts", ("a photo of dog",)),
        ("prior_loss_weight", 0.5, "prior.weight", 0.5),
        ("validation_prompt", "a dog in a bucket", "sample.prompts", ("a dog in a bucket",)),
        ("validation_steps", 100, "sample.every", 100),
        ("resolution", 512, "data.resolution", 512),
        ("random_flip", True, "data.flip", True),
        ("train_batch_size", 4, "train.batch", 4),
        ("max_train_steps", 500, "train.steps", 500),
        ("checkpointing_steps", 50, "train.save_every", 50),
        ("checkpoints_total_limit", 2, "train.keep", 2),
        ("learning_rate", 1e-5, "train.learning_rate", 1e-5),
        ("guidance_scale", 3.5, "train.guidance", 3.5),
        ("lr_scheduler", "constant_with_warmup", "train.schedule", "constant"),
        ("lr_warmup_steps", 20, "train.warmup", 20),
        ("snr_gamma", 5.0, "train.min_snr", 5.0),
        ("weighting_scheme", "logit_normal", "train.time_density", "logit-normal"),
        ("optimizer", "AdamW", "train.optimizer", "adamw"),
        ("use_8bit_adam", True, "train.optimizer", "adamw8bit"),
        ("use_8bit_adam", False, "train.optimizer", "adamw"),
        ("adam_weight_decay", 0.01, "train.weight_decay", 0.01),
        ("max_grad_norm", 0.5, "train.clip", 0.5),
        ("algo", "LoKr", "lora.kind", "lokr"),
        ("loss_type", "l2", "train.loss", "mse"),
        ("optimizer_args", ["eps=1e-6", "d=True"], "train.optimizer_args", {"eps": 1e-6, "d": True}),
        ("rank_pattern", {"to_q": 8}, "lora.ranks", {"to_q": 8}),
        ("lr_scheduler", "cosine_with_restarts", "train.schedule", "cosine_with_restarts"),
        ("network.type", "lokr", "lora.kind", "lokr"),
        ("peft_type", "LOHA", "lora.kind", "loha"),
        ("use_dora", True, "lora.kind", "dora"),
        ("lora_decompose", False, "lora.kind", "lora"),
        ("report_to", "wandb", "track.with", ("wandb",)),
        ("report_to", "none", "track.with", ()),
        ("rank", 8, "lora.rank", 8),
        ("lora_dropout", 0.1, "lora.dropout", 0.1),
        ("lora_layers", "attn.to_k,attn.to_q", "lora.targets", ("attn.to_k", "attn.to_q")),
        ("noise_offset", 0.05, "train.noise_offset", 0.05),
        ("prediction_type", "v_prediction", "train.prediction", "v"),
        ("proportion_empty_prompts", 0.2, "data.caption_dropout", 0.2),
        ("seed", 7, "seed", 7),
    ],
    "kohya": [
        ("alpha_mask", True, "data.masks", "alpha"),
        ("network_arguments.network_dim", 8, "lora.rank", 8),
        ("additional_network_arguments.network_alpha", 4.0, "lora.alpha", 4.0),
        ("network_dropout", 0.1, "lora.dropout", 0.1),
        ("conv_dim", 4, "lora.conv_rank", 4),
        ("optimizer_type", "AdamW8bit", "train.optimizer", "adamw8bit"),
        ("optimizer_type", "PagedAdamW8bit", "train.optimizer", "pagedadamw8bit"),
        ("optimizer_type", "AdaFactor", "train.optimizer", "adafactor"),
        ("optimizer_type", "AdamWScheduleFree", "train.optimizer", "schedulefree"),
        ("unet_lr", 1e-5, "train.learning_rate", 1e-5),
        ("train.lr_scheduler", "cosine", "train.schedule", "cosine"),
        ("lr_warmup_steps", 30.0, "train.warmup", 30),
        ("save_every_n_steps", 40, "train.save_every", 40),
        ("min_snr_gamma", 5, "train.min_snr", 5.0),
        ("v_parameterization", True, "train.prediction", "v"),
        ("v_parameterization", False, "train.prediction", "epsilon"),
        ("zero_terminal_snr", True, "train.zero_terminal_snr", True),
        ("caption_dropout_rate", 0.1, "data.caption_dropout", 0.1),
        ("flip_aug", True, "data.flip", True),
        ("shuffle_caption", True, "data.tag_shuffle", True),
        ("keep_tokens", 1, "data.keep_tags", 1),
        ("caption_tag_dropout_rate", 0.1, "data.tag_dropout", 0.1),
        ("image_dir", "photos", "data.images", Path("photos")),
        ("class_tokens", "sks girl", "data.default_caption", "sks girl"),
        ("reg_data_dir", "girls", "prior.images", Path("girls")),
        ("output_name", "my-lora", "name", "my-lora"),
        ("log_with", "tensorboard", "track.with", ("tensorboard",)),
        ("sample_every_n_steps", 25, "sample.every", 25),
        ("sample_prompts", "p.txt", "sample.prompt_file", Path("p.txt")),
        ("timestep_sampling", "sigmoid", "train.time_density", "sigmoid"),
        ("discrete_flow_shift", 3.0, "train.time_shift", 3.0),
        ("validate_every_n_steps", 50, "train.validation_every", 50),
        ("dit", "qwen-image", "base", "qwen-image"),
    ],
    "ai-toolkit": [
        ("mask_path", "m", "data.masks", Path("m")),
        ("mask_min_value", 0, "train.mask_floor", 0.0),
        ("network.linear", 32, "lora.rank", 32),
        ("network.linear_alpha", 16.0, "lora.alpha", 16.0),
        ("network.conv", 8, "lora.conv_rank", 8),
        ("save.save_every", 100, "train.save_every", 100),
        ("save.max_step_saves_to_keep", 4, "train.keep", 4),
        ("datasets.folder_path", "photos", "data.images", Path("photos")),
        ("trigger_word", "p3r5on", "data.trigger", "p3r5on"),
        ("train.batch_size", 2, "train.batch", 2),
        ("train.lr", 4e-4, "train.learning_rate", 4e-4),
        ("train.steps", 2000, "train.steps", 2000),
        ("train.optimizer", "AdamW8bit", "train.optimizer", "adamw8bit"),
        ("train.ema_config.ema_decay", 0.99, "train.ema", 0.99),
        ("train.timestep_type", "sigmoid", "train.time_density", "sigmoid"),
        ("train.content_or_style", "style", "train.time_density", "style"),
        ("train.content_or_style", "balanced", "train.time_density", "auto"),
        ("optimizer_params.weight_decay", 0.01, "train.weight_decay", 0.01),
        ("model.name_or_path", "flux-dev", "base", "flux-dev"),
        ("sample.sample_every", 250, "sample.every", 250),
        ("sample.sample_steps", 28, "sample.steps", 28),
        ("sample.guidance_scale", 4.0, "sample.guidance", 4.0),
        ("config.name", "first-lora", "name", "first-lora"),
        ("flip_x", True, "data.flip", True),
    ],
    "OneTrainer": [
        ("masked_training", True, "data.masks", "sidecar"),
        ("base_model_name", "sdxl", "base", "sdxl"),
        ("training_method", "LORA", "train.method", "lora"),
        ("training_method", "FINE_TUNE", "train.method", "full"),
        ("learning_rate_scheduler", "COSINE", "train.schedule", "cosine"),
        ("learning_rate_warmup_steps", 50, "train.warmup", 50),
        ("batch_size", 3, "train.batch", 3),
        ("lora_rank", 16, "lora.rank", 16),
        ("lora_alpha", 1.0, "lora.alpha", 1.0),
        ("dropout_probability", 0.1, "lora.dropout", 0.1),
        ("offset_noise_weight", 0.05, "train.noise_offset", 0.05),
        ("rescale_noise_scheduler_to_zero_terminal_snr", True, "train.zero_terminal_snr", True),
        ("timestep_distribution", "LOGIT_NORMAL", "train.time_density", "logit-normal"),
        ("timestep_shift", 2.0, "train.time_shift", 2.0),
        ("clip_grad_norm", 1.0, "train.clip", 1.0),
    ],
    "SimpleTuner": [
        ("checkpoint_step_interval", 500, "train.save_every", 500),
        ("validation_step_interval", 100, "sample.every", 100),
        ("validation_guidance", 3.0, "sample.guidance", 3.0),
        ("validation_num_inference_steps", 30, "sample.steps", 30),
        ("validation_seed", 42, "sample.seed", 42),
        ("eval_steps_interval", 100, "train.validation_every", 100),
        ("caption_dropout_probability", 0.1, "data.caption_dropout", 0.1),
        ("flux_guidance_value", 1.0, "train.guidance", 1.0),
        ("flow_schedule_shift", 3.0, "train.time_shift", 3.0),
        ("ema_decay", 0.995, "train.ema", 0.995),
        ("tracker_run_name", "trial-1", "name", "trial-1"),
    ],
    "peft and transformers": [
        ("r", 8, "lora.rank", 8),
        ("lora.lora_alpha", 16.0, "lora.alpha", 16.0),
        ("target_modules", ["to_q", "to_k"], "lora.targets", ("to_q", "to_k")),
        ("target_modules", "all-linear", "lora.targets", "all-linear"),
        ("max_steps", 100, "train.steps", 100),
        ("per_device_train_batch_size", 2, "train.batch", 2),
        ("warmup_steps", 5, "train.warmup", 5),
        ("lr_scheduler_type", "linear", "train.schedule", "linear"),
        ("eval_steps", 10, "train.validation_every", 10),
        ("save_steps", 10, "train.save_every", 10),
        ("save_total_limit", 1, "train.keep", 1),
        ("optim", "adamw_torch", "train.optimizer", "adamw"),
    ],
}
"""Trainer -> key as it is typed there, value, our key, our value."""
ROWS = [row for rows in READ.values() for row in rows]

PLANNED = (
    "gradient_checkpointing",
    "train.gradient_checkpointing",
    "blocks_to_swap",
    "low_vram",
    "xformers",
    "sdpa",
    "enable_xformers_memory_efficient_attention",
    "layer_offload_fraction",
    "torch_compile",
)

ANSWERED = [
    *(
        (name, "limits.compute_dtype")
        for name in ("mixed_precision", "train.dtype", "full_bf16", "precision")
    ),
    *((name, "limits.weights_precision") for name in ("fp8_base", "fp8_scaled", "model.quantize")),
    ("base_model_precision", "The plan decides this, and limits.weights_precision"),
    ("gradient_accumulation_steps", "micro-batch x gradient accumulation"),
    ("train.gradient_accumulation_steps", "train.batch"),
    ("num_train_epochs", "train.steps = epochs x images"),
    ("max_train_epochs", "train.steps = epochs x images"),
    ("epochs", "train.steps"),
    ("datasets.num_repeats", "repeats in [[data.sets]]"),
    ("save_every_n_epochs", "train.save_every"),
    ("cache_latents", "Latents and text embeddings are always cached."),
    ("cache_text_encoder_outputs", "always cached"),
    ("enable_bucket", "sorted into aspect-ratio buckets"),
    ("resume_from_checkpoint", "the same command is typed again"),
    ("save_model_as", ".safetensors"),
    ("with_prior_preservation", "prior.prompts"),
    ("adam_beta2", "train.betas"),
    ("output_dir", "--out"),
    ("push_to_hub", "limner publish"),
    ("use_rslora", "sqrt(rank)"),
    ("use_ema", "train.ema"),
    ("center_crop", "data.crop"),
    ("train_text_encoder", "lora.text_encoders"),
    ("network_args", "lora.conv_rank"),
    ("model_type", "train.method"),
    ("masked_loss", "data.masks"),
    ("warmup_ratio", "ratio x train.steps"),
    ("clip_skip", "no such setting"),
    ("network_module", "lora.kind"),
    ("adam_epsilon", "train.optimizer_args"),
]


@pytest.mark.parametrize(("spelled", "value", "key", "expected"), ROWS)
def test_a_spelling_of_another_trainer_is_read(spelled, value, key, expected):
    assert find(spelled, Recipe) == key
    start = Recipe.model_validate({"sample": {"guidance": 1.0}})
    recipe = change(start, {spelled: value})
    assert get(recipe, key) == expected
    *tables, leaf = spelled.split(".")
    table = {leaf: value}
    for name in reversed(tables):
        table = {name: table}
    assert get(Recipe.model_validate(table), key) == expected
    written = dump(recipe)
    assert key.rpartition(".")[2] in written
    assert parse(written) == recipe


def test_a_hundred_spellings_were_tried():
    assert len(ROWS) + len(PLANNED) + len(ANSWERED) >= 150
    assert len({row[0] for row in ROWS}) >= 100


@pytest.mark.parametrize("spelled", PLANNED)
def test_what_the_plan_decides_is_said_so(spelled):
    with pytest.raises(BadRecipe, match="The plan decides this, within .limits.: see `limner plan`."):
        find(spelled, Recipe)


def test_a_name_of_ones_own_may_follow_a_table():
    values = {
        "train.optimizer_args.momentum": 0.9,
        "train.optimizer_args.nesterov": True,
        "lora.ranks.attn.to_q": 4,
    }
    assert own(values, Recipe) == {
        "train.optimizer_args": {"momentum": 0.9, "nesterov": True},
        "lora.ranks": {"attn.to_q": 4},
    }


@pytest.mark.parametrize(("spelled", "answered"), ANSWERED)
def test_a_key_without_a_counterpart_is_answered(spelled, answered):
    with pytest.raises(BadRecipe) as caught:
        find(spelled, Recipe)
    assert answered in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("spelled", ["xyzzy", "track.xyzzy", "train.flux_capacitor", "qwrt.abc", "="])
def test_a_key_like_no_other_gets_no_guess(spelled):
    assert nearest(spelled, Recipe) == ""
    assert answer(spelled, Recipe).startswith("No key is called nearly so.")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"lora": {"rnak": 4}}, "Unknown recipe key lora.rnak. Did you mean lora.rank?"),
        (
            {"train": {"learning_rte": 4}},
            "Unknown recipe key train.learning_rte. Did you mean train.learning_rate?",
        ),
        ({"trian": {}}, "Unknown recipe key trian. Did you mean train?"),
        ({"trian": {"lr": 1.0}}, "Unknown recipe key trian. Did you mean train?"),
        ({"data": {"steps": 1}}, "Unknown recipe key data.steps. Did you mean train.steps?"),
        ({"train": {"rank": 1}}, "Unknown recipe key train.rank. Did you mean lora.rank?"),
        (
            {"train": {"max_grad_nrom": 1}},
            "Unknown recipe key train.max_grad_nrom. Did you mean max_grad_norm, which is train.clip?",
        ),
    ],
)
def test_an_unknown_key_names_the_nearest(table, message):
    with pytest.raises(BadRecipe) as caught:
        Recipe.model_validate(table)
    assert str(caught.value) == message


def test_a_table_is_no_key():
    with pytest.raises(
        BadRecipe, match=r"key lora\. \[lora\] is a table. Name a key in it, such as lora.kind"
    ):
        override(Recipe(), ["lora=4"])


@pytest.mark.parametrize(
    "table",
    [
        {"lr": 1e-4, "train": {"learning_rate": 1e-4}},
        {"train": {"lr": 1e-4, "learning_rate": 2e-4}},
        {"train": {"lr": 1e-4}, "unet_lr": 2e-4},
    ],
)
def test_one_key_in_two_spellings_is_refused(table):
    with pytest.raises(BadRecipe, match=r"l\w+ and \S*l\w+ both set train.learning_rate. Remove one"):
        Recipe.model_validate(table)
    settings = ["lr=1e-4", "train.learning_rate=2e-4"]
    with pytest.raises(BadRecipe, match="lr and train.learning_rate both set train.learning_rate"):
        override(Recipe(), settings)


def test_a_whole_config_of_kohya_is_a_recipe():
    recipe = parse(
        """
        [model_arguments]
        pretrained_model_name_or_path = "sdxl"
        v_parameterization = false
        [additional_network_arguments]
        network_dim = 32
        network_alpha = 16.0
        [optimizer_arguments]
        optimizer_type = "AdamW8bit"
        learning_rate = 5e-5
        max_grad_norm = 1.0
        lr_scheduler = "cosine"
        [training_arguments]
        max_train_steps = 1600
        train_batch_size = 2
        min_snr_gamma = 5
        output_name = "girl"
        """
    )
    assert (recipe.base, recipe.name, recipe.lora.rank, recipe.lora.alpha) == ("sdxl", "girl", 32, 16.0)
    train = recipe.train
    assert (train.optimizer, train.learning_rate, train.schedule) == ("adamw8bit", 5e-5, "cosine")
    assert (train.steps, train.batch, train.min_snr, train.prediction) == (1600, 2, 5.0, "epsilon")


def test_settings_and_python_take_the_same_spellings():
    typed = override(Recipe(), ["lr=3e-4", "network_dim=8", "max_train_steps=50", "report_to=wandb"])
    given = change(Recipe(), {"lr": 3e-4, "network_dim": 8, "max_train_steps": 50, "report_to": "wandb"})
    named = change(Recipe(), {"learning_rate": 3e-4, "rank": 8, "steps": 50, "track.with": ["wandb"]})
    assert typed == given == named
    assert own({"lr": 3e-4, "trigger": "sks"}, Recipe) == {
        "train.learning_rate": 3e-4,
        "data.trigger": "sks",
    }
    assert Train.model_validate({"lr": 3e-4}).learning_rate == 3e-4
    with pytest.raises(BadRecipe, match=r"lora.rank stands in \[train\], which is not its table"):
        Train.model_validate({"network_dim": 4})


def test_a_spelling_joins_a_table_that_was_built_already():
    recipe = Recipe.model_validate({"train": Train(steps=5), "lr": 3e-4})
    assert (recipe.train.steps, recipe.train.learning_rate) == (5, 3e-4)


@pytest.mark.parametrize(
    ("spelled", "value", "message"),
    [
        ("lr_warmup_steps", 0.1, "lr_warmup_steps is 0.1, a share. Count steps: train.warmup = 0.1 x"),
        ("timestep_sampling", "flux_shift", 'Set train.time_density = "sigmoid" and train.time_shift'),
        ("timestep_distribution", "SIGMOID", "a distribution that Limner has not"),
        ("optimizer_type", "Lion", 'train.optimizer is "Lion"; it must be one of adamw, '),
        ("weighting_scheme", "cosmap", 'train.time_density is "cosmap"; it must be one of auto'),
        ("use_8bit_adam", "yes", 'train.optimizer is "yes"'),
        ("v_parameterization", "yes", 'train.prediction is "yes"'),
        ("network_dim", "16", 'lora.rank is "16"; it must be a whole number'),
        ("report_to", ["wandbb"], "track.with is"),
    ],
)
def test_a_value_that_has_no_counterpart_is_refused(spelled, value, message):
    with pytest.raises(BadRecipe, match=re.escape(message)):
        change(Recipe(), {spelled: value})


def test_each_name_stands_in_one_table():
    ours = {leaf for key in keys(Recipe) for leaf in (key, key.rpartition(".")[2])}
    assert set(ALIASES) <= set(keys(Recipe))
    assert len(SPELLINGS) == sum(len(words.split()) for words in ALIASES.values())
    assert not SPELLINGS.keys() & ANSWERS.keys()
    assert not ours & ANSWERS.keys()
    assert set(SYNONYMS) <= set(INSTEAD)
    assert set(READERS) <= set(SPELLINGS)
    assert set(WORDS) <= set(keys(Recipe))
    named = re.findall(
        r"\b(?:data|lora|train|prior|sample|limits|track)\.[a-z_]+", " ".join(ANSWERS.values())
    )
    assert set(named) - {"lora.safetensors"} <= set(keys(Recipe))
