"""Options of checkpoints and resuming that `TrainingArguments` does not have."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from llamarec.errors import check_all

ADAPTER_FORMATS = ("bin", "safetensors")


@dataclass(frozen=True, kw_only=True)
class ProgramHints:
    """Advice in terms of a program's own command line; the defaults fit any Trainer.

    Attributes:
        other_folder: Phrase that names the flag for another folder.
    """

    other_folder: str = "another --output_dir"


@dataclass(frozen=True)
class CheckpointConfig:
    """Options beside `save_steps`, `save_total_limit` and the other arguments of the Trainer."""

    save_seconds: float = field(
        default=0.0,
        metadata={
            "help": "Also save this many seconds after the last save (0 = only every --save_steps). "
            "Such a checkpoint is kept until there is a newer one."
        },
    )
    allow_partial_resume: bool = field(
        default=False,
        metadata={
            "help": "Resume a checkpoint without optimizer, scheduler, random or trainer state; says what is lost."
        },
    )
    restart: bool = field(
        default=False,
        metadata={"help": "Start at step 0 although the folder holds checkpoints; new ones replace them."},
    )
    allow_changed: str = field(
        default="",
        metadata={
            "help": "Fingerprints that may differ on resume, comma-separated (the refusal names them), or 'all'."
        },
    )
    adapter_format: str = field(
        default="safetensors",
        metadata={"help": "Adapter weights as 'bin' (adapter_model.bin) or 'safetensors'."},
    )
    background_saves: bool = field(
        default=True,
        metadata={"help": "Write checkpoints from a copy in memory while training continues."},
    )
    read_back: bool = field(
        default=True,
        metadata={"help": "Read the first checkpoint of a process back as a resume would, and stop if that fails."},
    )
    backup_to: str = field(
        default="",
        metadata={"help": "Also copy checkpoints, verified, to this folder or address that fsspec knows (s3://...)."},
    )
    backup_every: int = field(default=1, metadata={"help": "Copy every this many saves (with --backup_to)."})
    mirror: str = field(
        default="",
        metadata={
            "help": "Keep a verified copy of the run in this folder or address (s3://...), written in the background; "
            "--resume_from_checkpoint on an empty disk continues from it."
        },
    )
    check_data: bool = field(
        default=True,
        metadata={"help": "Draw two samples twice before the first step, and refuse data that a resume cannot repeat."},
    )

    max_failed_starts: int = field(
        default=5,
        metadata={
            "help": "Refuse to resume after this many starts in a row from one step that ended before the next save "
            "(0 = never refuse)."
        },
    )

    def __post_init__(self) -> None:
        rules = [
            (self.max_failed_starts >= 0, f"--max_failed_starts {self.max_failed_starts}: 0 (no limit) or more"),
            (0 <= self.save_seconds < math.inf, f"--save_seconds {self.save_seconds}: 0 (never) or more"),
            (
                not self.mirror or self.mirror.rstrip("/") != self.backup_to.rstrip("/"),
                "--mirror and --backup_to have the same address: --mirror alone copies every checkpoint",
            ),
            (self.backup_every >= 1, f"--backup_every {self.backup_every}: at least 1"),
            (
                self.adapter_format in ADAPTER_FORMATS,
                f"--adapter_format {self.adapter_format!r}: one of {', '.join(ADAPTER_FORMATS)}",
            ),
        ]

        check_all("these checkpoint options do not fit", rules)

    @property
    def changes_allowed(self) -> frozenset[str]:
        """`allow_changed` as a set of names."""
        return frozenset(name.strip() for name in self.allow_changed.split(",") if name.strip())
