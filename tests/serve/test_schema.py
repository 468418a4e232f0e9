"""A client that makes up requests from the OpenAPI schema gets no answer that the schema does not promise."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.name)
def test_every_answer_is_as_promised(address: str, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    asked = []
    result: Any
    for result in schema.get_all_operations():
        operation = result.ok()
        if mode is GenerationMode.NEGATIVE and operation.label in ("GET /health", "GET /metrics"):
            continue  # nothing can be wrong with a question that has no parameter
        asked.append(operation.label)

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            case.call_and_validate(timeout=30)

        ask()
    assert {"GET /items", "POST /recommend"} <= set(asked)
