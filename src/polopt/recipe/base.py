"""What every section of a recipe is made of: kinds of numbers, and what a table refuses."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

LARGEST = 2**31 - 1  # of every count: what a 32-bit index holds
BY_ROW = Field(json_schema_extra={"by_row": True})

Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]
Scalar = bool | Annotated[int, Field(ge=-(2**63), lt=2**63)] | float | str


class Section(BaseModel):
    """A table of the recipe: unknown keys, NaN and silent conversions are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, populate_by_name=True
    )
