"""What all models of the pipeline file have in common."""

from __future__ import annotations

from typing import NoReturn

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

__all__ = ["Closed", "mistake"]


class Closed(BaseModel):
    """Takes no key that it does not know, no text for a number, and no change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def mistake(message: str) -> NoReturn:
    """For validators: what is wrong, in the words that the user gets."""
    raise PydanticCustomError("pipeline_mistake", "{message}", {"message": message})
