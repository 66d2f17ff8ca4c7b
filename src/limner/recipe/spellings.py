"""What other trainers call our keys, and what there is instead where we have no such key. Pure tables.

The names are those of the command lines and config files of diffusers' training examples, kohya's sd-scripts
and musubi-tuner, ai-toolkit, OneTrainer, SimpleTuner, and peft's ``LoraConfig``. ``limner.recipe.aliases``
reads the tables; a name stands in one of them only.
"""

import ast
from collections.abc import Callable, Mapping
from typing import Any

from limner.errors import BadRecipe
from limner.recipe.optimizers import OPTIMIZERS

ALIASES: Mapping[str, str] = {
    "base": """pretrained_model_name_or_path name_or_path model_name_or_path model base_model
        base_model_name dit ckpt""",
    "name": "output_name tracker_run_name job_name run_name",
    "data.images": """instance_data_dir train_data_dir image_dir folder_path image_directory
        dataset_path images""",
    "data.trigger": "trigger_word token_abstraction placeholder_token token_string placeholder",
    "data.default_caption": "instance_prompt class_tokens",
    "data.flip": "random_flip flip_aug flip_x",
    "data.caption_dropout": "caption_dropout_rate caption_dropout_probability proportion_empty_prompts",
    "data.cache": "cache_dir_vae",
    "data.control": "control_directory control_path conditioning_data_dir control_path_1",
    "data.masks": "mask_path alpha_mask masked_training",
    "lora.kind": "algo network_type network.type peft_type use_dora lora_decompose",
    "lora.factor": "lokr_factor decompose_factor",
    "lora.full_matrix": "lokr_full_rank",
    "lora.ranks": "rank_pattern",
    "lora.rank": "network_dim lora_rank linear dim r",
    "lora.alpha": "network_alpha lora_alpha linear_alpha",
    "lora.conv_rank": "conv_dim conv",
    "lora.dropout": "network_dropout lora_dropout dropout_probability",
    "lora.targets": "target_modules lora_layers",
    "train.method": "training_method",
    "inversion.tokens": "num_vectors num_vectors_per_token num_new_tokens_per_abstraction token_count",
    "inversion.init": "initializer_token init_word initializer_concept initial_embedding_text",
    "inversion.with_lora": "train_text_encoder_ti",
    "inversion.until": "train_text_encoder_ti_frac",
    "inversion.rate": "embedding_learning_rate token_learning_rate",
    "train.steps": "max_train_steps max_steps steps",
    "train.batch": "train_batch_size batch_size per_device_train_batch_size batch",
    "train.learning_rate": "lr unet_lr",
    "train.text_encoder_learning_rate": "text_encoder_lr learning_rate_te learning_rate_te1",
    "train.optimizer": "optimizer_type optim use_8bit_adam",
    "train.optimizer_args": "optimizer_config optimizer_params",
    "train.weight_decay": "adam_weight_decay",
    "train.betas": "adam_betas",
    "train.schedule": "lr_scheduler lr_scheduler_type learning_rate_scheduler",
    "train.schedule_cycles": "lr_num_cycles lr_scheduler_num_cycles",
    "train.schedule_power": "lr_power lr_scheduler_power",
    "train.schedule_decay": "lr_decay_steps",
    "train.warmup": "lr_warmup_steps warmup_steps learning_rate_warmup_steps num_warmup_steps",
    "train.clip": "max_grad_norm clip_grad_norm gradient_clip_val",
    "train.ema": "ema_decay",
    "train.time_density": """weighting_scheme timestep_sampling timestep_distribution timestep_type
        content_or_style""",
    "train.time_shift": "discrete_flow_shift timestep_shift flow_schedule_shift flux_schedule_shift",
    "train.loss": "loss_type",
    "train.mask_floor": "unmasked_weight mask_min_value",
    "train.guidance": "guidance_scale flux_guidance_value",
    "train.prediction": "prediction_type v_parameterization",
    "train.min_snr": "snr_gamma min_snr_gamma",
    "train.noise_offset": "offset_noise_weight",
    "train.zero_terminal_snr": "rescale_noise_scheduler_to_zero_terminal_snr rescale_betas_zero_snr",
    "train.validation_every": "eval_steps eval_steps_interval validate_every_n_steps",
    "train.patience": "early_stopping_patience",
    "train.save_every": "checkpointing_steps save_steps save_every_n_steps checkpoint_step_interval",
    "train.keep": "checkpoints_total_limit save_total_limit max_step_saves_to_keep",
    "prior.images": "class_data_dir reg_data_dir",
    "prior.prompts": "class_prompt",
    "prior.kind": "diff_output_preservation blank_prompt_preservation",
    "prior.class_word": "diff_output_preservation_class",
    "prior.weight": """prior_loss_weight diff_output_preservation_multiplier
        blank_prompt_preservation_multiplier""",
    "sample.every": "validation_steps sample_every_n_steps sample_every validation_step_interval",
    "sample.prompts": "validation_prompt validation_prompts prompts",
    "sample.prompt_file": "sample_prompts",
    "sample.steps": "sample_steps validation_num_inference_steps num_inference_steps",
    "sample.guidance": "validation_guidance sample.guidance_scale",
    "sample.seed": "validation_seed",
    "train.init": "init network_weights init_lora pretrained_lora_path",
    "train.adapter": "assistant_lora_path preset_lora_path",
    "slider.neutral": "slider.target_class slider.target",
    "slider.positive": "slider.positive_prompt",
    "slider.negative": "slider.negative_prompt slider.unconditional",
    "slider.guidance": "slider.guidance_strength slider.guidance_scale",
    "track.with": "report_to log_with",
    "limits.shard": "fsdp use_fsdp fsdp_enable enable_fsdp",
}
"""Our key -> the spellings of it that are read as well, at the top of the file or in any table.

One with a dot is read in that table only, before one without."""

