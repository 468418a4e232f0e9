"""`llamarec export`: a run's model for others."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from llamarec.cli.arguments import Subparsers, add_common_arguments, add_verb
from llamarec.cli.output import print_json
from llamarec.command import typed
from llamarec.errors import EXIT_FINISHED, ConfigError

if TYPE_CHECKING:
    from llamarec.export.export import Exported
    from llamarec.vocabulary import Experiment

SUMMARY = "Write the best model of a run into a folder for others: adapter or merged, with a model card."

_EPILOG = """\
  llamarec export beauty --to exported/beauty
  llamarec export beauty --to exported/beauty-merged --merged
  llamarec export beauty --to exported/beauty --push_to_hub me/llamarec-beauty

The folder loads in plain transformers and PEFT, and vLLM takes it
with --lora-modules (the card has the command). A push needs
'hf auth login' and makes a private repository.
"""


def add_parser(commands: Subparsers) -> None:
    """Adds the verb to the command's subparsers."""
    parser = add_verb(commands, "export", SUMMARY, _EPILOG)
    parser.add_argument("run_name", metavar="RUN", help="Data set code of a trained ranker, or the folder of a run.")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="Folder to write.")
    parser.add_argument("--merged", action="store_true", help="Whole weights instead of the adapter alone.")
    parser.add_argument(
        "--base_model",
        default="",
        metavar="NAME",
        help="Name of the base model to write into adapter and card (default: as it was trained on).",
    )
    parser.add_argument("--overwrite", action="store_true", help="Replace what is in the folder.")
    parser.add_argument("--push_to_hub", default="", metavar="REPO", help="Upload the folder to this repository too.")
    add_common_arguments(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Writes the folder and says what it is."""
    from llamarec.export.export import export_run
    from llamarec.ranker.trained.locations import find_experiment

    experiment = find_experiment(arguments.run_name, arguments.experiment_root)
    exported = export_run(
        experiment,
        arguments.to,
        merged=arguments.merged,
        base_model=arguments.base_model,
        replace=arguments.overwrite,
    )
    if arguments.push_to_hub:
        _push(arguments.to, arguments.push_to_hub)
    if arguments.json:
        print_json({**vars(exported), "pushed_to": arguments.push_to_hub or None})
    else:
        _say(exported, arguments)
        _warn_of_another_retriever(experiment)
    return EXIT_FINISHED


def _say(exported: Exported, arguments: argparse.Namespace) -> None:
    what = "merged model" if exported.is_merged else "adapter"
    print(f"{what} of step {exported.step:,} -> {exported.folder}")
    if not exported.is_merged and not exported.is_portable:
        print(
            f"Its base model is a folder of this machine ({exported.base_model}): elsewhere give it a name with "
            "--base_model, or export with --merged"
        )
    if arguments.push_to_hub:
        print(f"pushed to https://huggingface.co/{arguments.push_to_hub} (private)")


def _warn_of_another_retriever(experiment: Experiment) -> None:
    from llamarec.files import read_json
    from llamarec.retriever.dependents import has_other_retriever
    from llamarec.vocabulary import DESCRIPTION

    described = read_json(experiment.ranker / DESCRIPTION) or {}
    if experiment.retriever_weights.is_file() and has_other_retriever(described, experiment):
        print(
            f"The retriever in {experiment.retriever} was trained anew since: fusion.json is for the scores of the one "
            "of then, and `llamarec recommend` refuses the two together"
        )


def _push(folder: Path, repository: str) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        api = HfApi()
        api.create_repo(repository, private=True, exist_ok=True)
        if not api.repo_info(repository).private:
            raise ConfigError(
                f"--push_to_hub {repository}: this repository is public; the folder {folder} is complete",
                hint="another name, or, to publish titles and figures all the same: "
                + typed(["hf", "upload", repository, str(folder)]),
            )
        api.upload_folder(folder_path=str(folder), repo_id=repository)
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError, ValueError) as error:
        again = typed(["hf", "upload", "--private", repository, str(folder)])
        raise ConfigError(
            f"--push_to_hub {repository}: the upload failed; the folder {folder} is complete",
            found=" ".join(str(error).split()),
            hint=f"hf auth login, then: {again}",
        ) from error
