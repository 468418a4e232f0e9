"""What a subclass of the Trainer may override, and what is refused because it would be ignored in silence.

A subclass is on either side of the mixin: `class A(ResumableMixin, Theirs)`, where the mixin hides what `Theirs`
overrides, and `class B(ResumableTrainer)`, which hides what the mixin does. Every method of the Trainer is in one of
the four tables; `tests/contracts/test_overrides.py` compares them with the installed one, and has each called.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Set
from types import CodeType
from typing import Final

from llamarec.errors import ConfigError

_OWN_PACKAGE: Final = "llamarec.checkpoints"

_DATA: Final = "override epoch_order(epoch, num_samples) or _get_train_sampler, or pass another train_dataset"
_STATE: Final = "keep a state of your own in a callback that is an ExportableState, or in files_beside_model()"
_SIZES: Final = "set per_device_train_batch_size and gradient_accumulation_steps"
_PUBLISHED: Final = "pass after_save=..., called with each finished checkpoint, or override files_beside_model()"

NEVER_CALLED: Final[Mapping[str, str]] = {
    "get_batch_samples": "override training_step or compute_loss, or pass another data_collator",
    "create_optimizer_and_scheduler": "override create_optimizer and create_scheduler",
    "_load_callback_state": _STATE,
    "_load_optimizer_and_scheduler": _STATE,
    "_load_rng_state": _STATE,
    "_load_scaler": _STATE,
    "_save_optimizer_and_scheduler": _STATE,
    "_save_rng_state": _STATE,
    "_save_scaler": _STATE,
    "_push_from_checkpoint": _PUBLISHED,
    "_rotate_checkpoints": "set save_total_limit, or copy checkpoints with backup_to",
    "_sorted_checkpoints": "set save_total_limit, or copy checkpoints with backup_to",
    "_update_auto_batch_size": _SIZES,
}
"""Methods that a resumable training does not use, each with what to use instead."""

REPLACED: Final[Mapping[str, str]] = {
    "_get_dataloader": _DATA,
    "_run_epoch": "override training_step or compute_loss, or use a callback",
    "_save_checkpoint": _PUBLISHED,
    "_load_best_model": "load the folder that state.best_model_checkpoint names, after train()",
    "get_total_train_batch_size": _SIZES,
    "set_initial_training_values": "set num_train_epochs or max_steps",
}
"""Methods that the mixin replaces: hidden below it; above it they must call `super()`."""

LEADS_ON: Final[Mapping[str, tuple[frozenset[str], str]]] = {
    "get_train_dataloader": (frozenset({"get_train_dataloader", "_get_dataloader"}), _DATA),
}
"""Methods that count on both sides if they call one of the named ones, each with what to use instead."""

SUPPORTED: Final = frozenset(
    {
        "_build_accelerator_args",
        "_clip_grad_norm",
        "_defer_fsdp_gradient_reduction",
        "_determine_best_metric",
        "_evaluate",
        "_finalize_training",
        "_finish_current_push",
        "_get_collator_with_removed_columns",
        "_get_eval_sampler",
        "_get_grad_norm",
        "_get_learning_rate",
        "_get_num_items_in_batch",
        "_get_output_dir",
        "_get_train_sampler",
        "_has_mixed_mesh_grads",
        "_hp_search_setup",
        "_init_training_state",
        "_inner_training_loop",
        "_issue_warnings_after_load",
        "_load_from_checkpoint",
        "_maybe_log_save_evaluate",
        "_mixed_mesh_grad_norm",
        "_move_model_to_device",
        "_prepare_context_parallel_inputs",
        "_prepare_for_training",
        "_prepare_input",
        "_prepare_inputs",
        "_remove_unused_columns",
        "_report_to_hp_search",
        "_save",
        "_set_signature_columns_if_needed",
        "_sync_replicated_trainable_parameters",
        "_track_num_input_tokens",
        "_tune_save_checkpoint",
        "_validate_args",
        "_wrap_model",
        "add_callback",
        "autocast_smart_context_manager",
        "call_model_init",
        "compute_loss",
        "compute_loss_context_manager",
        "create_accelerator_and_postprocess",
        "create_model_card",
        "create_optimizer",
        "create_scheduler",
        "end",
        "evaluate",
        "evaluation_loop",
        "floating_point_ops",
        "get_cp_size",
        "get_decay_parameter_names",
        "get_eval_dataloader",
        "get_learning_rates",
        "get_num_trainable_parameters",
        "get_optimizer_cls_and_kwargs",
        "get_optimizer_group",
        "get_sp_size",
        "get_test_dataloader",
        "get_tp_size",
        "hyperparameter_search",
        "init_hf_repo",
        "is_local_process_zero",
        "is_world_process_zero",
        "log",
        "log_metrics",
        "loss_is_scaled_for_ga",
        "metrics_format",
        "num_examples",
        "pop_callback",
        "predict",
        "prediction_step",
        "push_to_hub",
        "remove_callback",
        "save_metrics",
        "save_model",
        "save_state",
        "store_flos",
        "train",
        "training_step",
    }
)
"""Methods that count on both sides: called by the Trainer's own code or by ours, through `super()` where the mixin has
them too."""

_CARD: Final = frozenset(
    {"super", "args", "hub_model_id", "Path", "output_dir", "name", "split", "create_model_card", "_save_checkpoint"}
)
_ENTROPY: Final = frozenset(
    {"super", "use_adaptive_entropy", "args", "should_save", "state", "global_step", "PREFIX_CHECKPOINT_DIR"}
    | {"_get_output_dir", "os", "path", "join", "exists", "open", "json", "dump", "load"}
    | {"entropy_coef", "_last_world_entropy", "_save_checkpoint", "_load_optimizer_and_scheduler"}
)

HARMLESS: Final[Mapping[tuple[str, str], frozenset[str]]] = {
    # A model card, and a file with two numbers that a checkpoint has among the Trainer's attributes.
    ("trl", "_save_checkpoint"): _CARD | _ENTROPY,
    ("trl", "_load_optimizer_and_scheduler"): _ENTROPY,
}
"""(package, method) of libraries whose override may be hidden, as long as its code names nothing else than these."""


def check_overrides(cls: type, mixin: type, base: type) -> None:
    """Refuses a subclass whose override would be ignored, or would take the mixin's part away.

    Args:
        cls: Of the live Trainer.
        mixin: `ResumableMixin`.
        base: `transformers.Trainer`.

    Raises:
        ConfigError: names each such method, and what to use instead.
    """
    refused = list(_refused(cls, mixin, base))
    if not refused:
        return

    raise ConfigError(
        f"{cls.__name__} cannot be resumed: " + "; ".join(problem for problem, _ in refused),
        expected="overrides that a resumable training calls",
        hint=[f"instead of {problem.split()[0]}: {instead}" for problem, instead in refused],
    )


def _refused(cls: type, mixin: type, base: type) -> Iterator[tuple[str, str]]:
    order = cls.__mro__
    for number, one in enumerate(order[: order.index(base)]):
        if one.__module__.startswith(_OWN_PACKAGE):
            continue

        is_above = number < order.index(mixin)
        for name, member in vars(one).items():
            if _is_harmless(one, name, member):
                continue

            if name in NEVER_CALLED:
                yield f"{one.__name__}.{name} would never be called", NEVER_CALLED[name]
            elif name in REPLACED and not is_above:
                yield f"{one.__name__}.{name} would be hidden by {mixin.__name__}", REPLACED[name]
            elif name in REPLACED and not _calls(member, {name}):
                yield f"{one.__name__}.{name} does not call super().{name}(...)", REPLACED[name]
            elif name in LEADS_ON and not _calls(member, LEADS_ON[name][0]):
                calls = " or ".join(sorted(LEADS_ON[name][0]))
                yield f"{one.__name__}.{name} does not call {calls}", LEADS_ON[name][1]


def _is_harmless(cls: type, name: str, method: object) -> bool:
    allowed, code = HARMLESS.get((cls.__module__.partition(".")[0], name)), _code_of(method)
    return allowed is not None and code is not None and set(code.co_names) <= allowed


def _calls(method: object, names: Set[str]) -> bool:
    """Whether a method names one of these; compiled code, which cannot be looked into, may."""
    code = _code_of(method)
    return code is None or bool(names & set(code.co_names))


def _code_of(method: object) -> CodeType | None:
    code = getattr(inspect.unwrap(method) if callable(method) else method, "__code__", None)
    return code if isinstance(code, CodeType) else None