PLANNER_KEYS = """
    fsdp_version fsdp_config fsdp_reshard_after_forward fsdp_cpu_offload fsdp_transformer_layer_cls_to_wrap
    gradient_checkpointing gradient_checkpointing_interval gradient_checkpointing_offload
    cpu_offload_checkpointing blockwise_fused_optimizers fused_backward_pass fused_optimizer_groups
    blocks_to_swap double_blocks_to_swap single_blocks_to_swap block_swap blocks_swap
    blocks_to_swap_while_sampling layer_offload_fraction layer_offloading
    layer_offloading_transformer_percent offload enable_model_cpu_offload offload_optimizer offload_param
    group_offload enable_group_offload group_offload_type group_offload_blocks_per_group
    group_offload_use_stream enable_async_offloading enable_activation_offloading img_in_txt_in_offloading
    split_mode fp8_base fp8_base_unet fp8_scaled fp8_llm fp8_vl fp8_t5 fp8_text_encoder fp8_fast nf4
    quantize quantize_te quantize_via quantization qtype qtype_te quantized base_model_precision
    text_encoder_precision base_model_default_dtype transformer_weight_dtype unet_weight_dtype weight_dtype
    load_in_8bit load_in_4bit bnb_4bit_compute_dtype mixed_precision bf16 fp16 full_bf16 full_fp16
    train_dtype fallback_train_dtype dtype mem_eff_attn xformers sdpa flash_attn sage_attn flash3 attn_mode
    split_attn attention_mechanism enable_xformers_memory_efficient_attention attention_backend
    vae_batch_size vae_tiling vae_slicing vae_enable_tiling vae_enable_slicing
    vae_spatial_tile_sample_min_size lowram highvram low_vram lowvram low_cpu_mem_usage torch_compile
    compile dynamo_backend compile_transformer allow_tf32 tf32 no_half_vae vae_dtype gradient_dtype
    gradient_precision
"""
"""What `limner plan` chooses to fit the card: the most exact, then the fastest way that does."""

ALWAYS: Mapping[str, str] = {
    "Latents and text embeddings are always cached.": """cache_latents cache_latents_to_disk latent_caching
        cache_text_encoder_outputs cache_text_encoder_outputs_to_disk cache_text_embeddings vae_cache_disable
        cache_text_encoder_outputs_batch_size skip_cache_check""",
    "Images are always sorted into aspect-ratio buckets; data.min_side leaves small ones out.": """
        enable_bucket aspect_ratio_bucketing bucket_no_upscale bucket_reso_steps min_bucket_reso
        max_bucket_reso resolution_type crop_aspect aspect_bucket_rounding bucket_selection""",
    "LoRAs and checkpoints are always written as .safetensors.": """save_model_as save_safetensors
        output_model_format""",
    "A run that was stopped goes on when the same command is typed again.": """resume
        resume_from_checkpoint save_state save_state_on_train_end initial_step continue_last_backup""",
    "Samples are rendered at the start and at the end, unless sample.every is -1.": """sample_at_first
        skip_first_sample validation_on_startup""",
    "What is trained stays in fp32; `limner lora convert --dtype` rounds the file.": """save_precision
        save_dtype save.dtype output_dtype lora_weight_dtype upcast_before_saving""",
}
"""What a run does without being told -> the keys that ask for it elsewhere."""

