"""SASRec and eSASRec of RecTools, by the recipe of eSASRec's authors (arXiv 2508.06450).

Model, batches, negatives and loss are RecTools'; the loop is here. Two things differ from RecTools' own loop, and
neither changes what is computed: the loss is taken at the positions that have a next item, instead of at all of the
padding too (five to seven times less work), and every validation user is ranked as the test's are.

Their recipe: the last items of each user, Adam at 0.001, batches of 128, 256 uniform negatives at each position, and
training ends when Recall@10 on the validation item of all users has not risen for a number of epochs, or after 200. The
weights of the best epoch are kept. Their patience is 10 or 50 epochs by data set, 50 for these. Here it is 10: SASRec's
best epoch on Beauty was the 16th of 26. Their files of these sets say a width of 256, their table 64. Here it is 256:
with 64, SASRec has 0.0467 of NDCG@10 on Beauty (seed 1), and they published 0.0531.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from benchmarks.standard.protocol import Fit, Fitted, System, label_ranks
from benchmarks.standard.sampled_logits import sampled_logits
from llamarec.data.prepared import PreparedData
from llamarec.errors import ConfigError
from llamarec.evaluation.metrics import recall_at
from llamarec.retriever.refit import trained_before

if TYPE_CHECKING:
    from rectools.models import SASRecModel
    from rectools.models.nn.transformers.torch_backbone import TransformerTorchBackbone

_PAD: Final = 0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Options of a training; the defaults are the authors' for Beauty, Toys and Sports, but for the patience.

    Attributes:
        gated: LiGR layers with masked padding (eSASRec) instead of SASRec's own.
        width: Of item vectors and states.
        widening: With LiGR layers: width of the feed-forward layers over `width`.
        max_length: Last items that are read.
        dropout: Share of units.
        num_negatives: Uniform ones at each position.
        learning_rate: Of Adam.
        batch_size: Users per step.
        num_epochs: At most.
        patience: Epochs without a better Recall@10 on validation before the end.
    """

    gated: bool
    width: int = 256
    widening: int = 4
    max_length: int = 50
    dropout: float = 0.2
    num_negatives: int = 256
    learning_rate: float = 1e-3
    batch_size: int = 128
    num_epochs: int = 200
    patience: int = 10


# The authors' table of hyperparameters; Games is not in it and takes the first.
_WIDENING: Final[Mapping[str, int]] = {"sports": 2, "toys": 1}


def check_installed() -> None:
    """Checks that RecTools can be imported with its neural models.

    Raises:
        ConfigError: it cannot; names what to type.
    """
    missing = [name for name in ("rectools", "pytorch_lightning") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            "sasrec and esasrec are RecTools' models, and RecTools is not installed",
            found=f"no module {', '.join(missing)}",
            hint=[
                "pip install --no-deps --target rectools-overlay -r benchmarks/standard/rectools.txt",
                "and then the same command with PYTHONPATH=rectools-overlay before it. (RecTools asks for an older",
                "numpy than this project; installed without its requirements, it runs with the newer.)",
            ],
        )


def fit(data: PreparedData, how: Fit, *, gated: bool) -> Fitted:
    """Trains one of the two models; the best epoch on validation is kept."""
    recipe = Recipe(gated=gated, widening=_WIDENING.get(data.dataset_code, 4))
    return train(data, how, recipe)


def train(data: PreparedData, how: Fit, recipe: Recipe) -> Fitted:
    """Trains a model by a recipe; under a cut in time once more with the validation part, as this project's own is."""
    name = "esasrec" if recipe.gated else "sasrec"
    scorer, notes = _trained(data, how, recipe)
    if data.has_cut:
        again = replace(recipe, num_epochs=int(notes["best epoch"]))
        scorer, _ = _trained(trained_before("test", data), how, again, is_validated=False)
    return Fitted({name: scorer}, notes)


