"""What other trainers call our keys, and what there is instead where we have no such key. Pure tables.

The names are those of the command lines and config files of diffusers' training examples, kohya's sd-scripts
and musubi-tuner, ai-toolkit, OneTrainer, SimpleTuner, and peft's ``LoraConfig``. ``limner.recipe.aliases``
reads the tables; a name stands in one of them only.
"""

from collections.abc import Mapping

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
    "data.tag_shuffle": "shuffle_caption shuffle_tokens enable_tag_shuffling",
    "data.keep_tags": "keep_tokens keep_tags_count",
    "data.tag_dropout": "caption_tag_dropout_rate token_dropout_rate tag_dropout_probability",
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
    "prior.count": "num_class_images",
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
    "limits.timeout": "ddp_timeout",
}
"""Our key -> the spellings of it that are read as well, at the top of the file or in any table.

One with a dot is read in that table only, before one without."""

PLANNER_KEYS = """
    fsdp_version fsdp_config fsdp_reshard_after_forward fsdp_cpu_offload fsdp_transformer_layer_cls_to_wrap
    gradient_checkpointing gradient_checkpointing_interval gradient_checkpointing_offload
    cpu_offload_checkpointing blockwise_fused_optimizers fused_backward_pass fused_optimizer_groups
    blocks_to_swap double_blocks_to_swap single_blocks_to_swap block_swap blocks_swap
    blocks_to_swap_while_sampling layer_offload_fraction layer_offloading layer_offloading_transformer_percent
    offload enable_model_cpu_offload offload_optimizer offload_param group_offload enable_group_offload
    group_offload_type group_offload_blocks_per_group group_offload_use_stream enable_async_offloading
    enable_activation_offloading img_in_txt_in_offloading split_mode fp8_fast quantize_via mem_eff_attn
    xformers sdpa flash_attn sage_attn flash3 attn_mode split_attn attention_mechanism
    enable_xformers_memory_efficient_attention attention_backend vae_batch_size vae_tiling vae_slicing
    vae_enable_tiling vae_enable_slicing vae_spatial_tile_sample_min_size lowram highvram low_vram lowvram
    low_cpu_mem_usage torch_compile compile dynamo_backend compile_transformer allow_tf32 tf32 no_half_vae
    vae_dtype gradient_dtype gradient_precision
"""
"""What `limner plan` chooses to fit the card: the most exact, then the fastest way that does."""