INSTEAD: Mapping[str, str] = {
    "gradient_accumulation_steps": """Set train.batch, the images per optimizer step: micro-batch x gradient
        accumulation. The plan chooses the micro-batch, and limits.micro_batch bounds it.""",
    "num_train_epochs": """Count steps: train.steps = epochs x images x repeats / train.batch.""",
    "num_repeats": """Each epoch shows every image once. Set train.steps = epochs x images x repeats /
        train.batch.""",
    "save_every_n_epochs": """Count steps: train.save_every = epochs x images / train.batch.""",
    "sample_every_n_epochs": """Count steps: sample.every = epochs x images / train.batch.""",
    "validate_every_n_epochs": """Count steps: train.validation_every = epochs x images / train.batch.""",
    "warmup_ratio": "Count steps: train.warmup = ratio x train.steps.",
    "save_last_n_steps": "Count checkpoints: train.keep = steps / train.save_every.",
    "adam_beta1": "Both betas stand in one list: train.betas = [0.9, 0.999].",
    "output_dir": "The run folder is named on the command line: --out FOLDER.",
    "with_prior_preservation": """Name class images: prior.images, a folder, or prior.prompts, from which
        the base renders them.""",
    "num_class_images": "Set prior.images_per_prompt, the class images per prompt.",
    "num_validation_images": "One image is rendered per prompt. Repeat the prompt in sample.prompts.",
    "validation_resolution": "Set sample.width and sample.height.",
    "disable_sampling": "Set sample.every = -1.",
    "center_crop": 'Set data.crop = "centre", "subject" or "auto".',
    "minimum_image_size": "Set data.min_side, the shorter side in pixels.",
    "validation_split": "Set data.validation_count, the number of images.",
    "train_text_encoder": 'Set lora.text_encoders = ["text_encoder"].',
    "network_args": "Set lora.kind, lora.factor, lora.conv_rank, lora.targets or lora.dropout.",
    "use_prodigy": 'Set train.optimizer = "prodigy" and train.learning_rate = 1.0.',
    "use_ema": "Set train.ema, the decay per step, for instance 0.999.",
    "weighting": 'Set train.time_density, or concept_type = "style".',
    "min_timestep": "Set train.noise_range = [low, high], in shares of the 1000 timesteps.",
    "use_rslora": "Set lora.alpha = alpha x sqrt(rank): the scale is alpha / rank.",
    "vae": """The VAE is the base's own. For a base in one file, components_from names the base that lends
        what the file lacks.""",
    "model_type": 'Set train.method = "lora" or "full". The base itself says of which family it is.',
    "only_if_contains": 'Set lora.targets, a list of endings of module names: ["attn.to_q", "!*.ff.*"].',
    "cache_dir": """Bases are fetched into the cache of the Hugging Face hub: set HF_HOME. data.cache is for
        latents and text embeddings.""",
    "user_prompt_library": "Write one prompt per line into a text file: sample.prompt_file.",
    "datasets": """Name one folder of images, data.images, or several as tables [[data.sets]]. Captions lie
        beside them, as .txt files or in metadata.jsonl.""",
    "caption_extension": "Captions are .txt files beside the images, metadata.jsonl or metadata.csv.",
    "push_to_hub": "Upload the LoRA when it is finished: hf upload <repository> lora.safetensors.",
    "wandb_api_key": 'Set track.with = ["wandb"]; the key is read from its own login.',
    "logging_dir": "Logs lie in the run folder: metrics.jsonl, and those of track.with.",
    "rolling_backup_count": "Set train.keep, the number of newest checkpoints that are kept.",
    "masked_loss": """Set data.masks: a folder (conditioning_data_dir), "sidecar", or "alpha". What black
        counts is train.mask_floor.""",
    "normalize_masked_area_loss": "The weights of each image have a mean of 1 always.",
    "validation_negative_prompt": "Samples are rendered without a negative prompt.",
    "config": "Write the keys themselves: this is the recipe.",
}
"""A key of theirs -> what to do here, where ours has another unit or another shape."""

