"""`llamarec checkpoints diff`: the differences between two checkpoints."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from llamarec.checkpoints.storage.manifest import Manifest, read_manifest
from llamarec.checkpoints.storage.summary import trainer_state
from llamarec.cli.arguments import Subparsers, add_common_arguments, add_verb
from llamarec.cli.checkpoints.names import find_checkpoint
from llamarec.cli.checkpoints.weights import Distance, distance
from llamarec.cli.output import flat, print_json, print_pairs, print_wrapped

SUMMARY = "Compare two checkpoints: options, fingerprints, metrics, weights."
_EPILOG = """\
Only differences are shown, as: name  A -> B
The distance between the weights is the L2 norm of B - A,
over all tensors that both have.

  llamarec checkpoints diff beauty:1000 beauty:latest
"""
_SECTIONS = ("hyperparameters", "fingerprints", "environment", "metrics")
_ABSENT = "(none)"

_Changes: TypeAlias = dict[str, tuple[object, object]]


def add_parser(verbs: Subparsers) -> None:
    """Adds the verb."""
    parser = add_verb(verbs, "diff", SUMMARY, _EPILOG)
    parser.add_argument("first", metavar="A", help="RUN:latest, RUN:best, RUN:1000 or a path.")
    parser.add_argument("second", metavar="B", help="The checkpoint to compare with A, named the same way.")
    add_common_arguments(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Prints the sections that differ, then the distance between the weights."""
    first = find_checkpoint(arguments.first, arguments.experiment_root)
    second = find_checkpoint(arguments.second, arguments.experiment_root)
    differences = _differences(first, second)
    apart = distance(first, second)

    if arguments.json:
        content = {
            name: {key: {"old": old, "new": new} for key, (old, new) in found.items()}
            for name, found in differences.items()
        }
        print_json({"a": first, "b": second, **content, "weights": _as_dict(apart)})
        return 0

    print_wrapped(f"A {first}", hanging=4)
    print_wrapped(f"B {second}", hanging=4)
    for name, found in differences.items():
        if found:
            print_pairs(name, {key: f"{old} -> {new}" for key, (old, new) in found.items()})
        else:
            print(f"{name}: no difference")
    _print_distance(apart)
    return 0


def _differences(first: Path, second: Path) -> dict[str, _Changes]:
    """Old and new values, by section and name."""
    a, b = read_manifest(first), read_manifest(second)
    if a is None or b is None:
        # Without both manifests only the Trainer's states can be compared.
        return {"trainer state": _changed(_scalars(first), _scalars(second))}

    sections = {name: _changed(getattr(a, name), getattr(b, name)) for name in _SECTIONS}
    return {"progress": _changed(_progress(a), _progress(b)), **sections}


def _progress(manifest: Manifest) -> dict[str, object]:
    return {"step": manifest.step, "epoch": manifest.epoch, "position": manifest.position, "run": manifest.run_id}


def _changed(old: Mapping[str, object], new: Mapping[str, object]) -> _Changes:
    a, b = flat(old), flat(new)
    pairs = {name: (a.get(name, _ABSENT), b.get(name, _ABSENT)) for name in sorted(a.keys() | b.keys())}
    return {name: (left, right) for name, (left, right) in pairs.items() if left != right}


def _scalars(checkpoint: Path) -> dict[str, object]:
    state = trainer_state(checkpoint)
    return {name: value for name, value in state.items() if isinstance(value, str | int | float)}


def _print_distance(apart: Distance | None) -> None:
    if apart is None:
        print_wrapped("weights: not compared (there are none, or they are in several files)")
        return

    relative = "-" if apart.relative is None else f"{apart.relative:.3%}"
    print_pairs(
        "weights",
        {
            "L2 norm of B - A": f"{apart.difference:.6g} ({relative} of the norm of A, {apart.norm:.6g})",
            "largest": f"{apart.largest_name}: {apart.largest:.6g}" if apart.largest_name else "no tensor differs",
            "tensors": f"{apart.num_tensors:,} compared",
        },
    )
    for text in apart.unmatched:
        print_wrapped(text, indent=2, hanging=4)


def _as_dict(apart: Distance | None) -> dict[str, object] | None:
    if apart is None:
        return None
    return {
        "norm_a": apart.norm,
        "difference": apart.difference,
        "relative": apart.relative,
        "largest": {"name": apart.largest_name, "difference": apart.largest},
        "tensors": apart.num_tensors,
        "unmatched": apart.unmatched,
    }
