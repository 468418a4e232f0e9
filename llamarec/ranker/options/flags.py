"""The help of train_ranker.py without its parser, which takes seconds to load torch and transformers.

`flags.json` holds what `RankerArgumentParser.flags` returns; `python make.py flags` writes it, and a test compares it.
Help is laid out from it for the width of the terminal. Most flags are arguments of transformers, so the file belongs to
one version of it; with another version the parser itself answers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Final, NamedTuple

from llamarec.command import TRAIN_RANKER, TRAIN_RETRIEVER, command_of, near_flags, program_of, typed
from llamarec.errors import ConfigError
from llamarec.files import write_json

PROGRAM: Final = program_of(TRAIN_RANKER)
_FILE: Final = "flags.json"


class Flag(NamedTuple):
    """One line of the help.

    Attributes:
        name: The flag with its dashes.
        nargs: As in argparse.
        metavar: The word for the value; empty if the flag takes none.
        help: The text with its default.
    """

    name: str
    nargs: int | str | None
    metavar: str
    help: str


@dataclass(frozen=True)
class Flags:
    """What help and the search for a mistyped flag need.

    Attributes:
        transformers: Version whose arguments are among the flags.
        groups: Flags of --help, by title.
        rare: Flags that only --help_all shows.
        spellings: Every option that the parser accepts, sorted.
    """

    transformers: str
    groups: dict[str, list[Flag]]
    rare: list[Flag]
    spellings: list[str]

    def help(self, *, everything: bool = False) -> str:
        """The text of --help or, with `everything`, of --help_all."""
        formatter = argparse.HelpFormatter(PROGRAM, max_help_position=32)
        sections = {**self.groups, "Every other argument": self.rare} if everything else self.groups

        formatter.add_usage("%(prog)s --dataset_code DATASET [options]", [], [], prefix="usage: ")
        formatter.add_text(
            "Fine-tunes a Llama with LoRA to order the retriever's candidates. Train the retriever first: "
            + typed([*command_of(TRAIN_RETRIEVER), "--dataset_code", "DATASET"])
        )
        for title, group in sections.items():
            formatter.start_section(title)
            formatter.add_arguments([_action(flag) for flag in group])
            formatter.end_section()

        formatter.add_text("More: --help_all shows every argument of the Hugging Face Trainer.")
        return formatter.format_help()

    def refuse(self, unknown: Iterable[str]) -> None:
        """Refuses words that are no flags.

        Raises:
            ConfigError: there is such a word; names the first one and the nearest flags.
        """
        for word in unknown:
            flag = word.partition("=")[0]
            # --data-root is accepted too, but one spelling is enough to propose.
            near = near_flags(flag, [name for name in self.spellings if "-" not in name[2:]], 3)
            near = [_ELSEWHERE[flag.lstrip("-")]] if flag.lstrip("-") in _ELSEWHERE else near
            raise ConfigError(
                f"unknown argument {flag}",
                expected=f"perhaps {' or '.join(near)}" if near else None,
                hint=typed([*command_of(TRAIN_RANKER), "--help_all"]),
            )


# Names of these flags in other programs, the published scripts among them.
_ELSEWHERE: Final = {
    "lr": "--learning_rate",
    "lora_lr": "--learning_rate",
    "batch_size": "--per_device_train_batch_size",
    "lora_micro_batch_size": "--per_device_train_batch_size",
    "micro_batch_size": "--per_device_train_batch_size",
    "train_batch_size": "--per_device_train_batch_size",
    "val_batch_size": "--per_device_eval_batch_size",
    "epochs": "--num_train_epochs",
    "num_epochs": "--num_train_epochs",
    "lora_num_epochs": "--num_train_epochs",
    "lora_val_iterations": "--eval_steps",
    "lora_early_stopping_patience": "--early_stopping_patience",
    "llm_max_title_len": "--max_title_tokens",
    "llm_max_text_len": "--max_prompt_tokens",
    "llm_max_history": "--max_history",
    "llm_negative_sample_size": "--num_candidates",
    "llm_system_template": "--prompt_template",
    "llm_input_template": "--prompt_template",
    "llm_retrieved_path": "--experiment_root",
    "resume": "--resume_from_checkpoint",
}


def stored_flags() -> Flags | None:
    """The content of flags.json; None if it belongs to another version of transformers than the installed one."""
    content = json.loads(files(__package__).joinpath(_FILE).read_text(encoding="utf-8"))
    try:
        if content["transformers"] != version("transformers"):
            return None
    except PackageNotFoundError:
        return None

    groups = {title: [Flag(*row) for row in rows] for title, rows in content["groups"].items()}
    return Flags(content["transformers"], groups, [Flag(*row) for row in content["rare"]], content["spellings"])


def store_flags(flags: Flags) -> None:
    """Writes flags.json into the source tree."""
    write_json(Path(__file__).with_name(_FILE), asdict(flags))


def unknown_words(argv: Iterable[str], spellings: Collection[str]) -> list[str]:
    """Words of a command line that look like flags and are none of `spellings`."""
    known = set(spellings)
    words = []
    for word in argv:
        if word == "--":
            break
        if word.startswith("--") and " " not in word and word.partition("=")[0] not in known:
            words.append(word)
    return words


def _action(flag: Flag) -> argparse.Action:
    return argparse.Action(
        [flag.name], dest="", nargs=flag.nargs, metavar=flag.metavar, help=flag.help.replace("%", "%%")
    )
