"""Callbacks that only show or report a training: what they cannot write ends nothing."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Final

from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.trainer_callback import CallbackHandler

from llamarec.checkpoints.trainer.output_streams import lossy
from llamarec.errors import LlamarecError

_TRACKERS: Final = "transformers.integrations."
_BARS: Final = (PrinterCallback, ProgressCallback)
_EVENTS: Final = tuple(name for name in vars(TrainerCallback) if name.startswith("on_"))
# A tracker without an account is refused before the first step; one that fails later is not worth a training.
_BEFORE_TRAINING: Final = ("on_init_end", "on_train_begin")


@contextlib.contextmanager
def output_is_lossy(handler: CallbackHandler, warn: Callable[[str], None]) -> Iterator[None]:
    """Within, no output of a callback ends a training.

    While any callback runs, standard output and standard error drop what they cannot write. Bars and trackers of
    transformers may also raise: that is a warning, once for each.

    Args:
        handler: Of the Trainer's callbacks.
        warn: Shows a line to the user.
    """
    shown = [(one, type(one)) for one in handler.callbacks if _only_shows(one)]
    ask = handler.call_event

    @functools.wraps(ask)
    def with_lossy_streams(*args: object, **kwargs: object) -> object:
        with lossy():
            return ask(*args, **kwargs)

    for callback, cls in shown:
        callback.__class__ = _guarded(cls, warn)
    vars(handler)["call_event"] = with_lossy_streams
    try:
        yield
    finally:
        del handler.call_event
        for callback, cls in shown:
            callback.__class__ = cls


def _only_shows(callback: TrainerCallback) -> bool:
    classes = type(callback).__mro__
    return isinstance(callback, _BARS) or any(one.__module__.startswith(_TRACKERS) for one in classes)


def _guarded(cls: type[TrainerCallback], warn: Callable[[str], None]) -> type[TrainerCallback]:
    """A class that is this one to whoever asks, and whose events raise nothing."""
    told: list[str] = []

    def event_of(name: str) -> Callable[..., object]:
        def event(self: TrainerCallback, *args: object, **kwargs: object) -> object:
            try:
                return getattr(cls, name)(self, *args, **kwargs)
            except LlamarecError:
                raise
            except Exception as error:
                if name in _BEFORE_TRAINING and not isinstance(error, OSError):
                    raise
                if not told:
                    warn(f"WARNING: {cls.__name__} failed: {type(error).__name__}: {error}. Training continues.")
                told.append(name)
                return None

        return event

    body: dict[str, object] = {name: event_of(name) for name in _EVENTS}
    guarded: type[TrainerCallback] = type(cls.__name__, (cls,), {**body, "__module__": cls.__module__})
    guarded.__qualname__ = cls.__qualname__
    return guarded
