"""The prompts that a recipe asks samples of."""

import re

from limner.errors import BadRecipe
from limner.recipe.schema import Recipe

TRIGGER = re.compile(r"\[trigger\]|\{trigger\}")


def prompts(recipe: Recipe) -> tuple[str, ...]:
    """The prompts of the recipe, then those of its prompt file, with the trigger in place of "[trigger]".

    Raises:
        BadRecipe: The prompt file is missing, unreadable or empty.
    """
    return tuple(
        with_trigger(prompt, recipe.data.trigger) for prompt in (*recipe.sample.prompts, *_from_file(recipe))
    )


def with_trigger(prompt: str, trigger: str) -> str:
    """Put the trigger where "[trigger]" or "{trigger}" stands, and tidy the spaces."""
    return " ".join(TRIGGER.sub(lambda _: trigger, prompt).split()).strip(" ,")


def _from_file(recipe: Recipe) -> list[str]:
    path = recipe.sample.prompt_file
    if path is None:
        return []
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()  # Windows begins texts with a mark
    except FileNotFoundError as error:
        raise BadRecipe(
            f"sample.prompt_file is {path}, and there is no such file. Write one prompt per line into it, "
            "or use sample.prompts."
        ) from error
    except UnicodeDecodeError as error:
        raise BadRecipe(f"sample.prompt_file {path} is not UTF-8 text. Save it as UTF-8.") from error
    except OSError as error:
        raise BadRecipe(
            f"sample.prompt_file {path} cannot be read: {error.strerror}. Check the path."
        ) from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise BadRecipe(f"sample.prompt_file {path} holds no prompt. Write one per line, or remove the key.")
    return texts
