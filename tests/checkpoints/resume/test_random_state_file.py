"""Random states: no content of their file reaches a constructor of numpy, or a position outside of a state."""

from __future__ import annotations

import copy
import copyreg
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llamarec.checkpoints.resume.random_state_file import as_stored, check_form
from llamarec.checkpoints.resume.safe_load import load_pickled, refuse_hostile
from llamarec.checkpoints.trainer.samples.rng import capture, set_states
from llamarec.errors import CheckpointError

NAMES = ("rng_state.pth", "rng_state_3.pth")


class _Reduced:
    """Pickles as a call of a function, and a state."""

    def __init__(self, function: Any, arguments: tuple[Any, ...], state: Any = None) -> None:
        self._parts = (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._parts


class _New(_Reduced):
    """The same through `__new__`, as objects of protocol 2 are made."""

    # pickle compares it with the class that is made.
    __class__ = property(lambda _: np.ndarray)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return (copyreg.__newobj__, *self._parts[1:])  # type: ignore[attr-defined]


RAW = bytes(range(256)) * 10
_rebuild: Any = np.empty(0).__reduce__()[0]
UINT32, OBJECT = np.dtype(np.uint32), np.dtype("O")
# What a file puts in the place of the 624 words.
HOSTILE: dict[str, Any] = {
    "an object array over bytes": _Reduced(np.ndarray, ((312,), "O8", RAW)),
    "the same by __new__": _New(np.ndarray, (np.ndarray, (312,), "O8", RAW)),
    "a number array over bytes": _Reduced(np.ndarray, ((624,), "u4", RAW)),
    "an array that is never filled": _Reduced(_rebuild, (np.ndarray, (0,), b"b")),
    "an empty array of another shape": _Reduced(_rebuild, (np.ndarray, (10**9,), b"b")),
    "a rebuilt object array": _Reduced(_rebuild, (np.ndarray, (0,), b"b"), (1, (312,), OBJECT, False, RAW[:2496])),
    "another length": _Reduced(_rebuild, (np.ndarray, (0,), b"b"), (1, (625,), UINT32, False, RAW[:2500])),
    "fewer bytes than words": _Reduced(_rebuild, (np.ndarray, (0,), b"b"), (1, (624,), UINT32, False, RAW[:8])),
    "a list in the place of bytes": _Reduced(_rebuild, (np.ndarray, (0,), b"b"), (1, (624,), UINT32, False, [0] * 624)),
    "floats": np.zeros(624),
    "two dimensions": np.zeros((24, 26), dtype=np.uint32),
    "a view of records": np.zeros(624, dtype=[("a", "u4")]),
    "words too large": [2**32] * 624,
    "words too few": [0] * 623,
    "words that are no numbers": ["0"] * 624,
    "a tensor": torch.zeros(624),
    "nothing": None,
}


def _write(path: Path, states: Any, *, is_zip: bool = True) -> None:
    if is_zip:
        torch.save(states, path)
    else:
        torch.save(states, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("what", HOSTILE)
def test_no_other_array_is_built(what: str, is_zip: bool, tmp_path: Path) -> None:
    states = capture()
    states["numpy"] = ("MT19937", HOSTILE[what], 0, 0, 0.0)
    path = tmp_path / "rng_state.pth"
    _write(path, states, is_zip=is_zip)

    # In a process of its own: what this is about ends one.
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from llamarec.checkpoints.resume.safe_load import load_pickled\n"
        "from llamarec.checkpoints.resume.random_state_file import check_form\n"
        "from llamarec.checkpoints.trainer.samples.rng import set_states\n"
        "from llamarec.errors import CheckpointError\n"
        "try:\n    set_states(check_form(load_pickled(Path(sys.argv[1])), sys.argv[1]))\n"
        "except CheckpointError as error:\n    print('refused:', str(error).splitlines()[0])\n"
    )
    if what in ("an object array over bytes", "the same by __new__") and is_zip:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program, str(path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (done.returncode, done.stderr)
        assert done.stdout.startswith(f"refused: {path}")
    with pytest.raises(CheckpointError, match=r"rng_state\.pth (is refused|cannot be read)"):
        check_form(load_pickled(path), str(path))


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "adapter_model.bin", "stateful.pt", "rng.pth"])
def test_no_other_file_may_name_an_array(name: str, tmp_path: Path) -> None:
    _write(tmp_path / name, {"state": np.zeros(624, dtype=np.uint32)})
    with pytest.raises(CheckpointError, match=rf"{name} is refused(?s:.*)numpy"):
        load_pickled(tmp_path / name)
    with pytest.raises(CheckpointError, match=rf"{name} is refused(?s:.*)numpy"):
        refuse_hostile(tmp_path)


