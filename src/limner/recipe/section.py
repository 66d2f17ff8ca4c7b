"""What every table of the recipe is: frozen, strict, and wrong in one line."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator

from limner.errors import BadRecipe
from limner.recipe import aliases


class Section(BaseModel):
    """A table of the recipe. However it is built, what it cannot mean is a one-line ``BadRecipe``."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_by_name=True,
        validate_by_alias=True,
    )
    section: ClassVar[str] = ""

    @model_validator(mode="wrap")
    @classmethod
    def _in_one_line(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(values, dict):
            values = aliases.nested(cls.section, values, cls.recipe())
        try:
            return handler(values)
        except ValidationError as error:
            raise BadRecipe(aliases.first_error(cls, cls.section, values, error)) from error

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """The same with other values; what is derived from them is derived anew."""
        result = super().model_copy(update=update, deep=deep)
        values = vars(result)
        for name in set(values) - set(type(self).model_fields):  # cached properties
            del values[name]
        return result

    @staticmethod
    def recipe() -> "type[Section]":
        """The whole recipe: the section without a name, which tells where a key of another table belongs."""
        return next(kind for kind in Section.__subclasses__() if not kind.section)
