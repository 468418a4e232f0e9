"""Of other packages nothing is printed that a user can do nothing about; what is of use is."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from llamarec.data.prepared import PreparedData
from llamarec.ranker.model.base_models import base_model_source, load_letter_model
from llamarec.ranker.options.config import RankerConfig
from llamarec.ranker.prompts.encoding import PromptEncoder

NOTE = "Failed to load CPU gemm_4bit_forward from kernels-community: %s. Please make sure you already `pip install`"


def test_imports_are_silent() -> None:
    code = "import llamarec.checkpoints, llamarec.ranker.model.base_models, bitsandbytes"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


def test_only_the_note_about_a_kernel_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.warning(NOTE, "No module named 'kernels'")
    logger.warning("something else")
    logging.getLogger("bitsandbytes.cextension").warning("the library was not found")
    assert caplog.messages == ["something else", "the library was not found"]


def test_an_embedded_model_is_made_and_loaded_without_bars(
    data: PreparedData, encoder: PromptEncoder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = base_model_source("tiny", data, tmp_path)
    for quantization in ("none", "nf4"):
        config = RankerConfig(llm_base_model="tiny", quantization=quantization)
        load_letter_model("tiny", source, config, encoder.letter_ids, bf16=False)
    said = capfd.readouterr()
    assert said.out + said.err == ""
