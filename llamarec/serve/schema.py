"""What goes over the wire."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from llamarec.serve.limits import Limits

Text = Annotated[str, Field(min_length=1, max_length=1000)]
# Keys are often numbers.
Key = Text | Annotated[int, Field(strict=True)]


class Item(BaseModel):
    """An item of the catalogue."""

    item: str = Field(description="Key.")
    title: str


class Recommended(Item):
    """One recommendation; see `llamarec.recommend.recommender.Recommendation`."""

    rank: int
    score: float | None = Field(description="Final score; null beyond the ranker's candidates.")
    retriever_rank: int
    retriever_score: float
    title_similarity: float | None = Field(
        description="Of the title to those of the history; 0 where it does not count."
    )
    letter: str | None
    letter_log_probability: float | None


class Recommendations(BaseModel):
    """The answer to a question."""

    history: list[Item] = Field(description="What they are based on, oldest first.")
    recommendations: list[Recommended]


class Problem(BaseModel):
    """Why there is no answer."""

    detail: str
    near: list[str] = Field(description="What looks like the unknown title, key or user.")


class Health(BaseModel):
    """The state of the service."""

    status: str
    dataset_code: str
    step: int = Field(description="Of the adapter.")
    is_best: bool = Field(description="Whether it is the best on validation.")
    uses_letters: bool = Field(description="Whether the ranker has a say in the order.")
    waiting: int = Field(description="Requests in the queue.")


class QuestionBase(BaseModel):
    """For whom: either a user of the data set, or a history of keys or titles, oldest first."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"oneOf": [{"required": ["user"]}, {"required": ["history"]}]}
    )
    user: str | int = ""
    history: list[str | int] = []
    k: int = 10

    @model_validator(mode="after")
    def _one_of_both(self) -> QuestionBase:
        if ("user" in self.model_fields_set) == ("history" in self.model_fields_set):
            raise ValueError("either user or history is needed, not both")
        return self


def question_model(limits: Limits) -> type[QuestionBase]:
    """The question with this service's limits in its schema."""
    history = Annotated[list[Key], Field(min_length=1, max_length=limits.max_history)]
    fields: dict[str, Any] = {
        "user": (Key, ""),
        "history": (history, []),
        "k": (Annotated[int, Field(ge=1, le=limits.max_k)], min(10, limits.max_k)),
    }
    return create_model("Question", __base__=QuestionBase, **fields)
