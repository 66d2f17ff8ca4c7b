"""What LoRA files call the modules of a family: looked up in the folders of ``limner.models``."""

from limner.errors import BadLora
from limner.models.lora_keys import FamilyKeys
from limner.models.registry import lora_keys


def family_keys(family: str) -> FamilyKeys:
    """The names of a family, by its own name or that of a pipeline.

    Raises:
        BadLora: There is no such family.
    """
    known = lora_keys()
    for names in known.values():
        if family == names.family or family in names.pipelines:
            return names
    raise BadLora(f"No family is called {family!r}. Known: {', '.join(known)}.")
