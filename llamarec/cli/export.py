"""`llamarec export`: the best model of a run as a folder that other programs load."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from llamarec.cli.arguments import Subparsers, add_common_arguments, add_verb
from llamarec.cli.fast_help import importing
from llamarec.cli.output import print_json
from llamarec.command import typed
from llamarec.errors import EXIT_FINISHED, ConfigError

if TYPE_CHECKING:
    from llamarec.export.export import Exported
    from llamarec.vocabulary import Experiment

SUMMARY = "Export the best model of a run, as an adapter or merged, with a model card."

_EPILOG = """\
  llamarec export beauty --to exported/beauty
  llamarec export beauty --to exported/beauty-merged --merged
  llamarec export beauty --to exported/beauty --push_to_hub me/llamarec-beauty

Plain transformers and PEFT load the folder, and so does vLLM with
--lora-modules (the model card has the command). --push_to_hub
creates a private repository; it needs: hf auth login
"""


def add_parser(commands: Subparsers) -> None:
    """Adds the verb to the command's subparsers."""
    parser = add_verb(commands, "export", SUMMARY, _EPILOG)
    parser.add_argument("run_name", metavar="RUN", help="Data set code of a trained ranker, or the folder of a run.")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="Folder to write, new or empty.")
    parser.add_argument("--merged", action="store_true", help="Export whole weights instead of the adapter.")
    parser.add_argument(
        "--base_model",
        default="",
        metavar="NAME",
        help="Base model to name in the adapter and the card (default: the one it was trained on).",
    )
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="Type of merged weights (default: the base model's).",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="Replace an earlier export in the folder; your own files in it stay."
    )
    parser.add_argument("--push_to_hub", default="", metavar="REPO", help="Also upload the folder to this repository.")
    add_common_arguments(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Writes the folder and prints what it contains."""
    with importing():
        from llamarec.export.export import export_run
        from llamarec.ranker.trained.locations import find_experiment

    experiment = find_experiment(arguments.run_name, arguments.experiment_root)
    exported = export_run(
        experiment,
        arguments.to,
        merged=arguments.merged,
        base_model=arguments.base_model,
        replace=arguments.overwrite,
        dtype=arguments.dtype,
    )
    if arguments.push_to_hub:
        _push(arguments.to, arguments.push_to_hub)

    if arguments.json:
        print_json({**vars(exported), "pushed_to": arguments.push_to_hub or None})
    else:
        _print(exported, arguments)
        _warn_of_another_retriever(experiment)
    return EXIT_FINISHED


def _print(exported: Exported, arguments: argparse.Namespace) -> None:
    what = "merged model" if exported.is_merged else "adapter"
    print(f"{what} of step {exported.step:,} -> {exported.folder}")
    if exported.difference is not None:
        print(f"letters differ from the adapter's by at most {exported.difference:.2g} nats on some test prompts")
    if not exported.is_merged and not exported.is_portable:
        print(
            f"The adapter names a folder of this machine as its base model ({exported.base_model}). To use it on "
            "another machine, name a published model with --base_model, or export with --merged."
        )

    if arguments.push_to_hub:
        print(f"pushed to https://huggingface.co/{arguments.push_to_hub} (private)")


def _warn_of_another_retriever(experiment: Experiment) -> None:
    from llamarec.files import read_json
    from llamarec.retriever.dependent_rankers import has_other_retriever
    from llamarec.vocabulary import DESCRIPTION, RankerDescription

    described = read_json(experiment.ranker / DESCRIPTION, RankerDescription) or {}
    if experiment.retriever_weights.is_file() and has_other_retriever(described, experiment):
        print(
            f"The retriever in {experiment.retriever} has been retrained since. fusion.json fits only the scores of "
            "the previous retriever, so `llamarec recommend` refuses to combine the two."
        )


def _push(folder: Path, repository: str) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        api = HfApi()
        api.create_repo(repository, private=True, exist_ok=True)
        if not api.repo_info(repository).private:
            raise ConfigError(
                f"--push_to_hub {repository}: this repository is public, so nothing was uploaded; {folder} is complete",
                hint="choose another name, or publish titles and figures anyway: "
                + typed(["hf", "upload", repository, str(folder)]),
            )

        api.upload_folder(folder_path=str(folder), repo_id=repository)
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError, ValueError) as error:
        upload = typed(["hf", "upload", "--private", repository, str(folder)])
        raise ConfigError(
            f"--push_to_hub {repository}: the upload failed; {folder} is complete",
            found=" ".join(str(error).split()),
            hint=f"hf auth login, then: {upload}",
        ) from error
