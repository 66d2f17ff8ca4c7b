"""What is known of clouds and of the names of GPUs there, as SkyPilot 0.14 has them. Data, no SkyPilot."""

import re
from dataclasses import dataclass

from limner.errors import BadUsage
from limner.planning import cards
from limner.planning.cards import Card

CLOUDS = {
    "aws": True,
    "azure": True,
    "cudo": True,
    "do": True,
    "fluidstack": True,
    "gcp": True,
    "hyperbolic": False,
    "ibm": True,
    "kubernetes": True,
    "lambda": True,
    "mithril": True,
    "nebius": True,
    "oci": True,
    "paperspace": True,
    "primeintellect": True,
    "runpod": False,
    "scp": True,
    "seeweb": False,
    "shadeform": False,
    "slurm": False,
    "vast": False,
    "verda": False,
    "vsphere": True,
    "yotta": False,
}
"""Cloud -> whether SkyPilot mounts a bucket there, in which a run outlives its machine."""
NO_SPOT = frozenset(("cudo", "do", "fluidstack", "lambda", "paperspace", "scp", "vsphere"))
"""Clouds with buckets where SkyPilot rents no spot machines."""

CARDS = {
    "A100": "A100 40GB",
    "A100-80GB": "A100 SXM4 80GB",
    "A100-80GB-SXM": "A100 SXM4 80GB",
    "H100-SXM": "H100",
    "H100-80GB": "H100",
    "H200-SXM": "H200",
}
"""SkyPilot's name of a GPU -> ours, where they name different products in the same words."""
GPU = re.compile(r"(?P<name>[A-Za-z][\w .-]*)(:(?P<count>[1-9]\d?))?")


@dataclass(frozen=True)
class Gpus:
    """GPUs of one machine."""

    name: str
    """As SkyPilot calls them."""
    count: int = 1

    @property
    def text(self) -> str:
        """As SkyPilot's ``accelerators`` has it: ``H100:2``."""
        return f"{self.name}:{self.count}"


def parse_gpus(text: str) -> Gpus:
    """What ``--gpu`` names: ``parse_gpus("H100:2") == Gpus("H100", 2)``.

    Raises:
        BadUsage: It names no GPU whose rates are known, or a number that no machine has.
    """
    match = GPU.fullmatch(text)
    if not match:
        raise BadUsage(f"--gpu is {text[:60]!r}; write a GPU and how many of it, such as H100:2.")
    gpus = Gpus(match["name"], int(match["count"] or 1))
    if card_of(gpus.name) is None:
        raise BadUsage(f"--gpu is {text[:60]!r}, and no such card is known. Known: {cards.RANGE}.")
    return gpus


def card_of(name: str) -> Card | None:
    """The card of SkyPilot's name; None where its rates are not known, so that nothing can be planned for it.

    ``card_of("A100").name == "A100 40GB"``, ``card_of("RTX4090").name == "RTX 4090"``.
    """
    return cards.known(CARDS.get(name, re.sub("^RTX(?=[A-Z])", "RTX ", name.replace("-", " "))))


def require_cloud(name: str, *, bucket: bool, spot: bool = False) -> None:
    """Raise ``BadUsage`` unless SkyPilot knows a cloud, and has there what is wanted.

    Args:
        name: The cloud.
        bucket: Whether one is to be mounted.
        spot: Whether the machine may be taken away.
    """
    if name.lower() not in CLOUDS:
        raise BadUsage(f"--cloud is {name[:60]!r}; SkyPilot knows {', '.join(CLOUDS)}.")
    if bucket and not CLOUDS[name.lower()]:
        able = ", ".join(cloud for cloud, mounts in CLOUDS.items() if mounts)
        raise BadUsage(
            f"--cloud is {name}, where SkyPilot mounts no bucket, so that a machine taken away would "
            f"take the run with it. Leave out --spot and --bucket, or choose one of {able}."
        )
    if spot and name.lower() in NO_SPOT:
        able = ", ".join(cloud for cloud, mounts in CLOUDS.items() if mounts and cloud not in NO_SPOT)
        raise BadUsage(
            f"--cloud is {name}, where SkyPilot rents no spot machines. Leave out --spot, or choose one of "
            f"{able}."
        )
