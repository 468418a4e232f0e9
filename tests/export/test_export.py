"""What is exported asks and answers like the run, in plain transformers and PEFT."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from llamarec.cli.main import main
from llamarec.data.prepared import load_prepared
from llamarec.errors import EXIT_FINISHED, EXIT_USAGE, ConfigError
from llamarec.export.card import model_card
from llamarec.export.export import _untie_if_adapted, export_run
from llamarec.ranker.prompts.template import PromptTemplate
from llamarec.ranker.trained.loading import read_trained
from llamarec.recommend.recommender import Recommender
from llamarec.report.run import RunFacts
from llamarec.vocabulary import Experiment
from tests.recommend.conftest import ranker_of
from tests.report.test_report import CONTROLS, HOSTILE
from tests.tiny_llama import tiny_llama


def _letters(model: Any, folder: Path, recommender: Recommender) -> torch.Tensor:
    """Log-probabilities of the letters, asked with nothing but what lies in the folder."""
    prompt = json.loads((folder / "prompt.json").read_text(encoding="utf-8"))
    template = PromptTemplate(**{name: prompt[name] for name in ("text", "history_line", "candidate_line")})
    titles = ranker_of(recommender)._encoder.cut_titles
    text = template.render([titles[item] for item in (1, 2, 3)], [titles[item] for item in range(10, 30)])
    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1, prompt["letter_ids"]]
    return torch.log_softmax(logits.float(), dim=0)


def _wanted(recommender: Recommender) -> torch.Tensor:
    ranker = ranker_of(recommender)
    (logits,) = ranker._logits([ranker._encoder.encode([1, 2, 3], list(range(10, 30)))])
    return torch.log_softmax(torch.from_numpy(logits), dim=0)


def test_the_adapter_loads_in_plain_peft(experiment: Experiment, recommender: Recommender, tmp_path: Path) -> None:
    exported = export_run(experiment, tmp_path / "new" / "adapter")
    folder = exported.folder
    assert (exported.step, exported.is_merged) == (recommender.order.adapter.step, False)
    names = {path.name for path in folder.iterdir()}
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors", "fusion.json", "prompt.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth"))], "nothing that is unpickled"
    model = AutoPeftModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(_letters(model, folder, recommender), _wanted(recommender), atol=1e-4, rtol=0)
    assert [path.name for path in folder.parent.iterdir()] == ["adapter"], "nothing half-made is left"


def test_a_merged_model_loads_in_plain_transformers(
    experiment: Experiment, recommender: Recommender, tmp_path: Path
) -> None:
    folder = export_run(experiment, tmp_path / "merged", merged=True).folder
    assert not (folder / "adapter_config.json").exists()
    assert not [name for name in load_file(folder / "model.safetensors") if "lora" in name]
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(_letters(model, folder, recommender), _wanted(recommender), atol=1e-4, rtol=0)


def test_the_card_says_what_it_is_worth_and_how_it_came_to_be(experiment: Experiment, tmp_path: Path) -> None:
    export_run(experiment, tmp_path / "a", base_model="someone/a-model")
    card = (tmp_path / "a" / "README.md").read_text(encoding="utf-8")
    metrics = json.loads((experiment.ranker / "metrics.json").read_text(encoding="utf-8"))
    row = next(row for row in metrics["overall"] if row["metric"] == "ndcg@10")
    assert f"| ndcg@10 | {row['retriever']:.4f} | {row['ranker']:.4f} | {row['difference']:+.4f}" in card
    assert card.startswith("---\nbase_model: someone/a-model\nlibrary_name: peft\n")
    assert "resumed from step 4, at least 4 steps trained twice" in card
    assert "learning_rate: 0.0001 -> 0.0005" in card
    assert "--lora-modules ranker=" in card
    assert "(T) Film" in card
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "someone/a-model"


def test_what_is_there_stays_unless_it_is_to_be_replaced(experiment: Experiment, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="the folder is not empty"):
        export_run(experiment, tmp_path / "full")
    with pytest.raises(ConfigError, match="this is a file"):
        export_run(experiment, tmp_path / "full" / "mine.txt")
    (tmp_path / "empty").mkdir()
    export_run(experiment, tmp_path / "empty")
    with pytest.raises(ConfigError, match="does not contain an export, so it is not replaced"):
        export_run(experiment, tmp_path / "full", replace=True)
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
    for place in (experiment.ranker, experiment.checkpoints, experiment.root, experiment.ranker / "new"):
        with pytest.raises(ConfigError, match="belongs to the run itself"):
            export_run(experiment, place, replace=True)
    # What an export wrote goes, what the user put beside it stays.
    folder = tmp_path / "empty"
    (folder / "notes").mkdir()
    for name in ("mine.txt", "notes/a.md"):
        (folder / name).write_text(name)
    (folder / "link").symlink_to(tmp_path / "full")
    export_run(experiment, folder, replace=True, merged=True)
    assert not (folder / "adapter_model.safetensors").exists()
    assert [(folder / name).read_text() for name in ("mine.txt", "notes/a.md")] == ["mine.txt", "notes/a.md"]
    assert (folder / "link").is_symlink()
    # A name that the other kind of export needs.
    (folder / "adapter_config.json").write_text("mine")
    with pytest.raises(ConfigError, match=r"(?s)files that no export wrote.*adapter_config\.json"):
        export_run(experiment, folder, replace=True)
    assert (folder / "adapter_config.json").read_text() == "mine"
    assert (folder / "model.safetensors").is_file()


def test_an_export_of_an_earlier_version_is_known_by_its_names(experiment: Experiment, tmp_path: Path) -> None:
    export_run(experiment, tmp_path / "a", merged=True)
    (tmp_path / "a" / "export.json").unlink()
    (tmp_path / "a" / "mine.txt").write_text("mine")
    export_run(experiment, tmp_path / "a", replace=True)
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert {"mine.txt", "adapter_model.safetensors", "export.json"} <= names
    assert not {"model.safetensors", "config.json", "generation_config.json"} & names


def test_a_merged_model_is_compared_with_its_adapter(experiment: Experiment, tmp_path: Path) -> None:
    exported = export_run(experiment, tmp_path / "a", merged=True)
    assert exported.difference is not None
    assert exported.difference < 1e-3
    card = (tmp_path / "a" / "README.md").read_text(encoding="utf-8")
    assert f"at most\n{exported.difference:.2g} nats" in card


def test_a_merge_that_changes_the_answers_is_refused_with_the_type_to_choose(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamarec.export.merge_check.LARGEST_DIFFERENCE", 1e-4)
    with pytest.raises(ConfigError, match=r"(?s)bfloat16.*nats on 8 .*--dtype float32") as error:
        export_run(experiment, tmp_path / "a", merged=True, dtype="bfloat16")
    assert error.value.retry_with == ("--dtype", "float32")
    assert not (tmp_path / "a").exists()
    export_run(experiment, tmp_path / "a", merged=True, dtype="float32")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("targets", [["q_proj"], ["lm_head"], ["embed_tokens"], ["q_proj", "lm_head", "embed_tokens"]])
@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*")
def test_an_adapter_on_tied_weights_is_merged_into_weights_of_their_own(
    targets: list[str], tied: bool, tmp_path: Path
) -> None:
    model = tiny_llama(tie_word_embeddings=tied)
    adapted: Any = get_peft_model(model, LoraConfig(target_modules=targets, r=4, init_lora_weights=False))
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        wanted = adapted(input_ids=ids).logits
        _untie_if_adapted(adapted.base_model.model)
        merged = adapted.base_model.merge_and_unload()
    merged.save_pretrained(tmp_path)
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(tmp_path)(input_ids=ids).logits
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_a_failure_leaves_what_was_there(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_run(experiment, tmp_path / "a")
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("llamarec.export.export.write_text", full)
    with pytest.raises(OSError, match="full"):
        export_run(experiment, tmp_path / "a", replace=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_command(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(finished / "experiments")
    words = ["export", "shop", "--experiment_root", root, "--to", str(tmp_path / "a")]
    assert main(words) == EXIT_FINISHED
    said = capsys.readouterr().out
    assert "adapter of step" in said
    assert "names a folder of this machine as its base model" in said
    assert main(words) == EXIT_USAGE
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--json", "--merged"]) == EXIT_FINISHED
    assert json.loads(capsys.readouterr().out)["is_merged"] is True
    assert main(["export", "nothing", "--experiment_root", root, "--to", str(tmp_path / "b")]) == EXIT_USAGE
    assert "there is no run of the ranker" in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llamarec.retriever.dependent_rankers.has_other_retriever", lambda *_: True)
        assert main([*words[:-1], str(tmp_path / "c")]) == EXIT_FINISHED
    assert "has been retrained since. fusion.json fits only the scores" in capsys.readouterr().out


def test_a_push_that_fails_says_how_to_go_on(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Any]] = []

    class Hub:
        def create_repo(self, name: str, **options: Any) -> None:
            calls.append((name, options))

        def repo_info(self, name: str) -> Any:
            return SimpleNamespace(private=name != "me/public")

        def upload_folder(self, **options: Any) -> None:
            calls.append(("upload", options))
            if len(calls) > 2:
                raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    words = ["export", "shop", "--experiment_root", str(finished / "experiments"), "--push_to_hub", "me/shop"]
    assert main([*words, "--to", str(tmp_path / "a")]) == EXIT_FINISHED
    assert calls[0] == ("me/shop", {"private": True, "exist_ok": True})
    assert calls[1][1]["folder_path"] == str(tmp_path / "a")
    assert main([*words, "--to", str(tmp_path / "b")]) == EXIT_USAGE
    said = capsys.readouterr().err
    assert "no network" in said
    assert f"hf upload --private me/shop {tmp_path / 'b'}" in said
    assert (tmp_path / "b" / "README.md").is_file()
    assert main([*words[:-1], "me/public", "--to", str(tmp_path / "c")]) == EXIT_USAGE
    assert "this repository is public" in capsys.readouterr().err
    assert len(calls) == 5, "nothing was uploaded there"


def test_a_run_that_was_not_tested_says_so(experiment: Experiment, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(experiment.root, tmp_path / "copy"))
    (copy / "llm" / "shop" / "metrics.json").unlink()
    export_run(Experiment(copy, "shop"), tmp_path / "a")
    assert "has not been tested" in (tmp_path / "a" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [*HOSTILE, HOSTILE], ids=lambda value: ascii(value)[:20])
def test_hyperparameters_from_elsewhere_are_one_cell_of_the_card(
    experiment: Experiment, run: RunFacts, value: object
) -> None:
    data = load_prepared(experiment.data)
    trained = read_trained(experiment, data)
    assert run.manifest is not None
    options = {**run.manifest.hyperparameters, "learning_rate": "KNOWN", "lora_target_modules": value}
    changed = replace(run, manifest=replace(run.manifest, hyperparameters=options))

    card = model_card(changed, trained, data, merged=False, base_model="a/b")

    card.encode("utf-8")
    assert not CONTROLS.search(card)
    lines = card.splitlines()
    (line,) = (line for line in lines if line.startswith("| `lora_target_modules` | "))
    assert line.endswith(" |")
    assert lines[lines.index("| `learning_rate` | KNOWN |") - 1] == "|---|---|"
    inner = line.removeprefix("| `lora_target_modules` | ").removesuffix(" |")
    assert not [mark for mark in ("|", "<", "](", "`") if mark in inner]
