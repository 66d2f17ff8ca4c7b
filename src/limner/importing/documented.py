"""Documented keys of other trainers that no rule reads: what each means here, by patterns of their names."""

import re
from collections.abc import Iterator

from limner.importing.book import Outcome

OPTIMIZER = "Set train.optimizer_args, if the optimizer has it."
NO_KIND = "Of an adapter of another kind."
VIDEO = "Of video or sound."
NOTHING = "No such setting here."
UPLOAD = "Upload the finished run: limner publish RUN --to user/name."

WORDS: tuple[tuple[Outcome, str, str], ...] = (
    (
        "the plan decides",
        "",
        """num_cpu_threads_per_process num_machines num_processes main_process_port dynamo_mode gpu_ids
        dynamo_use_regional_compilation dynamo_use_fullgraph dynamo_use_dynamic sdxl_no_half_vae
        extra_accelerate_launch_args fused_back_pass offload_fraction musubi_blocks_to_swap
        text_encoder_batch_size offload_during_startup gradient_checkpointing_backend
        gradient_checkpointing_segment_stride use_gradient_checkpointing
        use_gradient_checkpointing_offload find_unused_parameters initialize_model_on_cpu
        unload_text_encoder t5xxl_dtype sd3_text_encoder_batch_size fuse_qkv_projections ema_device
        ema_cpu_only text_encoder_bits vae_enable_patch_conv text_encoder_[1-4]_precision
        enable_optimizer_cpu_offload offload_models cpu_offload_split_threshold fp8_models
        quant_options sdnq_\\w+ ramtorch\\w* context_parallel_\\w+ multi_gpu activation_offloading
        framewise_decoding""",
    ),
    (
        "always so",
        "",
        """save_format ext remove_prefix_in_ckpt align_to_opensource_format lora_format
        stochastic_rounding sdxl_cache_text_encoder_outputs
        flux1_cache_text_encoder_outputs(?:_to_disk)? compress_disk_cache metadata_backend sdxl
        flux1_checkbox sd3_checkbox is_lumina2 is_\\w+ disable_bucket_pruning
        aspect_bucket_alignment dataset_type id default text_embeds template file_extension
        trust_remote_code only_if_needed""",
    ),
    (
        "off",
        VIDEO,
        """num_frames fps framerate min_frames video_column validation_num_video_frames
        shrink_video_to_frames audio_\\w+ video_\\w+ validation_audio_\\w+ validation_lyrics
        ltx2_\\w+ minimax_\\w+ cosmos3_\\w+ train_high_noise train_low_noise switch_boundary_every
        temporal_boundary spatial_region vae_enable_temporal_roll first_frame_as_condition
        silence_latent_path audio_processor_path max_timestep_boundary min_timestep_boundary""",
    ),
    (
        "off",
        "",
        """model_list num_eval_images evaluation_type use_latent_files create_caption full_path
        train_dir caption_metadata_filename latent_metadata_filename metadata_\\w+
        tracker_project_name description email website trigger_words noise_offset_type unit
        processor_path processor_config tokenizer_t5xxl_path delete_problematic_images
        ideogram_auto_json ideogram_prompt_enhancer_head_id allow_dataset_oversubscription""",
    ),
    (
        "cannot be had",
        UPLOAD,
        "push_to_hub_background hf_repo_id hf_private huggingface_\\w+ resume_from_huggingface",
    ),
    (
        "cannot be had",
        OPTIMIZER,
        """clip_threshold decay_rate eps2? d_coef d0 beta3 growth_rate relative_step scale_parameter
        warmup_init momentum dampening nesterov amsgrad use_bias_correction safeguard_warmup slice_p
        decouple prodigy_steps lr_scheduler_args optimizer_eps""",
    ),
    (
        "cannot be had",
        NO_KIND,
        """LyCORIS_preset constrain use_cp use_tucker use_scalar train_norm decompose_both
        rank_dropout_scale bypass_mode rescaled lycoris_config lokr_\\w+ loha_\\w+ oft_\\w+
        dim_from_weights validation_lycoris_strength validation_adapter_strength""",
    ),
    (
        "cannot be had",
        NOTHING,
        """stop_text_encoder_training(?:_pct)? train_on_input v_pred_like_loss
        ip_noise_gamma_random_strength noise_offset_random_strength loraplus_\\w+
        additional_parameters huber_scale keep_tokens_separator apply_t5_attn_mask learning_rate_te2
        save_last_n_epochs_state sample_start_step noising_weight noising_bias loss_weight_strength
        validation_disable_unconditional validation_guidance_\\w+ validation_disable
        grad_clip_method ema_update_interval ema_validation ema_warmup_steps maximum_image_size
        target_downsample_size distillation_method schedule_shift crop_aspect_buckets
        max_num_samples meanflow_\\w+ diffusion_\\w+ central_difference_\\w+ consistency_ratio
        deltatime_type controlnet conditioning_multidataset_sampling probability layers_per_block
        overlap cotrain_forward backup_after end_layer_idx start_layer_idx selection_ratio
        image_encoder_\\w+ clip_layer test_img_path clip_image_path noise_scale zero_cond_t
        control_dropout inpaint_\\w+ invert_inpaint_mask_chance random_\\w+mask controls
        save_epoch_interval hidream_\\w+ ideogram_\\w+ lora_network_weights lora_checkpoint
        real_score_guidance_scale balance sft_loss_weight fuse_guidance_scale gate_value stage
        train_delta_embedder train_time_embedder cache_file_suffix pretrained_t5_model_name_or_path
        loss_weight""",
    ),
)  # fmt: skip
"""What a key means -> why -> patterns of keys."""


def _forms() -> Iterator[tuple[re.Pattern[str], Outcome, str]]:
    for outcome, note, names in WORDS:
        yield re.compile("|".join(names.split())), outcome, note


FORMS = tuple(_forms())


def meaning(leaf: str) -> tuple[Outcome, str] | None:
    """What a documented key means here, and why; None of one that stands in no table."""
    return next(((outcome, note) for form, outcome, note in FORMS if form.fullmatch(leaf)), None)
