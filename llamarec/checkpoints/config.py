"""Options of checkpoints and resuming that `TrainingArguments` does not have."""

from __future__ import annotations

from dataclasses import dataclass, field

from llamarec.errors import check_all

ADAPTER_FORMATS = ("bin", "safetensors")


@dataclass(frozen=True, kw_only=True)
class ProgramHints:
    """Advice in the words of a program's own command line; the defaults fit any Trainer.

    Attributes:
        other_folder: How to train in another folder.
    """

    other_folder: str = "another --output_dir"


@dataclass(frozen=True)
class CheckpointConfig:
    """Beside `save_steps`, `save_total_limit` and the other arguments of the Trainer."""

    save_seconds: float = field(
        default=0.0,
        metadata={
            "help": "Save also when so many seconds have passed since the last save (0 = only every --save_steps). "
            "Such a checkpoint is kept until there is a newer one."
        },
    )
    allow_partial_resume: bool = field(
        default=False,
        metadata={
            "help": "Go on from a checkpoint without optimizer, scheduler, random or trainer state; says what is lost."
        },
    )
    restart: bool = field(
        default=False,
        metadata={"help": "Start at step 0 although the folder holds checkpoints; they go as new ones come."},
    )
    allow_changed: str = field(
        default="",
        metadata={
            "help": "Fingerprints that may differ on resume, comma-separated (as the refusal names them), or 'all'."
        },
    )
    adapter_format: str = field(
        default="safetensors",
        metadata={"help": "Adapter weights as 'bin' (adapter_model.bin) or 'safetensors'."},
    )
    background_saves: bool = field(
        default=True,
        metadata={"help": "Write checkpoints from a copy in memory while training goes on."},
    )
    read_back: bool = field(
        default=True,
        metadata={"help": "Read the first checkpoint of a process back as a resume would, and stop if that fails."},
    )
    backup_to: str = field(
        default="",
        metadata={
            "help": "Copy checkpoints there too, verified: a folder or any address that fsspec knows (s3://...)."
        },
    )
    backup_every: int = field(default=1, metadata={"help": "With --backup_to: every so many saves."})
    check_data: bool = field(
        default=True,
        metadata={"help": "Draw two samples twice before the first step, and refuse data that a resume cannot repeat."},
    )

    def __post_init__(self) -> None:
        rules = [
            (self.save_seconds >= 0, f"--save_seconds {self.save_seconds}: 0 (never) or more"),
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
