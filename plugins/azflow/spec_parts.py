"""What the parts of a model.yml have in common: frozen, strict, and no key that nobody knows. Pure."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

Text = Annotated[str, StringConstraints(min_length=1)]
TableName = Annotated[str, StringConstraints(pattern=r"^\w+\.\w+$")]
Column = Annotated[str, StringConstraints(pattern=r"^\w+$")]


class Part(BaseModel):
    """A mapping of a model.yml. Unknown keys are errors, and so is text where a number belongs."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def as_tuple(value: object) -> object:
    """YAML has lists, a frozen value has tuples."""
    return tuple(value) if isinstance(value, list) else value