def _trained(
    data: PreparedData, how: Fit, recipe: Recipe, *, is_validated: bool = True
) -> tuple[TransformerScorer, dict[str, float]]:
    torch.manual_seed(how.seed)
    model = _new_model(recipe)
    model._build_model_from_dataset(_dataset(data))
    network = model.lightning_model.torch_model
    model.lightning_model._xavier_normal_init()

    item_ids = model.data_preparator.item_id_map.external_ids
    scorer = TransformerScorer(network, _known(item_ids), data.num_items, recipe.max_length)
    best, best_epoch, epoch = -1.0, 0, 0
    weights = copy.deepcopy(network.state_dict())

    batches = model.data_preparator.get_dataloader_train()
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98))
    while epoch < how.epochs(recipe.num_epochs) and epoch - best_epoch < recipe.patience:
        network.train()
        for batch in batches:
            optimizer.zero_grad()
            _loss(network, batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        epoch += 1
        if not is_validated:
            best_epoch, weights = epoch, copy.deepcopy(network.state_dict())
            continue
        recall = recall_at(label_ranks(scorer, data, "validation"), 10)
        if recall > best:
            best, best_epoch, weights = recall, epoch, copy.deepcopy(network.state_dict())
        print(f"epoch {epoch}: recall@10 {recall:.4f} on validation, best {best:.4f}", flush=True)

    network.load_state_dict(weights)
    return scorer, {"epochs": epoch, "best epoch": best_epoch, "validation recall@10": best, "width": recipe.width}


def _new_model(recipe: Recipe) -> SASRecModel:
    from rectools.models import SASRecModel
    from rectools.models.nn.transformers.ligr import LiGRLayers
    from rectools.models.nn.transformers.sasrec import SASRecTransformerLayers

    return SASRecModel(
        n_blocks=1,
        n_heads=1,
        n_factors=recipe.width,
        dropout_rate=recipe.dropout,
        session_max_len=recipe.max_length,
        loss="sampled_softmax",
        n_negatives=recipe.num_negatives,
        lr=recipe.learning_rate,
        batch_size=recipe.batch_size,
        use_key_padding_mask=recipe.gated,
        transformer_layers_type=LiGRLayers if recipe.gated else SASRecTransformerLayers,
        transformer_layers_kwargs={"ff_factors_multiplier": recipe.widening} if recipe.gated else None,
    )


def _dataset(data: PreparedData) -> object:
    """The training part as RecTools' data set."""
    import pandas as pd
    from rectools.dataset import Dataset

    sequences = data.sequences
    ends = sequences.train_ends.astype(np.int64)
    users = np.repeat(np.arange(data.num_users), ends)
    positions = np.concatenate([np.arange(end) for end in ends])
    rows = sequences.offsets[users] + positions
    # The order within a user is the only thing that is read of a time; equal times would leave it to a sort.
    frame = {"user_id": users, "item_id": sequences.item_ids[rows], "weight": 1.0, "datetime": positions}
    return Dataset.construct(pd.DataFrame(frame))


def _known(external_ids: NDArray[np.object_]) -> NDArray[np.int64]:
    """[entries] our item id of each entry of the model's catalogue; the first is padding."""
    return np.array([_PAD, *external_ids[1:]], dtype=np.int64)


def _loss(network: TransformerTorchBackbone, batch: Mapping[str, Tensor]) -> Tensor:
    """RecTools' sampled softmax at the positions that have a next item."""
    items_ND = network.item_model.get_all_embeddings()
    states_BLD = network.encode_sessions(batch, items_ND)

    is_real_BL = batch["y"] != _PAD
    candidates_TC = torch.cat([batch["y"][is_real_BL].unsqueeze(1), batch["negatives"][is_real_BL]], dim=1)
    logits_TC = sampled_logits(states_BLD[is_real_BL], items_ND, candidates_TC)
    return F.cross_entropy(logits_TC, torch.zeros(len(logits_TC), dtype=torch.long))


class TransformerScorer:
    """A trained model of RecTools over our item ids. An item that training has not seen has no score."""

    def __init__(
        self, network: TransformerTorchBackbone, known: NDArray[np.int64], num_items: int, max_length: int
    ) -> None:
        self._network, self._known, self._max_length = network, known, max_length
        self._entries = np.zeros(num_items + 1, dtype=np.int64)
        self._entries[known] = np.arange(len(known))

    @torch.inference_mode()
    def scores(self, histories: Sequence[NDArray[np.int32]], times: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Scorer`."""
        self._network.eval()
        sessions_BL = np.zeros((len(histories), self._max_length), dtype=np.int64)
        for row, history in enumerate(histories):
            entries = self._entries[history]
            entries = entries[entries != _PAD][-self._max_length :]
            sessions_BL[row, self._max_length - len(entries) :] = entries

        items_ND = self._network.item_model.get_all_embeddings()
        states_BD = self._network.encode_sessions({"x": torch.from_numpy(sessions_BL)}, items_ND)[:, -1]
        logits_BN = (states_BD @ items_ND.T).numpy()

        scores = np.full((len(histories), len(self._entries)), -np.inf, dtype=np.float32)
        scores[:, self._known[1:]] = logits_BN[:, 1:]
        scores[sessions_BL[:, -1] == _PAD] = -np.inf
        return scores


def _system(name: str, title: str) -> System:
    return System(
        name=name,
        titles={name: title},
        fit=partial(fit, gated=name == "esasrec"),
        is_random=True,
        needs=check_installed,
        packages=("numpy", "torch", "rectools"),
    )


SYSTEMS: Final = (
    _system("sasrec", "SASRec (RecTools, sampled softmax)"),
    _system("esasrec", "eSASRec's recipe (RecTools)"),
)
