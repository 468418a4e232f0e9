"""Every benchmark runs to its end, in its smallest form and on generated data: what has rotted is found here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.bench import PARTS
from tests.data.raw import WRITERS, walks
from tests.programs import Programs
from tests.recommend.conftest import item_run, shop
from tests.report.conftest import finished

__all__ = ["finished", "item_run", "shop"]

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks"
# Nothing is compiled here; without the compiler, the processes that benchmarks start import a quarter less.
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "TORCHDYNAMO_DISABLE": "1"}
TINY = ("--model", "tiny")
ON_DATA = ("--data_root", "{data}")
SMALL: dict[str, tuple[str, ...]] = {
    "benchmarks.bench": ("--help",),
    "benchmarks.checkpoint_cost": ("--repeats", "1", "--num_layers", "1", "--json", "{out}"),
    "benchmarks.data_scale": ("--rows", "0.002", "--folder", "{folder}", "--output", "{out}"),
    "benchmarks.harness.structure": ("benchmarks/harness", "--against", "benchmarks"),
    "benchmarks.ranker.quality": (
        *(*ON_DATA, "--datasets", "beauty", "--experiment_root", "{folder}", "--output", "{out}"),
        *("--trainings", "published", "--flags=--llm_base_model tiny --max_steps 1 --use_cpu true"),
        *("--validation_users", "4", "--test_users", "4"),
    ),
    "benchmarks.ranker.speed": (*ON_DATA, *TINY, "--datasets", "beauty", "--prompts", "2", "--json", "{out}"),
    "benchmarks.ranker.title_words": (
        *(*ON_DATA, "--datasets", "beauty", "--experiment_root", "{folder}", "--output", "{out}"),
    ),
    "benchmarks.read_back_cost": ("--repeats", "1", "--num_layers", "1", "--json", "{out}"),
    "benchmarks.recommend": ("{run}", "{items}", "--users", "20", "--json", "{out}"),
    "benchmarks.retriever.epoch": (*ON_DATA, "--plain_steps", "1", "--json", "{out}"),
    "benchmarks.retriever.many_items": ("--items", "300", "--softmax", "sampled", "--steps", "1", "--users", "8"),
    "benchmarks.retriever.prepare_yelp": ("--reviews", "2000", "--folder", "{folder}", "--output", "{out}"),
    "benchmarks.retriever.quality": (
        *(*ON_DATA, "--datasets", "beauty", "--seeds", "1", "--experiment_root", "{folder}", "--output", "{out}"),
    ),
    "benchmarks.retriever.speed": (),
    "benchmarks.serve": ("{run}", "--seconds", "1", "--clients", "1", "2", "--output", "{out}"),
    "benchmarks.standard": ("--quick", "--folder", "{folder}", "--splits", "temporal"),
    "benchmarks.start": (*ON_DATA, *TINY, "--repeats", "1", "--json", "{out}"),
}
# What runs the others.
RUN_BY = {
    "benchmarks.gpu": "tests/benchmarks/test_gpu.py",
    "benchmarks.ranker.answers": "benchmarks.ranker.quality",
    "benchmarks.ranker.memory_use": "benchmarks.ranker.speed",
    "benchmarks.ranker.published_loss": "benchmarks.ranker.quality",
    "benchmarks.recommend_ray": "tests/benchmarks/test_recommend_ray.py",
    "benchmarks.standard.measure": "benchmarks.standard",
}


def _programs() -> set[str]:
    """Modules below `benchmarks` that are started with `python -m`."""
    paths = [path for path in FOLDER.rglob("*.py") if '__name__ == "__main__"' in path.read_text(encoding="utf-8")]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths}

    return {name.removesuffix(".__main__") for name in names}


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw files of every public data set, with 60 users and 40 items."""
    root = tmp_path_factory.mktemp("raw")
    for code, write in WRITERS.items():
        (root / code).mkdir()
        write(root / code, walks(num_users=60, num_items=40, length=10))

    return root


def test_every_benchmark_has_a_small_form() -> None:
    assert _programs() == {*SMALL, *RUN_BY}
    assert {name for name in RUN_BY.values() if not (ROOT / name).is_file()} <= set(SMALL)
    assert {module for module, *_ in PARTS.values()} <= set(SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("module", SMALL)
def test_it_runs_to_its_end(
    module: str, data_root: Path, tmp_path: Path, programs: Programs, request: pytest.FixtureRequest
) -> None:
    names = {"data": data_root, "out": tmp_path / "out", "folder": tmp_path}
    if "{run}" in SMALL[module]:
        names["run"] = request.getfixturevalue("finished") / "experiments" / "llm" / "shop"
    if "{items}" in SMALL[module]:
        names["items"] = request.getfixturevalue("item_run") / "experiments" / "llm" / "shop"
    arguments = [word.format(**names) for word in SMALL[module]]

    done = programs.run(module, *arguments, environment=ENVIRONMENT)

    assert done.status == 0, done.log
    assert done.log.strip()
    if "--json" in arguments:
        assert json.loads(names["out"].read_text(encoding="utf-8"))
    elif "--output" in arguments:
        assert names["out"].read_text(encoding="utf-8").startswith("# ")
