"""Limits of a service."""

from __future__ import annotations

from dataclasses import dataclass, field

from llamarec.errors import check_all


@dataclass(frozen=True)
class Limits:
    """Limits of requests and of the queue in front of the model."""

    max_batch: int = field(default=16, metadata={"help": "Most requests in one forward pass."})
    max_wait_ms: float = field(
        default=5.0, metadata={"help": "Milliseconds that a request waits for others to share its forward pass."}
    )
    max_queue: int = field(
        default=256, metadata={"help": "Most waiting requests; further ones get 503 at once, with Retry-After."}
    )
    max_connections: int = field(
        default=512, metadata={"help": "Most open connections; requests on further ones get 503 at once."}
    )
    timeout_seconds: float = field(default=30.0, metadata={"help": "Seconds until an unanswered request gets 504."})
    max_k: int = field(default=100, metadata={"help": "Most items in one answer."})
    max_history: int = field(default=500, metadata={"help": "Most items in a history."})
    max_body_bytes: int = field(default=65536, metadata={"help": "Largest request in bytes; larger ones get 413."})

    def __post_init__(self) -> None:
        whole = ("max_batch", "max_queue", "max_connections", "max_k", "max_history", "max_body_bytes")
        rules = [
            *((getattr(self, name) >= 1, f"--{name} {getattr(self, name)}: at least 1") for name in whole),
            (0 <= self.max_wait_ms < 60000, f"--max_wait_ms {self.max_wait_ms}: 0 or more, at most a minute"),
            (0 < self.timeout_seconds < 86400, f"--timeout_seconds {self.timeout_seconds}: above 0, at most a day"),
        ]

        check_all("these limits do not fit", rules)
