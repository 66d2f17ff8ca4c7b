"""What Civitai's upload page asks for, as a folder: files, pictures that say how they were made, and a text.

The site has no documented way to upload for programs, so that a person fills in its pages from ``model.json``
and ``description.md``.
"""

from pathlib import Path
from typing import Any

from limner.files import write_json, write_text
from limner.publishing.card import body_for_people
from limner.publishing.folder import new_or_empty, write_card_image, write_loras
from limner.publishing.publication import Publication

OTHER = "Other"
"""What the site calls a base that its list does not have."""


def write_civitai(item: Publication, folder: Path) -> list[Path]:
    """Write the folder.

    Raises:
        BadUsage: It holds files.
        LimnerError: See :func:`limner.publishing.folder.write_folder`.
    """
    with new_or_empty(folder) as draft:
        paths = write_loras(item, draft)
        paths += [
            write_card_image(image, draft / f"{number:02d}.png", with_parameters=True)
            for number, image in enumerate(item.images)
        ]
        write_json(draft / "model.json", model_page(item))
        write_text(draft / "description.md", body_for_people(item))
    return [
        folder / path.relative_to(draft) for path in (draft / "model.json", draft / "description.md", *paths)
    ]


def model_page(item: Publication) -> dict[str, Any]:
    """The fields of the site's pages, in their order; None where the person decides."""
    return {
        "name": item.title,
        "type": "LORA" if item.files else "TextualInversion",
        "tags": ["lora" if item.files else "textual inversion", *([item.family.name] if item.family else [])],
        "version": {
            "name": "1",
            "baseModel": (item.record and item.record.civitai) or OTHER,
            "trainedWords": [item.trigger] if item.trigger else [],
            "steps": int(item.facts["Steps"]) if item.facts.get("Steps", "").isdigit() else None,
            "strength": item.strength,
            "files": [*(file.name for file in item.files), *(item.word.sources if item.word else ())],
            "images": [
                {"file": f"{number:02d}.png", "prompt": image.prompt or None}
                for number, image in enumerate(item.images)
            ],
        },
    }
