"""Training: softmax at every position, validation on the whole catalogue, early stopping, exact resume."""

from __future__ import annotations

import contextlib
import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from llamarec.checkpoints.trainer.signals import Interrupted
from llamarec.data.prepared import PreparedData
from llamarec.errors import DivergedError
from llamarec.evaluation.metrics import ndcg_at, recall_at
from llamarec.hardware import has_fast_bfloat16
from llamarec.retriever.batches import epoch_batches, pack, training_windows
from llamarec.retriever.config import BEFORE, RetrieverConfig
from llamarec.retriever.loss import catalogue_cross_entropy
from llamarec.retriever.model import INIT_STD, LRURec, model_for
from llamarec.retriever.progress import FitProgress
from llamarec.retriever.sampled_softmax import Negatives, sampled_cross_entropy, step_items
from llamarec.retriever.scoring import label_ranks
from llamarec.retriever.state import TrainingState, differences, load_state, save_state
from llamarec.retriever.title_embeddings import title_vectors, title_words
from llamarec.retriever.training_spec import OWN_TRAINING, TrainingSpec

_TOKENS_MULTIPLE: Final = 64


class RetrieverTrainer:
    """Trains one LRURec, or continues an earlier training.

    Args:
        data: Prepared data.
        config: Options.
        folder: Folder of the training state.
        console: Receives a line about what is done, and the progress.
        spec: Which of the retriever's trainings this is.
        before_replacing: Called before an earlier run on the same data is replaced or continued, unless with --restart.
            Receives its state (None: there is none) and how its options differ; may raise.

    Attributes:
        model: The model; after `fit` with the resulting weights.
        state: Progress, metrics and weights so far.
        windows: The parts of sequences that make up an epoch.

    Raises:
        ArtifactError: the state file is damaged.
    """

    def __init__(
        self,
        data: PreparedData,
        config: RetrieverConfig,
        folder: Path,
        console: Console,
        *,
        spec: TrainingSpec = OWN_TRAINING,
        before_replacing: Callable[[TrainingState | None, list[str]], None] = lambda state, changed: None,
    ) -> None:
        self._data, self._config, self._folder, self._console = data, config, folder, console
        self._spec, self._before_replacing = spec, before_replacing

        self.model = _new_model(data, config)
        self._optimizer = _optimizer(self.model, config, is_large=config.samples(data.num_items))
        self._product_type = torch.bfloat16 if config.uses_bfloat16(has_fast_bfloat16()) else torch.float32

        self.state = TrainingState({**config.identity_on(data.num_items), "data": data.fingerprint, **spec.mark})
        users = None if spec.users is None else spec.users.tolist()
        self.windows = training_windows(data.sequences, config.max_length, config.window_stride, users)
        is_sampled = config.samples(data.num_items)
        self._negatives = Negatives(self.windows, data.num_items, config.num_sampled) if is_sampled else None

        self._continue_earlier()
        self._saved_epochs = self.state.epoch

    def fit(self) -> None:
        """Trains until `num_epochs` or until patience ends; the best weights are then in `model`.

        Raises:
            Interrupted: stopped by Ctrl-C or SIGTERM. The same command continues from the last save.
            DivergedError: a loss or score is not finite. The last good epoch is saved, and in `model`.
        """
        with (
            self._interruptible(),
            FitProgress(self._console, self.state, self._config.num_epochs, self._spec.prefix) as progress,
        ):
            saved = time.monotonic()
            while not self.is_finished:
                with self._last_good_epoch_kept():
                    self._epoch(progress)
                progress.epoch_done(is_last=self.is_finished)
                if self.is_finished or time.monotonic() - saved >= self._config.save_seconds:
                    save_state(self._snapshot(), self._folder)
                    saved, self._saved_epochs = time.monotonic(), self.state.epoch

        if self.state.bad_epochs >= self._config.patience:
            why = f"{self.state.bad_epochs} epochs without a better Recall@10 on validation (--patience)"
            self._console.print(f"stopped     {why}", soft_wrap=True)
        if self._spec.is_validated:
            self.model.load_state_dict(self.state.best_model)

    @property
    def is_finished(self) -> bool:
        """Whether the last epoch is done."""
        return self.state.epoch >= self._config.num_epochs or self.state.bad_epochs >= self._config.patience

    def trained(self) -> LRURec:
        """The model as it is published: words are in the items' vectors. In evaluation mode."""
        model = model_for(self._data.num_items, self._config)
        model.load_state_dict(self.model.plain_state())
        return model.eval()

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        try:
            with _sigterm_as_ctrl_c():
                yield
        except KeyboardInterrupt as stop:
            saved = f"saved up to epoch {self._saved_epochs}; the same command without --restart continues there"
            unsaved = (
                f"no epoch of this training is saved yet{'' if self._spec.is_validated else '; earlier trainings are'}"
            )
            self._print(f"stopped: {saved if self._saved_epochs else unsaved}")
            raise Interrupted(str(self._folder), str(stop) or "SIGINT") from None

    @contextlib.contextmanager
    def _last_good_epoch_kept(self) -> Iterator[None]:
        """Where an epoch diverges, everything is as after the epoch before, and saved."""
        model, optimizer = copy.deepcopy((self.model.state_dict(), self._optimizer.state_dict()))
        try:
            yield
        except DivergedError as error:
            self.model.load_state_dict(model)
            self._optimizer.load_state_dict(optimizer)
            if self.state.epoch > self._saved_epochs:
                save_state(self._snapshot(), self._folder)
                self._saved_epochs = self.state.epoch
            raise self._diverged(error) from error

    def _diverged(self, error: DivergedError) -> DivergedError:
        epoch, rate = self.state.epoch, self._config.learning_rate
        hint = [f"to train again: add --restart --learning_rate {rate / 10:g}"]
        if self._spec.is_validated and epoch:
            hint.append(f"to use the best of the {epoch} good epochs: add --num_epochs {epoch}")

        kept = f"epoch {epoch} is kept in {self._folder}" if epoch else "no epoch was good, so nothing is kept"
        return DivergedError(
            f"{self._spec.prefix}the training diverged in epoch {epoch + 1} (--learning_rate {rate:g})",
            expected="a finite loss and finite scores",
            found=f"{error.problem}; {kept}",
            hint=hint,
        )

    def _continue_earlier(self) -> None:
        earlier = None if self._config.restart else load_state(self._folder, self._spec.hint)
        if earlier is None:
            if not self._config.restart:
                self._before_replacing(None, [])
            return

        if not self._spec.is_validated and earlier.epoch > self._config.num_epochs:
            self._print(f"replacing an earlier run of {earlier.epoch} epochs")
            return

        changed = differences(_completed(earlier.identity), self.state.identity)
        if changed:
            if earlier.identity.get("data") == self.state.identity["data"]:
                self._before_replacing(earlier, changed)
            self._print(f"replacing the earlier run, which had other options or data: {'; '.join(changed)}")
            return

        self.state = earlier
        if not self.is_finished:
            self._before_replacing(earlier, [])
        self.model.load_state_dict(earlier.model)
        self._optimizer.load_state_dict(earlier.optimizer)

        if self.is_finished:
            flags = (
                " (train longer: --num_epochs, --patience; start over: --restart)" if self._spec.is_validated else ""
            )
            self._print(f"the earlier run is finished at epoch {earlier.epoch}{flags}")
        else:
            self._print(f"continuing the earlier run from epoch {earlier.epoch}")

    def _print(self, text: str) -> None:
        self._console.print(f"{self._spec.prefix}{text}", soft_wrap=True)

    def _epoch(self, progress: FitProgress) -> None:
        started, epoch = time.monotonic(), self.state.epoch
        # Dropout and negatives of an epoch depend on (seed, epoch) alone, so no random state has to be saved.
        self.model.masks.restart(self._config.seed, epoch)
        if self._negatives is not None:
            self._negatives.restart(self._config.seed, epoch)
        loss = self._train_epoch(epoch, progress)
        self._record(loss, self._validation() if self._spec.is_validated else {}, time.monotonic() - started)

    def _validation(self) -> dict[str, float]:
        exclude = self._config.excludes(self._data.has_repeats)
        ranks = label_ranks(self.model, self._data, "validation", max_length=self._config.max_length, exclude=exclude)
        return {"recall@10": recall_at(ranks, 10), "ndcg@10": ndcg_at(ranks, 10)}

    def _train_epoch(self, epoch: int, progress: FitProgress) -> float:
        self.model.train()
        total = 0.0
        num_steps = -(-len(self.windows) // self._config.batch_size)

        batches = epoch_batches(len(self.windows), self._config.batch_size, self._config.seed, epoch)
        for step, chosen in enumerate(batches, start=1):
            loss = self.step(chosen)
            if not math.isfinite(loss):
                raise DivergedError(f"the loss is {loss} in step {step:,} of {num_steps:,}")
            total += loss
            progress.stepped(step, num_steps, total / step)

        # The last step's weights are in no loss.
        if not all(torch.isfinite(parameter).all() for parameter in self.model.parameters()):
            raise DivergedError("weights that are not finite")
        return total / max(num_steps, 1)

    def step(self, chosen: NDArray[np.int64]) -> float:
        """Takes one optimizer step on the training windows with these indices; returns its loss."""
        loss = self.loss(chosen)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self._config.max_grad_norm)
        self._optimizer.step()
        return loss.item()

    def loss(self, chosen: NDArray[np.int64]) -> Tensor:
        """Mean cross-entropy over all or sampled items at every position that has a next item."""
        packed = pack([self.windows[index] for index in chosen])
        # The last item of a window is only a label: its state is not computed.
        has_next_T = torch.ones(len(packed.items_T), dtype=torch.bool)
        has_next_T[packed.lasts_B] = False
        inputs = torch.nonzero(has_next_T).squeeze(1)

        # Padded with sequences of one item to a multiple of 64 tokens: oneDNN generates and keeps code for every new
        # shape of a bfloat16 product (memory grew by 100 MB per epoch of MovieLens).
        rounding = (0, -len(inputs) % _TOKENS_MULTIPLE)
        items_T, positions_T = F.pad(packed.items_T[inputs], rounding), F.pad(packed.positions_T[inputs], rounding)
        labels_T = packed.items_T[inputs + 1]

        if self._negatives is None:
            vectors_ND = self.model.vectors()
            states_TD = self._states(items_T, positions_T, vectors_ND)[: len(inputs)]
            smoothing, bias_N = self._config.label_smoothing, self.model.item_bias
            return catalogue_cross_entropy(
                states_TD, vectors_ND, bias_N, labels_T, smoothing=smoothing, product_type=self._product_type
            )

        items = step_items(items_T, labels_T, self._negatives.draw())
        vectors_CD = self.model.vectors_of(items.items_C)
        states_TD = self._states(items.inputs_T, positions_T, vectors_CD)[: len(inputs)]
        bias_C = self.model.item_bias[items.items_C]
        return sampled_cross_entropy(states_TD, vectors_CD, bias_C, items, product_type=self._product_type)

    def _states(self, rows_T: Tensor, positions_T: Tensor, vectors_ND: Tensor) -> Tensor:
        """[T, width] states in float32, of items that are rows of these vectors."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self._product_type == torch.bfloat16):
            states_TD: Tensor = self.model(rows_T, positions_T, vectors_ND).float()
        return states_TD

    def _record(self, loss: float, metrics: dict[str, float], seconds: float) -> None:
        state = self.state
        state.epoch += 1
        state.seconds += seconds
        state.history.append({"loss": loss, **metrics})
        if not metrics:
            return

        if metrics["recall@10"] <= state.best_recall:
            state.bad_epochs += 1
            return
        state.best_recall, state.best_epoch, state.bad_epochs = metrics["recall@10"], state.epoch, 0
        state.best_model = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def _snapshot(self) -> TrainingState:
        self.state.options = asdict(self._config)
        self.state.model, self.state.optimizer = self.model.state_dict(), self._optimizer.state_dict()
        return self.state


def _completed(identity: Mapping[str, object]) -> dict[str, object]:
    """The identity of a training by an earlier version, with the options that it did not have."""
    return {**{name: value for name, value in BEFORE.items() if name in RetrieverConfig().identity}, **identity}


def _new_model(data: PreparedData, config: RetrieverConfig) -> LRURec:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = model_for(data.num_items, config, title_words(data.titles) if config.title_words else None)
    if config.init_from_titles:
        generator = torch.Generator().manual_seed(config.seed)
        vectors = title_vectors(data.titles[1:], config.hidden_size, std=INIT_STD, generator=generator)
        with torch.no_grad():
            model.embedding.weight[1:] = vectors
    return model


def _optimizer(model: LRURec, config: RetrieverConfig, *, is_large: bool) -> torch.optim.AdamW:
    """AdamW that decays matrices and embeddings, but not norms, biases and the recurrence's few numbers.

    Of a large catalogue, all numbers pass through memory once a step instead of once for each operation.
    """
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups: list[dict[str, object]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=is_large)


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Turns SIGTERM (of a scheduler, of `kill`) into KeyboardInterrupt, so that a stop can report what is saved.

    Outside the main thread nothing changes, since only the main thread can handle signals.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt("SIGTERM")