SYNONYMS: Mapping[str, str] = {
    "gradient_accumulation_steps": "gradient_accumulation",
    "num_train_epochs": "max_train_epochs epochs num_epochs",
    "num_repeats": "repeats dataset_repeats balancing",
    "save_every_n_epochs": "checkpoint_epoch_interval",
    "sample_every_n_epochs": "validation_epochs validation_epoch_interval",
    "warmup_ratio": "lr_warmup_ratio",
    "save_last_n_steps": "save_last_n_steps_state save_last_n_epochs",
    "adam_beta1": "adam_beta2 beta1 beta2",
    "output_dir": "save_path training_folder output_model_destination workspace_dir output_path save_root",
    "with_prior_preservation": "is_reg prior_preservation",
    "num_validation_images": "num_samples",
    "center_crop": "random_crop crop_style",
    "minimum_image_size": "min_image_size",
    "validation_split": "validation_split_num",
    "train_text_encoder": "text_encoder_train network_train_text_encoder_only",
    "vae": "vae_path ae clip_l clip_g t5xxl pretrained_vae_model_name_or_path vae_name_or_path text_encoder",
    "datasets": "dataset_config data_backend_config dataset_name concept_file_name dataset train_data",
    "caption_extension": "caption_ext caption_column image_column caption_strategy",
    "push_to_hub": "hub_model_id hub_token huggingface_repo_id",
    "logging_dir": "log_dir logging_folder",
    "model_type": "model_family",
    "only_if_contains": "layer_filter flux_lora_target exclude_modules ignore_if_contains",
    "user_prompt_library": "sample_definition_file_name",
    "min_timestep": "max_timestep min_noising_strength max_noising_strength timestep_range",
    "validation_negative_prompt": "negative_prompt neg",
    "config": "config_file process",
}
"""A key of ``INSTEAD`` -> others with the same answer."""

ABSENT = """
    adam_epsilon adam_weight_decay_text_encoder adaptive_noise_scale alpha_pattern bias
    bypass_guidance_embedding caption_dropout_every_n_epochs caption_tag_dropout_rate clip_skip color_aug
    conv_alpha dataloader_num_workers debiased_estimation_loss disable_benchmark face_crop_aug_range
    freeze_encoder init_lora_weights input_perturbation ip_noise_gamma keep_tokens layers_pattern
    layers_to_transform logging_steps logit_mean logit_std lora_type loss_weight_fn lr_end
    max_data_loader_n_workers max_sequence_length max_token_length mode_scale model_prediction_type
    module_dropout modules_to_save multires_noise_discount multires_noise_iterations network_module
    network_train_unet_only noise_scheduler performance_log_every persistent_data_loader_workers
    perturbation_noise_weight prior_generation_precision prodigy_beta3 prodigy_decouple
    prodigy_safeguard_warmup prodigy_use_bias_correction rank_dropout revision sample_batch_size
    sample_sampler sampler scale_lr scale_v_pred_loss_like_noise_pred scale_weight_norms shuffle_caption
    shuffle_tokens sigmoid_scale t5xxl_max_token_length task_type token_warmup_step train_unet
    training_comment unet_lr_block variant walk_seed weighted_captions
"""
"""Keys of theirs that we have nothing for, though some look like one of ours."""

TABLES = """
    checkpoint config datasets ema_config eval general logging lora_config meta model model_kwargs
    network network_kwargs noise optimizer optimizer_params output process save saving text_encoder unet
    validation
"""
"""Tables of their files, whose keys are read as if they stood at the top; so is any table "*_arguments"."""