LIMITS_KEYS: Mapping[str, str] = {
    "limits.weights_precision bounds it: 16bit, 8bit or 4bit": """
        fp8_base fp8_base_unet fp8_scaled fp8_llm fp8_vl fp8_t5 fp8_text_encoder nf4 quantize quantize_te
        quantization qtype qtype_te quantized base_model_precision text_encoder_precision
        base_model_default_dtype transformer_weight_dtype unet_weight_dtype weight_dtype load_in_8bit
        load_in_4bit""",
    "limits.compute_dtype sets it: bf16, fp16 or fp32": """
        bnb_4bit_compute_dtype mixed_precision bf16 fp16 full_bf16 full_fp16 train_dtype fallback_train_dtype
        dtype precision""",
}
"""How a key of [limits] says what else the plan decides -> the keys that do so elsewhere."""

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
    "num_repeats": """Repeats are of a set: repeats in [[data.sets]]. Of one folder, set train.steps =
        epochs x images x repeats / train.batch.""",
    "save_every_n_epochs": """Count steps: train.save_every = epochs x images / train.batch.""",
    "sample_every_n_epochs": """Count steps: sample.every = epochs x images / train.batch.""",
    "validate_every_n_epochs": """Count steps: train.validation_every = epochs x images / train.batch.""",
    "warmup_ratio": "Count steps: train.warmup = ratio x train.steps.",
    "save_last_n_steps": "Count checkpoints: train.keep = steps / train.save_every.",
    "adam_beta1": "Both betas stand in one list: train.betas = [0.9, 0.999].",
    "output_dir": "The run folder is named on the command line: --out FOLDER.",
    "with_prior_preservation": """Name class images: prior.images, a folder, or prior.prompts, from which
        the base renders them.""",
    "num_validation_images": "One image is rendered per prompt. Repeat the prompt in sample.prompts.",
    "validation_resolution": "Set sample.width and sample.height.",
    "disable_sampling": "Set sample.every = -1.",
    "center_crop": 'Set data.crop = "centre", "subject" or "auto".',
    "minimum_image_size": "Set data.min_side, the shorter side in pixels.",
    "validation_split": "Set data.validation_count, the number of images.",
    "train_text_encoder": 'Set lora.text_encoders = ["text_encoder"].',
    "network_args": "Set lora.kind, lora.factor, lora.conv_rank, lora.targets or lora.dropout.",
    "network_module": 'Set lora.kind: "lora", "loha", "lokr" or "dora".',
    "unet_lr_block": 'Set [lora.rates]: "blocks.0-9.*" = 0.5.',
    "layers_to_transform": 'Write the range into lora.targets: ["blocks.4-12.attn.*"].',
    "adam_epsilon": "Set train.optimizer_args = {eps = 1e-8}, by the names of the optimizer itself.",
    "init_lora_weights": "Set train.init, a LoRA to start from. Without one the change begins at zero.",
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
    "push_to_hub": "Upload the finished run: limner publish RUN --to user/name.",
    "wandb_api_key": 'Set track.with = ["wandb"]; the key is read from its own login.',
    "logging_dir": "Logs lie in the run folder: metrics.jsonl, and those of track.with.",
    "rolling_backup_count": "Set train.keep, the number of newest checkpoints that are kept.",
    "masked_loss": """Set data.masks: a folder (conditioning_data_dir), "sidecar", or "alpha". What black
        counts is train.mask_floor.""",
    "normalize_masked_area_loss": "The weights of each image have a mean of 1 always.",
    "validation_negative_prompt": "Write it behind a prompt of sample.prompts: a cat --n blurry.",
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
    "network_module": "lora_type",
    "adam_epsilon": """prodigy_beta3 prodigy_decouple prodigy_use_bias_correction
        prodigy_safeguard_warmup""",
    "layers_to_transform": "layers_pattern",
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
    adam_weight_decay_text_encoder adaptive_noise_scale alpha_pattern bias bypass_guidance_embedding
    caption_dropout_every_n_epochs clip_skip color_aug conv_alpha dataloader_num_workers
    debiased_estimation_loss disable_benchmark face_crop_aug_range freeze_encoder input_perturbation
    ip_noise_gamma logging_steps logit_mean logit_std loss_weight_fn lr_end max_data_loader_n_workers
    max_sequence_length max_token_length mode_scale model_prediction_type module_dropout modules_to_save
    multires_noise_discount multires_noise_iterations network_train_unet_only noise_scheduler
    performance_log_every persistent_data_loader_workers perturbation_noise_weight prior_generation_precision
    rank_dropout revision sample_batch_size sample_sampler sampler scale_lr scale_v_pred_loss_like_noise_pred
    scale_weight_norms sigmoid_scale t5xxl_max_token_length task_type token_warmup_step train_unet
    training_comment variant walk_seed weighted_captions
"""
"""Keys of theirs that we have nothing for, though some look like one of ours."""

TABLES = """
    checkpoint config datasets ema_config eval general logging lora_config meta model model_kwargs
    network network_kwargs noise optimizer optimizer_params output process save saving text_encoder unet
    validation
"""
"""Tables of their files, whose keys are read as if they stood at the top; so is any table "*_arguments"."""

VALUE_WORDS = """
    train.optimizer train.optimizer_args train.schedule train.time_density lora.kind train.loss train.method
    train.prediction data.crop slider.neutral
"""
"""Our keys for whose values others have other words (``limner.recipe.readers``), in whatever spelling."""
