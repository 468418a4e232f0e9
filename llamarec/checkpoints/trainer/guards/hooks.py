"""Every member of transformers and accelerate that checkpoints depend on, and the check that it is there.

A Trainer that renames one of its methods would train to its end without an error and without one checkpoint: an
override that nobody calls is silent. So each hook is listed here with the parameters that are relied upon and with the
methods of the Trainer that must use it, and a `ResumableTrainer` refuses to be made where one is missing.
`tests/contracts/test_hooks.py` derives the same lists from our source. Imports neither torch nor transformers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from llamarec.errors import ConfigError
from llamarec.requirements import supported_range

_OWN_PACKAGE: Final = "llamarec.checkpoints"


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method of the Trainer that is overridden or called.

    Attributes:
        name: Of the method.
        positional: Its first parameters after `self`, in this order; further ones need a default.
        named: Parameters that are passed by name.
        used_in: Methods of the Trainer that must name it in their code.
    """

    name: str
    positional: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    used_in: tuple[str, ...] = ()


_LOOP: Final = ("_inner_training_loop",)
_REPORT: Final = ("_maybe_log_save_evaluate",)

OVERRIDDEN: Final = (
    Method(name="train", positional=("resume_from_checkpoint", "trial", "ignore_keys_for_eval")),
    Method(
        name="_run_epoch",
        named=("model", "epoch", "train_dataloader", "trial", "ignore_keys_for_eval", "start_time"),
        used_in=_LOOP,
    ),
    Method(name="set_initial_training_values", positional=("args", "dataloader"), used_in=_LOOP),
    Method(
        name="_init_training_state",
        positional=(
            "max_steps",
            "num_update_steps_per_epoch",
            "num_train_epochs",
            "resume_from_checkpoint",
            "trial",
        ),
        used_in=_LOOP,
    ),
    Method(
        name="_prepare_for_training",
        positional=("max_steps", "train_dataloader", "resume_from_checkpoint"),
        used_in=_LOOP,
    ),
    Method(name="_finalize_training", positional=("trial", "num_train_samples", "start_time"), used_in=_LOOP),
    Method(
        name="_get_dataloader",
        positional=("dataset", "description", "batch_size", "sampler_fn", "is_training", "dataloader_key"),
        used_in=("get_train_dataloader",),
    ),
    Method(name="get_total_train_batch_size", positional=("args",)),
    Method(name="create_scheduler", positional=("num_training_steps", "optimizer"), used_in=("_prepare_for_training",)),
    Method(name="_save_checkpoint", positional=("model", "trial"), used_in=_REPORT),
    Method(name="_determine_best_metric", positional=("metrics", "trial"), used_in=_REPORT),
    Method(name="_evaluate", used_in=(*_LOOP, *_REPORT)),
    Method(name="evaluation_loop", positional=("dataloader",), used_in=("evaluate",)),
    Method(
        name="prediction_step",
        positional=("model", "inputs", "prediction_loss_only", "ignore_keys"),
        used_in=("evaluation_loop",),
    ),
    Method(name="get_eval_dataloader", positional=("eval_dataset",), used_in=("evaluate",)),
    Method(name="_save", positional=("output_dir", "state_dict"), used_in=("save_model",)),
    Method(name="_load_best_model", used_in=("_finalize_training",)),
    Method(name="create_accelerator_and_postprocess"),
)
"""Methods of the Trainer that a mixin defines too."""

CALLED: Final = (
    Method(
        name="_maybe_log_save_evaluate",
        positional=("tr_loss", "grad_norm"),
        named=("model", "trial", "epoch", "ignore_keys_for_eval", "start_time", "learning_rate"),
    ),
    Method(name="training_step", positional=("model", "inputs", "num_items_in_batch")),
    Method(name="compute_loss", positional=("model", "inputs", "return_outputs", "num_items_in_batch")),
    Method(name="compute_loss_context_manager"),
    Method(name="_prepare_inputs", positional=("inputs",)),
    Method(name="_clip_grad_norm", positional=("model",)),
    Method(name="_get_grad_norm", positional=("model",), named=("grad_norm",)),
    Method(name="_get_learning_rate"),
    Method(name="_get_num_items_in_batch", positional=("batch_samples", "device")),
    Method(name="_track_num_input_tokens", positional=("inputs",)),
    Method(name="floating_point_ops", positional=("inputs",)),
    Method(name="store_flos"),
    Method(name="call_model_init", positional=("trial",)),
    Method(name="_hp_search_setup", positional=("trial",)),
    Method(name="save_model", positional=("output_dir",), named=("_internal_call",)),
    Method(name="_load_from_checkpoint", positional=("resume_from_checkpoint", "model")),
    Method(name="_get_output_dir", positional=("trial",)),
    Method(name="_remove_unused_columns", positional=("dataset",), named=("description",)),
    Method(name="_get_collator_with_removed_columns", positional=("data_collator",), named=("description",)),
    Method(name="get_train_dataloader", used_in=_LOOP),
    Method(name="get_test_dataloader", positional=("test_dataset",)),
)
"""Methods of the Trainer that are called, and that no mixin defines."""

