"""`llamarec checkpoints show`: everything that is stored about one checkpoint."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamarec.checkpoints.storage.entries import entries_below
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.manifest import Manifest, Session
from llamarec.checkpoints.storage.readable_units import age, readable
from llamarec.checkpoints.storage.summary import parse_time, summary_of, trainer_state
from llamarec.checkpoints.storage.verification import PARTS, Verdict, verify
from llamarec.cli.arguments import Subparsers, add_common_arguments, add_verb
from llamarec.cli.checkpoints.names import find_either, latest_of
from llamarec.cli.output import flat, print_json, print_pairs, print_table, print_wrapped

SUMMARY = "Show one checkpoint: state, position, metrics, options and history."
_EPILOG = """\
All files are hashed first. A plain Trainer's checkpoint has
no manifest; its trainer_state.json is shown instead.

  llamarec checkpoints show beauty
  llamarec checkpoints show path/to/checkpoint-1000
"""
_STATE_KEYS = (
    "global_step",
    "max_steps",
    "epoch",
    "num_train_epochs",
    "train_batch_size",
    "save_steps",
    "eval_steps",
    "logging_steps",
    "best_metric",
    "best_global_step",
    "best_model_checkpoint",
)


def add_parser(verbs: Subparsers) -> None:
    """Adds the verb."""
    parser = add_verb(verbs, "show", SUMMARY, _EPILOG)
    parser.add_argument("checkpoint", metavar="CKPT", help="RUN (its latest), RUN:best, RUN:1000 or a path.")
    add_common_arguments(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Verifies the checkpoint and prints it."""
    found = find_either(arguments.checkpoint, arguments.experiment_root)
    path = latest_of(found) if isinstance(found, RunFolder) else found
    verdict = verify(path)

    if arguments.json:
        print_json(_as_dict(verdict))
        return 0

    print(path)
    print_pairs("state", _state(verdict))
    if verdict.manifest is None:
        _print_plain(path)
    else:
        _print_manifest(verdict.manifest)

    print("files")
    print_table(("size", "file"), [(readable(size), name) for name, size in _files(path).items()], left=("file",))
    return 0


def _state(verdict: Verdict) -> dict[str, object]:
    how = "all hashes match" if verdict.health == "good" else "no manifest to verify against"
    rows: dict[str, object] = {"health": verdict.health if verdict.problems else f"{verdict.health} ({how})"}
    rows |= {f"problem {number}": text for number, text in enumerate(verdict.problems, start=1)}
    rows |= {f"without {part}": f"a resume loses {PARTS[part]}" for part in verdict.missing}

    fact = summary_of(verdict, deep=True)
    rows |= {"step": fact.step, "epoch": "-" if fact.epoch is None else f"{fact.epoch:g}"}
    rows["saved"] = f"{fact.created:%Y-%m-%d %H:%M:%S} UTC ({age(fact.created)} ago)" if fact.created else "unknown"
    rows["size"] = readable(fact.num_bytes)

    manifest = verdict.manifest
    if manifest is not None:
        rows |= {
            "reason": manifest.reason,
            "save": f"sequence number {manifest.sequence} in this folder",
            "run": manifest.run_id,
        }
    return rows


def _print_manifest(manifest: Manifest) -> None:
    print_pairs("position in the data", flat(manifest.position))
    print_pairs("metrics", flat(manifest.metrics))
    print_pairs("hyperparameters given by the user", flat(manifest.given))
    others = {name: value for name, value in manifest.hyperparameters.items() if name not in manifest.given}
    print_pairs("other hyperparameters", flat(others))
    print_pairs("fingerprints", flat(manifest.fingerprints))
    print_pairs("environment", flat(manifest.environment))

    print("history of the run")
    for text in history(manifest.sessions):
        print_wrapped(text, indent=2, hanging=4)


def history(sessions: tuple[Session, ...]) -> list[str]:
    """A line for each process that trained, with the options that it changed; all but the first are resumes."""
    lines = []
    interruption = 0

    for number, session in enumerate(sessions):
        interruption += number > 0 and not session.extends
        started = parse_time(session.started)
        when = f"{started:%Y-%m-%d %H:%M:%S} UTC" if started else session.started

        if number == 0:
            how = "started"
        else:
            how = "extended after its end" if session.extends else f"interruption {interruption}: resumed"
        if session.resumed_from:
            how += f" from {session.resumed_from} (step {session.from_step})"
        elif number:
            how += f" from step {session.from_step}"

        lines.append(f"{when}  {how}" + (f" on {session.host}" if session.host else ""))
        lines += [f"  changed {change}" for change in session.changes]

    return lines or ["not recorded"]


def _print_plain(path: Path) -> None:
    print_wrapped("No manifest: a plain Trainer saved this. Its trainer_state.json contains:", hanging=0)
    state = trainer_state(path)
    if not state:
        print("  nothing (the file is missing or cannot be read)")
    print_pairs("trainer state", {key: state[key] for key in _STATE_KEYS if state.get(key) is not None})
    print_pairs("last entries of its log", _last_entry(state))


def _last_entry(state: Mapping[str, Any]) -> dict[str, object]:
    """The last loss and the last evaluation, which have separate entries in the log."""
    result: dict[str, object] = {}
    for entry in state.get("log_history") or []:
        if isinstance(entry, dict):
            result |= entry
    return result


def _files(path: Path) -> dict[str, int]:
    files = []
    with contextlib.suppress(OSError):
        # What cannot be listed is said by the verdict.
        files = [found for found in entries_below(path) if found.is_file()]
    return {found.relative_to(path).as_posix(): found.stat().st_size for found in files}


def _as_dict(verdict: Verdict) -> dict[str, object]:
    manifest, path = verdict.manifest, verdict.path
    content: dict[str, object] = {
        "path": path,
        "health": verdict.health,
        "problems": verdict.problems,
        "missing": verdict.missing,
        "seconds": verdict.seconds,
        "sizes": _files(path),
        "interruptions": sum(not one.extends for one in manifest.sessions[1:]) if manifest else None,
        "manifest": manifest,
    }
    if manifest is None:
        state = trainer_state(path)
        content["trainer_state"] = {key: state.get(key) for key in _STATE_KEYS} | {"last_log": _last_entry(state)}
    return content