def _lower(words: Mapping[str, str]) -> Callable[[Any], Any]:
    """A reader that turns words of theirs into ours, whatever their case, and leaves all else as it is."""

    def read(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return words.get(value.strip().lower().replace("-", "_"), value)

    return read


def _listed(value: Any) -> Any:
    """One string where ours is a list."""
    return [value] if isinstance(value, str) else value


def _targets(value: Any) -> Any:
    """Split "attn.to_k,attn.to_q" into a list of endings."""
    if isinstance(value, str) and "," in value:
        return [ending.strip() for ending in value.split(",") if ending.strip()]
    return value


def _trackers(value: Any) -> Any:
    if isinstance(value, str):
        return [] if value.lower() == "none" else [value.lower()]
    return value


def _adam8bit(value: Any) -> Any:
    """``use_8bit_adam``."""
    return {True: "adamw8bit", False: "adamw"}.get(value, value) if isinstance(value, bool) else value


def _velocity(value: Any) -> Any:
    """``v_parameterization``."""
    return {True: "v", False: "epsilon"}[value] if isinstance(value, bool) else value


def _distribution(value: Any) -> Any:
    """``timestep_distribution``: what OneTrainer calls SIGMOID is no normal through a sigmoid."""
    if isinstance(value, str) and value.lower() == "sigmoid":
        raise BadRecipe(
            'timestep_distribution is "SIGMOID", a distribution that Limner has not. Set train.time_density '
            'to "logit-normal" or "uniform".'
        )
    return value


def _density(value: Any) -> Any:
    """What kohya calls "shift" is two settings of ours."""
    if isinstance(value, str) and value.endswith("shift"):
        raise BadRecipe(
            f'timestep_sampling is "{value}", which is two keys here. Set train.time_density = "sigmoid" and '
            'train.time_shift = 3.0, or "auto" to shift by resolution.'
        )
    words = {name: name for name in ("sigmoid", "uniform", "content", "style")} | {"balanced": "auto"}
    return _lower(words | {"logit_normal": "logit-normal", "linear": "uniform", "none": "uniform"})(value)


def _warmup(value: Any) -> Any:
    """Below 1, kohya takes it as a share of the steps."""
    if isinstance(value, float) and 0 < value < 1:
        raise BadRecipe(
            f"lr_warmup_steps is {value:g}, a share. Count steps: train.warmup = {value:g} x train.steps."
        )
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _decomposed(value: Any) -> Any:
    """``use_dora``."""
    return {True: "dora", False: "lora"}[value] if isinstance(value, bool) else value


def _arguments(value: Any) -> Any:
    """Kohya's list of "name=value"."""
    if not isinstance(value, list | tuple) or not all(
        isinstance(entry, str) and "=" in entry for entry in value
    ):
        return value
    pairs = (entry.split("=", 1) for entry in value)
    return {name.strip(): _literal(text.strip()) for name, text in pairs}


def _literal(text: str) -> Any:
    """A number, true or false as Python writes them, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _taught(kind: str) -> Callable[[Any], Any]:
    """A reader of ai-toolkit's switches, of which each is a kind of prior."""
    return lambda value: {True: kind, False: "images"}[value] if isinstance(value, bool) else value


def _sharded(value: Any) -> Any:
    """FSDP as others switch it on: true, or a strategy of transformers ("full_shard auto_wrap")."""
    return {"True": "on", "False": "off"}.get(str(value), "on" if "_shard" in str(value) else value)


def _masks(source: str) -> Callable[[Any], Any]:
    """A reader of switches that say where masks are."""
    return lambda value: {True: source, False: None}[value] if isinstance(value, bool) else value


READERS: Mapping[str, Callable[[Any], Any]] = {
    "diff_output_preservation": _taught("teacher"),
    "blank_prompt_preservation": _taught("blank"),
    "alpha_mask": _masks("alpha"),
    "masked_training": _masks("sidecar"),
    **dict.fromkeys(("fsdp", "use_fsdp", "fsdp_enable", "enable_fsdp"), _sharded),
    "use_8bit_adam": _adam8bit,
    "use_dora": _decomposed,
    "lora_decompose": _decomposed,
    "v_parameterization": _velocity,
    "class_prompt": _listed,
    "validation_prompt": _listed,
    "target_modules": _targets,
    "lora_layers": _targets,
    "timestep_distribution": _distribution,
    "lr_warmup_steps": _warmup,
    "report_to": _trackers,
    "log_with": _trackers,
}
"""A spelling -> how its value is read, where it has another form than ours."""

WORDS: Mapping[str, Callable[[Any], Any]] = {
    "train.optimizer": _lower(
        {
            **{name: name for name in OPTIMIZERS},
            "adamw_torch": "adamw",
            "adamw_8bit": "adamw8bit",
            "paged_adamw_8bit": "pagedadamw8bit",
            "adamwschedulefree": "schedulefree",
            "adamw_schedule_free": "schedulefree",
            "schedule_free_adamw": "schedulefree",
        }
    ),
    "train.optimizer_args": _arguments,
    "train.schedule": _lower(
        {name: name for name in ("constant", "cosine", "linear", "cosine_with_restarts", "polynomial")}
        | {"constant_with_warmup": "constant"}
        | dict.fromkeys(("warmup_stable_decay", "wsd"), "warmup_stable_decay")
    ),
    "train.time_density": _density,
    "lora.kind": _lower({"lora": "lora", "locon": "lora", "loha": "loha", "lokr": "lokr", "dora": "dora"}),
    "train.loss": _lower({"l2": "mse", "mse": "mse", "l1": "l1", "mae": "l1", "huber": "huber"}),
    "train.method": _lower(
        {"lora": "lora", "full": "full", "fine_tune": "full", "instant": "instant"}
        | dict.fromkeys(("inversion", "textual_inversion", "embedding"), "inversion")
    ),
    "train.prediction": _lower({"epsilon": "epsilon", "v_prediction": "v", "v": "v"}),
    "data.crop": _lower({"center": "centre"}),
    "slider.neutral": _listed,
}
"""Our key -> how words for its values are read, in whatever spelling the key stands."""
