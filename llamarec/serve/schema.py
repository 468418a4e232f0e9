"""Requests and answers as JSON."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from llamarec.serve.limits import Limits

Text = Annotated[str, Field(min_length=1, max_length=1000)]
# Keys are often numbers.
Key = Text | Annotated[int, Field(strict=True)]


class Item(BaseModel):
    """An item of the catalogue."""

    item: str = Field(description="Key of the item in the data set.")
    title: str


class Recommended(Item):
    """One recommended item."""

    rank: int = Field(description="Rank in the final order, from 1.")
    score: float | None = Field(
        description="Final score, comparable only within one list; null for an item that was not among the candidates "
        "of letters."
    )
    retriever_rank: int = Field(description="Rank in the first stage's list, from 1.")
    retriever_score: float = Field(description="Score of the first stage (retriever and experts): a logit.")
    title_similarity: float | None = Field(
        description="Similarity of the title to the titles of the history; 0 if it has no weight of its own in the "
        "score, null with --readout items."
    )
    letter: str | None = Field(description="Letter of the item in the prompt; null with --readout items.")
    letter_log_probability: float | None = Field(
        description="Log-probability of the letter, corrected for the model's bias towards each letter; null with "
        "--readout items."
    )
    language_model_score: float | None = Field(
        description="Logit by the language model, with --readout items; null with letters, and where it has no weight."
    )


class Recommendations(BaseModel):
    """The answer to a question."""

    history: list[Item] = Field(description="Items that the recommendations are based on, oldest first.")
    recommendations: list[Recommended] = Field(description="Recommended items, best first.")


class Problem(BaseModel):
    """The reason why a request failed."""

    detail: str = Field(description="What is wrong.")
    near: list[str] = Field(description="Titles, keys or users that look like the unknown one.")


class Health(BaseModel):
    """The state of the service."""

    status: str = Field(description="ok; with status 503, why no question is answered.")
    dataset_code: str = Field(description="Data set of the run.")
    step: int = Field(description="Training step of the adapter.")
    is_best: bool = Field(description="Whether the adapter is the best on validation.")
    uses_letters: bool = Field(description="Whether the language model has a weight in the final order.")
    order: str = Field(description="What the score adds up, with the weights.")
    waiting: int = Field(description="Requests in the queue.")


class QuestionBase(BaseModel):
    """Either a user of the data set, or a history of keys or titles, oldest first."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"oneOf": [{"required": ["user"]}, {"required": ["history"]}]}
    )
    user: str | int = ""
    history: list[str | int] = []
    k: int = 10

    @model_validator(mode="after")
    def _one_of_both(self) -> QuestionBase:
        if ("user" in self.model_fields_set) == ("history" in self.model_fields_set):
            raise ValueError("either user or history is required, not both")
        return self


def question_model(limits: Limits) -> type[QuestionBase]:
    """The model of a request, with this service's limits in its schema."""
    history = Annotated[list[Key], Field(min_length=1, max_length=limits.max_history)]
    fields: dict[str, Any] = {  # as pydantic types them: (annotation, default)
        "user": (Key, ""),
        "history": (history, []),
        "k": (Annotated[int, Field(ge=1, le=limits.max_k)], min(10, limits.max_k)),
    }
    return create_model("Question", __base__=QuestionBase, **fields)