ATTRIBUTES: Final = (
    "_train_batch_size",
    "accelerator",
    "args",
    "callback_handler",
    "compute_loss_func",
    "compute_metrics",
    "control",
    "current_flos",
    "data_collator",
    "hp_search_backend",
    "is_deepspeed_enabled",
    "is_fsdp_enabled",
    "lr_scheduler",
    "model",
    "model_accepts_loss_kwargs",
    "model_init",
    "optimizer",
    "optimizer_cls_and_kwargs",
    "preprocess_logits_for_metrics",
    "processing_class",
    "state",
    "train_dataset",
)
"""Attributes that a Trainer has once it is made."""

LOOP_ATTRIBUTES: Final[Mapping[str, tuple[str, ...]]] = {
    "_tr_loss": ("_inner_training_loop", "_finalize_training"),
    "_total_loss_scalar": ("_inner_training_loop", "_maybe_log_save_evaluate", "_finalize_training"),
    "_globalstep_last_logged": ("_inner_training_loop", "_maybe_log_save_evaluate"),
    "current_gradient_accumulation_steps": ("training_step",),
    "neftune_hook_handle": ("_finalize_training",),
    # Before transformers 5.20 the mean loss was taken over all steps, as it is here; writing it changes nothing there.
    "_initial_global_step": (),
}
"""Attributes that exist while it trains, each with the methods of the Trainer that must use it."""

MEMBERS: Final[Mapping[str, tuple[str, ...]]] = {
    "args": (
        "auto_find_batch_size",
        "average_tokens_across_devices",
        "batch_eval_metrics",
        "data_seed",
        "dataloader_drop_last",
        "dataloader_num_workers",
        "dataloader_persistent_workers",
        "dataloader_pin_memory",
        "dataloader_prefetch_factor",
        "ddp_timeout",
        "device",
        "fsdp",
        "fsdp_config",
        "gradient_accumulation_steps",
        "hub_strategy",
        "include_num_input_tokens_seen",
        "learning_rate",
        "load_best_model_at_end",
        "local_process_index",
        "logging_nan_inf_filter",
        "max_grad_norm",
        "max_steps",
        "metric_for_best_model",
        "num_train_epochs",
        "optim",
        "output_dir",
        "per_device_eval_batch_size",
        "prediction_loss_only",
        "process_index",
        "push_to_hub",
        "restore_callback_states_from_checkpoint",
        "resume_from_checkpoint",
        "save_on_each_node",
        "save_only_model",
        "save_strategy",
        "save_total_limit",
        "seed",
        "should_save",
        "torch_compile",
        "train_batch_size",
        "train_sampling_strategy",
        "world_size",
    ),
    "state": (
        "best_global_step",
        "best_metric",
        "best_model_checkpoint",
        "compute_steps",
        "epoch",
        "global_step",
        "init_training_references",
        "log_history",
        "max_steps",
        "train_batch_size",
    ),
    "control": ("should_epoch_stop", "should_evaluate", "should_log", "should_save", "should_training_stop"),
    "callback_handler": (
        "callbacks",
        "on_epoch_end",
        "on_optimizer_step",
        "on_pre_optimizer_step",
        "on_step_begin",
        "on_step_end",
        "on_substep_end",
    ),
    "accelerator": (
        "backward",
        "gradient_state",
        "mixed_precision",
        "optimizer_step_was_skipped",
        "scaler",
        "state",
        "unwrap_model",
        "wait_for_everyone",
    ),
    "accelerator.gradient_state": ("_set_sync_gradients", "end_of_dataloader", "remainder"),
}
"""What is used of the objects that a Trainer holds."""


def check_hooks(trainer: object, base: type, *, members: Mapping[str, Iterable[str]] = MEMBERS) -> None:
    """Refuses a Trainer that lacks a hook.

    Args:
        trainer: As it was just made.
        base: `transformers.Trainer`.
        members: What must be there of the objects that it holds, by path.

    Raises:
        ConfigError: a hook is missing, has other parameters, is not used, or is one that a mixin hides by accident; or
            a subclass has a training loop of its own.
    """
    for owner, name in _own_loops(type(trainer), base):
        raise ConfigError(
            f"{owner}.{name} has a training loop of its own, in which nothing would be saved",
            expected=f"one that calls super().{name}(...)",
            hint=[f"leave {name} out of {owner}, and do its work in training_step, compute_loss or a callback"],
        )

    missing = [*_missing_methods(base), *_missing_attributes(trainer, base), *_hidden(type(trainer), base)]
    for path, names in members.items():
        held: object = trainer
        for part in path.split("."):
            held = getattr(held, part, None)
        missing += [f"no Trainer.{path}.{name}" for name in names if not _has(held, name)]
    if missing:
        raise unsupported(missing)