# ---- What is right ----


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", [dict, as_stored], ids=["older, or a plain Trainer's", "ours"])
def test_both_forms_give_the_same_numbers(form: Callable[[Any], Any], name: str, tmp_path: Path) -> None:
    np.random.standard_normal()
    states = capture()
    expected = np.random.rand(5).tolist(), np.random.standard_normal()
    _write(tmp_path / name, form(states))

    refuse_hostile(tmp_path)
    found = check_form(load_pickled(tmp_path / name), name)
    set_states(found)

    assert (np.random.rand(5).tolist(), np.random.standard_normal()) == expected
    assert found["numpy"] == as_stored(states)["numpy"]


def test_bytes_in_the_other_order(tmp_path: Path) -> None:
    states = capture()
    name, words, *rest = states["numpy"]
    _write(tmp_path / NAMES[0], {**states, "numpy": (name, words.astype(">u4"), *rest)})
    assert load_pickled(tmp_path / NAMES[0])["numpy"][1] == words.tolist()


def test_a_plain_trainer_reads_ours(tmp_path: Path) -> None:
    """As `Trainer._load_rng_state` does it."""
    states = capture()
    expected = np.random.rand(3).tolist()
    _write(tmp_path / "rng_state.pth", as_stored(states))
    np.random.set_state(torch.load(tmp_path / "rng_state.pth", weights_only=True)["numpy"])
    assert np.random.rand(3).tolist() == expected


def test_the_new_form_needs_nothing_of_numpy(tmp_path: Path) -> None:
    _write(tmp_path / "rng_state.pth", as_stored(capture()))
    assert torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "rng_state.pth") == []


# ---- What has the right types and is out of range ----

NUMPY: Any = as_stored(capture())["numpy"]
PYTHON: Any = capture()["python"]
PHILOX = {"bit_generator": "Philox", "state": {"counter": [0] * 4, "key": [0] * 2}, "buffer": [0] * 4}
WRONG: dict[str, Any] = {
    "numpy: behind the words": {"numpy": (*NUMPY[:2], 625, 0, 0.0)},
    "numpy: far behind": {"numpy": (*NUMPY[:2], 2**31 - 1, 0, 0.0)},
    "numpy: before the words": {"numpy": (*NUMPY[:2], -1, 0, 0.0)},
    "numpy: another generator": {"numpy": ("PCG64", *NUMPY[1:])},
    "numpy: too short": {"numpy": NUMPY[:3]},
    "numpy: a dictionary": {"numpy": {"bit_generator": "MT19937"}},
    "python: another version": {"python": (2, *PYTHON[1:])},
    "python: behind the words": {"python": (3, (*PYTHON[1][:-1], 625), None)},
    "python: no words": {"python": (3, (), None)},
    "python: text": {"python": "x"},
    "cpu: another length": {"cpu": torch.zeros(3, dtype=torch.uint8)},
    "cpu: another type": {"cpu": torch.zeros(5056)},
    "cpu: a number": {"cpu": 1},
    "cuda: text": {"cuda": "x"},
    "cuda: list of text": {"cuda": ["x"]},
    "held: a list": {"held": []},
    "held: no kind": {"held": {"model.rng": {"state": 1}}},
    "held: no state": {"held": {"model.rng": {"kind": "Random"}}},
    "held: behind the words": {
        "held": {"a": {"kind": "MT19937", "state": {"state": {"key": [0] * 624, "pos": 10**6}}}}
    },
    "held: words too few": {"held": {"a": {"kind": "MT19937", "state": {"state": {"key": [0], "pos": 1}}}}},
    "held: before a buffer": {"held": {"a": {"kind": "Philox", "state": {**PHILOX, "buffer_pos": -1}}}},
    "held: behind a buffer": {"held": {"a": {"kind": "Philox", "state": {**PHILOX, "buffer_pos": 5}}}},
}


@pytest.mark.parametrize("what", WRONG)
def test_a_state_out_of_range_is_named(what: str) -> None:
    before = pickle.dumps(np.random.get_state())
    content = {**as_stored(capture()), **copy.deepcopy(WRONG[what])}
    with pytest.raises(CheckpointError, match=rf"(?s)x\.pth cannot be read.*{what.partition(':')[0]}"):
        check_form(content, "x.pth")
    assert pickle.dumps(np.random.get_state()) == before


@pytest.mark.parametrize("content", [None, [], "x", 1, torch.zeros(3), {}, {"python": PYTHON}])
def test_what_is_no_set_of_states(content: Any) -> None:
    with pytest.raises(CheckpointError, match=r"x\.pth cannot be read"):
        check_form(content, "x.pth")
