"""Offers of machines with GPUs, by SkyPilot's own catalogue."""

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from limner.errors import BadUsage, first_line
from limner.launching.clouds import CLOUDS, Gpus, card_of

INSTALL = "pip install 'limner[cloud]'"
"""What a person types to have SkyPilot."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A machine that can be rented."""

    cloud: str
    """In lower case, as ``--cloud`` names it."""
    gpus: Gpus
    price: float
    """US dollars per hour, of the whole machine."""
    memory: float | None = None
    """GiB of the computer around the GPUs; None where the catalogue does not say."""


def offers(gpus: Gpus | None, cloud: str, *, spot: bool, bucket: bool) -> list[Offer]:
    """The cheapest offer of each sort of GPU on each cloud, of which the rates are known here.

    Args:
        gpus: What is wanted; None: one of any sort.
        cloud: Where; "": anywhere.
        spot: Whether the machine may be taken away at any time, for a lower price.
        bucket: Whether a bucket must be mounted there.

    Raises:
        BadUsage: SkyPilot is not installed, its catalogue cannot be had, or it has no such offer.
    """
    table = _catalogue(cloud)
    best: dict[tuple[str, str], Offer] = {}
    for offer in _offers(table, spot=spot):
        is_asked_for = offer.gpus == gpus if gpus else offer.gpus.count == 1
        if is_asked_for and cloud in ("", offer.cloud) and (CLOUDS.get(offer.cloud) or not bucket):
            key = (offer.cloud, offer.gpus.text)
            best[key] = min(best.get(key, offer), offer, key=lambda item: item.price)
    if not best:
        names = [gpus.text if gpus else "GPU", f"on {cloud}" if cloud else "", "as spot" if spot else ""]
        raise BadUsage(
            f"SkyPilot's catalogue has no {' '.join(filter(None, names))}. Look with: sky show-gpus --all"
        )
    return sorted(best.values(), key=lambda item: item.price)


def _catalogue(cloud: str) -> dict[str, list[Any]]:
    try:
        catalog = importlib.import_module("sky.catalog")
    except ImportError as error:
        raise BadUsage(
            f"SkyPilot is not installed, so that offers cannot be looked up. Install it: {INSTALL}. Or "
            "name the GPU: --gpu H100 --dry-run."
        ) from error
    try:
        return catalog.list_accelerators(gpus_only=True, clouds=cloud or None)
    except (OSError, RuntimeError, ValueError) as error:
        raise BadUsage(
            f"SkyPilot's catalogue cannot be had: {first_line(error)}. Check the network, or name the GPU: "
            "--gpu H100 --dry-run."
        ) from error


def _offers(table: dict[str, list[Any]], *, spot: bool) -> Iterable[Offer]:
    """Those with a price, of cards that are known here. The catalogue has NaN where it knows no price."""
    for name, rows in table.items():
        for row in rows if card_of(name) else ():
            price = row.spot_price if spot else row.price
            if price is None or not price > 0 or row.accelerator_count != int(row.accelerator_count):
                continue
            gpus = Gpus(name, int(row.accelerator_count))
            yield Offer(cloud=row.cloud.lower(), gpus=gpus, price=float(price), memory=row.memory)