def unsupported(found: list[str]) -> ConfigError:
    """The error for an installed version that checkpoints cannot work with.

    Args:
        found: What is missing, a line each.
    """
    wanted = {name: supported_range(name) for name in ("transformers", "accelerate")}
    specifications = " ".join(f'"{name}{range_}"' for name, range_ in wanted.items())
    installed = ", ".join(f"{name} {_version(name)}" for name in wanted)
    return ConfigError(
        f"checkpoints do not work with {installed}",
        expected=", ".join(f"{name}{range_}" for name, range_ in wanted.items()),
        found=found[:5] if len(found) <= 5 else [*found[:5], f"and {len(found) - 5} more"],
        hint=f"pip install {specifications}",
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"


# ---- The Trainer's methods ----


def _missing_methods(base: type) -> Iterator[str]:
    for hook in (*OVERRIDDEN, *CALLED):
        method = getattr(base, hook.name, None)
        if method is None:
            yield f"no Trainer.{hook.name}"
            continue
        problem = _other_parameters(method, hook)
        if problem:
            yield f"Trainer.{hook.name} {problem}"
        yield from _unused(base, hook.name, hook.used_in)


def _other_parameters(method: Callable[..., object], hook: Method) -> str:
    if _hands_everything_on(method):
        return ""

    parameters = list(inspect.signature(method).parameters.values())[1:]
    names = tuple(parameter.name for parameter in parameters)
    if names[: len(hook.positional)] != hook.positional:
        return f"takes ({', '.join(names)}), not ({', '.join(hook.positional)})"
    lacking = [name for name in hook.named if name not in names]
    if lacking:
        return f"takes no {', '.join(lacking)}"
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    more = [name for name in needed if name not in hook.positional + hook.named]
    # An epoch is called by the Trainer; what else it is told is no concern of ours.
    return f"needs {', '.join(more)} too" if more and hook in CALLED else ""


def _unused(base: type, name: str, users: Iterable[str]) -> Iterator[str]:
    """Methods that do not name a hook: an override would never be called."""
    for user in users:
        method = getattr(base, user, None)
        if method is None:
            yield f"no Trainer.{user}"
            continue

        code = getattr(inspect.unwrap(method), "__code__", None)
        # Compiled extensions have no code to look into, and a wrapper has another's.
        if code is not None and name not in code.co_names and not _hands_everything_on(method):
            yield f"Trainer.{user} does not use {name}"


def _hands_everything_on(method: Callable[..., object]) -> bool:
    """Whether this is somebody's wrapper around the Trainer's method, which cannot be looked into."""
    kinds = {parameter.kind for parameter in inspect.signature(method).parameters.values()}
    return {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD} <= kinds


# ---- Attributes, and names that are ours ----


def _missing_attributes(trainer: object, base: type) -> Iterator[str]:
    yield from (f"no Trainer.{name}" for name in ATTRIBUTES if not hasattr(trainer, name))
    for name, users in LOOP_ATTRIBUTES.items():
        yield from _unused(base, name, users)


def _own_loops(cls: type, base: type) -> Iterator[tuple[str, str]]:
    """Classes between the mixin and the Trainer whose training does not lead to the hooks, each with its method."""
    leads_on = {
        "train": {"train", "_inner_training_loop"},
        "_inner_training_loop": {"_inner_training_loop", "_run_epoch"},
    }
    for one in cls.__mro__[: cls.__mro__.index(base)] if base in cls.__mro__ else ():
        for name, calls in leads_on.items():
            code = getattr(inspect.unwrap(vars(one).get(name, base)), "__code__", None)
            if code is not None and not calls & set(code.co_names):
                yield one.__name__, name


def _hidden(cls: type, base: type) -> Iterator[str]:
    """Members of the Trainer that a mixin has the name of by accident: a newer Trainer would call ours for its own."""
    known = {hook.name for hook in (*OVERRIDDEN, *CALLED)} | set(ATTRIBUTES) | set(LOOP_ATTRIBUTES)
    for one in cls.__mro__:
        if one.__module__.startswith(_OWN_PACKAGE):
            own = {name for name in vars(one) if not name.startswith("__")} - known
            yield from (f"Trainer.{name}, which {one.__name__} hides" for name in sorted(own) if hasattr(base, name))


def _has(held: object, name: str) -> bool:
    return hasattr(held, name) or name in getattr(held, "__dataclass_fields__", {})
