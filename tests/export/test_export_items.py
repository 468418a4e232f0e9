"""An export of a run with `--readout items`: what the card says to type gives the scores of the run."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from llamarec.data.prepare import prepare
from llamarec.errors import ConfigError
from llamarec.export.export import export_run
from llamarec.ranker.options.command_line import parse
from llamarec.ranker.trained.item_expert import load_item_expert
from llamarec.ranker.training.run import train_ranker
from tests.ranker.shop import NUM_ITEMS, QUIET, argv_of, folder, shop

__all__ = ["folder", "shop"]


def test_the_card_says_how_to_get_the_scores(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = argv_of(folder, "--readout", "items")
    train_ranker(parse(argv), QUIET)
    parsed = parse(argv)
    exported = export_run(parsed.experiment, tmp_path / "exported")
    assert not exported.is_merged

    items = pl.read_parquet(exported.folder / "items.parquet")
    assert items.height == NUM_ITEMS
    assert json.loads((exported.folder / "prompt.json").read_text(encoding="utf-8"))["readout"] == "items"
    assert len(load_file(exported.folder / "item_head.safetensors")["item_vectors"]) == NUM_ITEMS

    history = np.array([3, 5, 7], dtype=np.int32)
    titles = items["title"].to_list()
    code = re.findall(r"```python\n(.*?)```", (exported.folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)[0]
    assert '["a first title", "a second one"]' in code
    code = code.replace('["a first title", "a second one"]', str([titles[item - 1] for item in history.tolist()]))
    monkeypatch.chdir(exported.folder)
    script = tmp_path / "usage.py"
    script.write_text(code, encoding="utf-8")
    with torch.no_grad():
        names = runpy.run_path(str(script))

    expert = load_item_expert(parsed.experiment, prepare(parsed.data, QUIET), device="cpu")
    np.testing.assert_allclose(names["scores"][0].numpy(), expert.scores_of([history])[0, 1:], rtol=1e-4, atol=1e-4)

    with pytest.raises(ConfigError, match=r"--merged: not with --readout items"):
        export_run(parsed.experiment, tmp_path / "merged", merged=True)
    # An earlier export is replaced, and only where that is asked for.
    with pytest.raises(ConfigError, match="not empty"):
        export_run(parsed.experiment, tmp_path / "exported")
    export_run(parsed.experiment, tmp_path / "exported", replace=True)
