"""`verify` and `diff`."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save_file

from tests.checkpoints.factory import damage, make_plain_run, make_run
from tests.cli.checkpoints_command import Command


def test_verify_of_a_good_run(command: Command) -> None:
    make_run(command.checkpoints(), best_model=True)
    output = command.narrow("verify", "beauty")
    for name in ("checkpoint-100", "checkpoint-200", "checkpoint-300", "best model"):
        assert f"good        {name}" in output
    assert "4 checked, 0 damaged or incomplete" in output
    content = command.json("verify", "beauty:latest")
    assert content["all_good"] is True
    assert len(content["checkpoints"]) == 1


def test_verify_names_the_damaged_file_and_ends_with_1(command: Command) -> None:
    run = make_run(command.checkpoints())
    damage(run.checkpoint(200))
    output = command.narrow("verify", "beauty", code=1)
    assert "damaged     checkpoint-200" in output
    assert "optimizer.pt has changed since the save" in output
    assert "3 checked, 1 damaged or incomplete" in output
    command("verify", str(run.checkpoint(200)), code=1)
    command("verify", "beauty:300")
    content = command.json("verify", code=1)
    assert [item["health"] for item in content["checkpoints"]] == ["good", "damaged", "good"]


@pytest.mark.parametrize("name", ["adapter_model.bin", "best.json"])
def test_verify_looks_at_the_best_model_too(command: Command, name: str) -> None:
    run = make_run(command.checkpoints(), best_model=True)
    damage(run.path, name)
    output = command.narrow("verify", "beauty", code=1)
    assert "damaged     best model" in output
    assert name in output


def test_verify_of_plain_checkpoints(command: Command) -> None:
    run = make_plain_run(command.checkpoints())
    assert "unverified  checkpoint-300" in command.narrow("verify", "beauty")
    (run.checkpoint(100) / "optimizer.pt").unlink()
    assert "incomplete  checkpoint-100" in command.narrow("verify", "beauty", code=1)


def test_verify_of_nothing_is_a_usage_error(command: Command) -> None:
    command("verify", "beauty", code=2)
    assert "no run beauty" in command.error
    command.checkpoints().mkdir(parents=True)
    command("verify", "beauty", code=2)
    assert "no checkpoints in beauty" in command.error


def test_diff_shows_only_what_differs(command: Command) -> None:
    make_run(command.checkpoints())
    output = command.narrow("diff", "beauty:100", "beauty:latest")
    assert "learning_rate  0.0001 -> 5e-05" in output
    assert "loss             1.9 -> 1.7" in output
    assert "best_step        (none) -> 200" in output
    assert "fingerprints: no difference" in output
    assert "host  host-a -> host-b" in output
    assert "seed" not in output
    # One of two tensors of 4 x 8 goes from 1 to 3: sqrt(32 * 2^2) = 11.3137; the norm of A is sqrt(64) = 8.
    assert "11.3137 (141.421% of the norm of A, 8)" in " ".join(output.split())
    assert "base_model.model.layers.1.self_attn.q_proj.lora_A.weight:" in output


def test_diff_as_json(command: Command) -> None:
    make_run(command.checkpoints())
    content = command.json("diff", "beauty:100", "beauty:300")
    assert content["hyperparameters"] == {"learning_rate": {"old": 1e-4, "new": 5e-5}}
    assert content["fingerprints"] == {}
    weights = content["weights"]
    assert weights["difference"] == pytest.approx(128**0.5)
    assert weights["relative"] == pytest.approx(128**0.5 / 8)
    assert weights["largest"]["name"].endswith("layers.1.self_attn.q_proj.lora_A.weight")
    assert weights["tensors"] == 2


def test_diff_of_a_checkpoint_with_itself(command: Command) -> None:
    make_run(command.checkpoints())
    output = command.narrow("diff", "beauty:100", "beauty:100")
    assert "hyperparameters: no difference" in output
    assert "no tensor differs" in output


def test_diff_of_safetensors_with_other_tensors(command: Command) -> None:
    run = make_run(command.checkpoints())
    (run.checkpoint(200) / "adapter_model.bin").unlink()
    save_file({"other": torch.ones(2)}, run.checkpoint(200) / "adapter_model.safetensors")
    output = command("diff", "beauty:100", "beauty:200")
    assert "other is only in checkpoint-200" in output
    assert "tensors           0 compared" in output


def test_diff_of_plain_checkpoints_compares_their_states(command: Command) -> None:
    make_plain_run(command.checkpoints())
    assert "global_step  100 -> 300" in command.narrow("diff", "beauty:100", "beauty:300")


def test_diff_executes_nothing(command: Command) -> None:
    run = make_run(command.checkpoints())
    (run.checkpoint(100) / "adapter_model.bin").write_bytes(pickle.dumps(print, protocol=2))
    command("diff", "beauty:100", "beauty:200", code=2)
    assert "adapter_model.bin is refused" in command.error
