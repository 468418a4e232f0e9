"""Validations inside a training: interrupted at once, repeated in smaller batches where memory is short."""

from __future__ import annotations

from typing import Any

from transformers import Trainer

from llamarec.checkpoints.trainer import out_of_memory, rng
from llamarec.checkpoints.trainer.step_boundary import StepBoundary
from llamarec.checkpoints.trainer.temporarily import temporarily


class StopNowError(Exception):
    """Raised inside a step or an evaluation that is given up for a request to stop."""


class Evaluation(StepBoundary):
    """Mixin before `Trainer`: its evaluation and prediction."""

    def _stops_here(self) -> bool:
        """Whether to give up in the middle: one process alone may; several agree at the next edge."""
        return bool(self._stop.received) and self.args.world_size == 1

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's; a request to stop ends an evaluation during training at once."""
        if self._in_loop and self._stops_here():
            raise StopNowError
        return super().prediction_step(*args, **kwargs)  # type: ignore[misc]

    def _evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's; its beginning is an edge, with the evaluation still to be done."""
        if not self._in_loop:
            # --eval_on_start: a resume has been evaluated before.
            return {} if self._resume is not None else super()._evaluate(*args, **kwargs)  # type: ignore[misc]
        self._take_edge()
        return super()._evaluate(*args, **kwargs)  # type: ignore[misc]

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """As the Trainer's, with workers that end with the evaluation.

        Ones that stay draw their seed once, so that a resumed process would draw one that the other did not.
        """
        with temporarily(self.args, dataloader_persistent_workers=False):
            return super().get_eval_dataloader(eval_dataset)  # type: ignore[misc]

    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's; out of memory means the same again in batches of half the size."""
        random_states = rng.capture()
        while True:
            try:
                return super().evaluation_loop(dataloader, *args, **kwargs)  # type: ignore[misc]
            except Exception as error:
                # Of several processes the others wait in a gathering that this one would not come to.
                if not out_of_memory.is_out_of_memory(error) or self.args.world_size > 1 or self._has_own_loaders():
                    raise
            # Behind the handler: the traceback holds the tensors that did not fit.
            dataloader = self._with_smaller_batches(dataloader)
            rng.set_states(random_states)

    def _has_own_loaders(self) -> bool:
        """Whether a subclass cuts its evaluation into batches itself."""
        kind = type(self)
        return (
            kind.get_eval_dataloader is not Evaluation.get_eval_dataloader
            or kind.get_test_dataloader is not Trainer.get_test_dataloader  # type: ignore[attr-defined]
        )

    def _with_smaller_batches(self, dataloader: Any) -> Any:
        out_of_memory.free_cached()
        now, use = int(self.args.per_device_eval_batch_size), out_of_memory.memory_use(self.args.device)
        if now == 1:
            raise out_of_memory.evaluation_does_not_fit(use, self._last_good_path())
        self._given_eval_batch = self._given_eval_batch or now
        self.args.per_device_eval_batch_size, text = out_of_memory.evaluated_in_halves(now, use)
        self._say(text)
        for callback in self.callback_handler.callbacks:
            # The progress bar of what was given up.
            bar = getattr(callback, "prediction_bar", None)
            if bar is not None:
                bar.close()
                callback.prediction_bar = None
        return self.get_test_dataloader(dataloader.dataset)  # type: ignore[attr-defined]
