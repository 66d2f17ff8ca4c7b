"""Write the profiles of the registered bases that come with the package: src/limner/planning/profiles/."""

import json
import sys
from pathlib import Path

from limner.assembly.base import ResolvedBase
from limner.data.views import closest
from limner.models.registry import registered_bases
from limner.nn.memory.plan import Kind
from limner.planning.estimate import estimate
from limner.planning.profile import Profile
from limner.planning.profile_cache import opened, shape_of
from limner.planning.request import ProfileRequest
from limner.planning.shipped import FOLDER, SHIPPED_COMPUTE, packed
from limner.target import template


def kinds(base: str) -> tuple[Kind, ...]:
    """The kinds of devices that a base's profile is shipped for: a processor trains the toy alone."""
    return ("cuda", "cpu") if registered_bases()[base].toy else ("cuda",)


def traced(base: str, kind: Kind) -> Profile:
    """The profile of a base's preset at its own square."""
    recipe = template({"base": base, "data.images": Path("-")})
    source = opened(recipe, lambda line: None)
    resolved = ResolvedBase(
        recipe=recipe, source=source, shape=shape_of(source), kind=kind, compute=SHIPPED_COMPUTE[kind]
    )
    return estimate(ProfileRequest(resolved, closest(1, 1, resolved.sizes.buckets)))


def main() -> None:
    """Trace them all."""
    FOLDER.mkdir(exist_ok=True)
    for base in registered_bases():
        for kind in kinds(base):
            path = FOLDER / f"{base}-{kind}.json"
            text = json.dumps(packed(traced(base, kind)), separators=(",", ":"))
            path.write_text(f"{text}\n", encoding="utf-8")
            sys.stdout.write(f"{path.name}: {path.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
