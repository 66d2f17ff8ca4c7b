"""LoRA files and predictors by name: on this disk, or on the hub."""

import re
from pathlib import Path

from limner.errors import BadBase, BadLora, UnknownBase
from limner.models.source import fetching

PREFERRED = "pytorch_lora_weights.safetensors"
"""What diffusers' own training scripts call the file."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")


def find(name: str, subject: str = "LoRA", preferred: str = PREFERRED) -> Path:
    """The file that a name means: a file, a folder, or a hub id, whose file is fetched.

    Args:
        name: Its path, or owner/name.
        subject: What it is, for messages.
        preferred: Of several files on the hub, the one to take.

    Raises:
        BadLora: It is neither here nor on the hub, or the hub has several files of that name.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    if not HUB_ID.fullmatch(name) or name.endswith(".safetensors"):
        raise BadLora(f"There is no {name}. Name the {subject}'s file, or a hub id: owner/name.")
    try:
        return _from_hub(name, preferred)
    except (BadBase, UnknownBase) as error:
        raise BadLora(str(error)) from error


def _from_hub(hub_id: str, preferred: str) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    command = f"`hf download {hub_id}`"
    with fetching(
        hub_id,
        gated=f"{hub_id} is gated: accept its licence on the hub, `hf auth login`, then {command}.",
        offline_text=f"{hub_id} is no file here, and the hub cannot be reached. With network: {command}, "
        "then name the file.",
    ):
        names = [name for name in HfApi().list_repo_files(hub_id) if name.endswith(".safetensors")]
        if preferred in names:
            names = [preferred]
        if len(names) != 1:
            raise BadLora(
                f"{hub_id} has {len(names)} safetensors files ({', '.join(names[:3]) or 'none'}). Fetch one "
                f"with `hf download {hub_id} FILE`, and name the file."
            )
        return Path(hf_hub_download(hub_id, names[0]))
