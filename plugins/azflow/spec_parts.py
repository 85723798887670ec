"""What the parts of a model.yml have in common: frozen, strict, and no key that nobody knows. Pure."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Text = Annotated[str, StringConstraints(min_length=1)]
TableName = Annotated[str, StringConstraints(pattern=r"^\w+\.\w+$")]
Column = Annotated[str, StringConstraints(pattern=r"^\w+$")]
Minutes = Annotated[float, Field(gt=0, le=7 * 24 * 60)]
ParameterValue = str | int | float | bool


class Part(BaseModel):
    """A mapping of a model.yml. Unknown keys are errors, and so is text where a number belongs."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def as_tuple(value: object) -> object:
    """YAML has lists, a frozen value has tuples."""
    return tuple(value) if isinstance(value, list) else value


def below_include(folder: str, suffix: str) -> Any:
    """A validator: a path below include/`folder` that ends in `suffix` and exists."""

    def check(value: str, info: ValidationInfo) -> str:
        pure = PurePosixPath(value)
        if pure.is_absolute() or ".." in pure.parts:
            raise ValueError(f"must be relative to include/{folder}")
        if suffix and pure.suffix != suffix:
            raise ValueError(f"must end in {suffix}")
        root = (info.context or {}).get("include")
        if root is not None and not (Path(root) / folder / value).exists():
            raise ValueError(f"include/{folder}/{value} doesn't exist")
        return value

    return check
