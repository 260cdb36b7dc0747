"""Keys of config.json that change no logit, each group with its reason.

A key that is neither read by `runtime/models/hf_config.py` nor listed here is rejected, because it
may request something that this decoder does not compute.
"""

from collections.abc import Mapping

_TRAINING = (
    "initializer_range attention_dropout attn_pdrop embd_pdrop resid_pdrop hidden_dropout "
    "hidden_dropout_prob mlp_dropout dropout use_cache gradient_checkpointing"
)
_OUTPUT_FORM = "output_attentions output_hidden_states return_dict output_scores torchscript"
_IMPLEMENTATION = (
    "attn_implementation _attn_implementation _attn_implementation_autoset "
    "_attn_implementation_internal _experts_implementation_internal use_flash_attn "
    "use_flash_attention _flash_attn_2_enabled use_bfloat16 chunk_size_feed_forward "
    "pretraining_tp torch_dtype dtype"
)
_TOKENS = (
    "bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id decoder_start_token_id "
    "pad_token bos_token eos_token unk_token tokenizer_class model_max_length max_sequence_length "
    "max_seq_len seq_length"
)
_GENERATION = (
    "max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty "
    "temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size "
    "encoder_no_repeat_ngram_size bad_words_ids num_return_sequences return_dict_in_generate "
    "forced_bos_token_id forced_eos_token_id remove_invalid_values suppress_tokens "
    "begin_suppress_tokens exponential_decay_length_penalty max_new_tokens"
)
_OTHER_TASKS = (
    "id2label label2id num_labels problem_type finetuning_task task_specific_params prefix "
    "tf_legacy_loss"
)
_WINDOWS = "max_window_layers"
_ORIGIN = (
    "_name_or_path name_or_path _model_name_or_path _commit_hash transformers_version "
    "transformers.js_config is_llama_config unsloth_fixed unsloth_version unsloth_processed "
    "paceline_drafter"
)

HARMLESS: Mapping[str, str] = {
    name: reason
    for names, reason in (
        (_TRAINING, "dropout and initialization act in training only"),
        (_OUTPUT_FORM, "selects what a call returns besides logits"),
        (_IMPLEMENTATION, "selects how the same numbers are computed or stored"),
        (_TOKENS, "describes the tokenizer or the length of its texts"),
        (_GENERATION, "a sampling default, which each request sets itself"),
        (_OTHER_TASKS, "belongs to heads for other tasks"),
        (_WINDOWS, "has an effect only with use_sliding_window, in qwen models"),
        (_ORIGIN, "describes the origin of the file"),
    )
    for name in names.split()
}
"""Keys that may have any value, and why."""

NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "is_decoder": (False, True),
    "is_causal": (True,),
    "rope_interleaved": (False,),
    "use_mrope": (False,),
    "use_dynamic_ntk": (False,),
    "use_logn_attn": (False,),
    "use_parallel_residual": (False,),
    "use_sliding_window": (False,),
    "attention_chunk_size": (),
    "use_qk_norm": (False,),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "num_experts": (0,),
    "num_local_experts": (0,),
    "embedding_multiplier": (1,),
    "residual_multiplier": (1,),
    "logits_scaling": (1,),
    "logit_scale": (1,),
    "tie_encoder_decoder": (False, True),
    "cross_attention_hidden_size": (),
    "pruned_heads": ({},),
}
"""Values with which a key has no effect; any other value except null is rejected."""


def check_unread(unread: Mapping[str, object], harmless: Mapping[str, str]) -> None:
    """Reject keys that may change the output.

    Args:
        unread: the keys that were not read, with their values.
        harmless: keys of the model's family that may have any value, and why.

    Raises:
        ValueError: a key is unknown, or has a value that may have an effect.
    """
    for name, value in unread.items():
        if value is None or name in HARMLESS or name in harmless:
            continue
        if name in NEUTRAL:
            if value not in NEUTRAL[name]:
                raise ValueError(f"{name} is {value!r}, which is not supported")
        elif value is not False and value not in ({}, [], ""):  # these request nothing
            raise ValueError(
                f"{name} is {value!r}, which may change the output and is not understood: use a "
                "model without it, or remove the key if you know that it has no effect"
            )
