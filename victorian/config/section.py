"""What every group of settings is made from, and how a bad one is told of."""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

MOST_NAMES = 200
"""Above what any group of settings has."""


class Section(BaseModel):
    """A frozen group of settings that refuses unknown names and documents its fields by their docstrings."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _not_too_many_names(cls, value: Any) -> Any:
        """Counted before each is looked at: a hundred thousand unknown ones take a second to complain of."""
        if isinstance(value, dict) and len(value) > MOST_NAMES:
            raise ValueError(f"expected at most {MOST_NAMES} names, got {len(value)}")
        return value


def first_problem(error: ValidationError) -> str:
    """The first of pydantic's complaints as one line: where, what was expected, what came."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if not where:
        return message
    return f"{where}: {message}, got {problem['input']!r}"[:500]


def differences(ours: Section, theirs: Section) -> list[str]:
    """Fields in which two values of one type differ, as `path: ours, not theirs`."""

    def flat(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            return {path: value}
        return {k: v for name, item in value.items() for k, v in flat(item, f"{path}.{name}".strip(".")).items()}

    left, right = flat(ours.model_dump(), ""), flat(theirs.model_dump(), "")
    return [
        f"{path}: {json.dumps(left[path])}, not {json.dumps(right[path])}" for path in left if left[path] != right[path]
    ]
