"""Which layers an imported recipe trains, against what its trainer adapts by its own source, at true size.

    python -m benchmarks.robustness.imported_targets

For each trainer and base a configuration is imported; the recipe's adapters are put on the base (shapes
alone, on meta). Beside it stands diffusers' or transformers' own model, and of its layers those that the
trainer takes: by the classes of modules, words in names or endings that stand in its source. The sets must be
equal, the ranks of each layer too, and so must the numbers in the file. Where they cannot be, the table of
the import must say so, with the sentence that ``differs`` has here.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import torch
from benchmarks.robustness import imported_cases, imported_cases_named
from benchmarks.robustness.imported_cases import Case, Layer, wide
from torch import nn

from benchmarks import outcome
from limner.assembly.assemble import ModelSpec
from limner.assembly.trainable import LoRA
from limner.importing.importer import Imported, import_recipe
from limner.importing.trained import FUSED, IDLE, PROJECTION
from limner.imports import hush
from limner.models.bundled import known
from limner.models.registry import family_of
from limner.models.source import Source
from limner.nn.layers.lora import attached

CASES: Mapping[str, Case] = {**imported_cases.CASES, **imported_cases_named.CASES}


def layers_in(model: nn.Module) -> Iterator[tuple[str, Layer, frozenset[str]]]:
    """Each linear layer and convolution with the classes of the modules that it is in."""
    modules = dict(model.named_modules())
    for name, layer in modules.items():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            parts = name.split(".")
            above = (".".join(parts[:count]) for count in range(len(parts)))
            yield name, layer, frozenset(type(modules[path]).__name__ for path in above if path in modules)


def stock(source: Source, part: str) -> nn.Module:
    """Diffusers' own denoiser of these configs, without memory."""
    config = source.config(part)
    with torch.device("meta"):
        return getattr(diffusers, config["_class_name"]).from_config(config)


def counts(layer: Layer, rank: int) -> tuple[int, int]:
    """How many numbers its down and its up matrix have."""
    if isinstance(layer, nn.Linear):
        return rank * layer.in_features, rank * layer.out_features
    side = layer.kernel_size[0] * layer.kernel_size[1]
    return rank * layer.in_channels * side, rank * layer.out_channels


def group_of(name: str, fused: Mapping[str, tuple[str, ...]]) -> str:
    """The name of a layer of the trainer, which may be several of diffusers."""
    for form, parts in fused.items():
        for part in parts:
            if re.fullmatch(
                rf"{form.removesuffix('.added')}\.{re.escape(part)}".replace(r"\.added", ""), name
            ):
                return form + re.sub(r"\D+", ".", name.removesuffix(part))
    return name


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        layers: How many both train.
        missing: Theirs that ours lack, less those that are announced.
        extra: Ours that theirs lack.
        ranks: Whether each layer has the same rank in both.
        numbers: Numbers in our file, ...
        peer_numbers: ... in theirs with a pair for each layer, ...
        packed: ... and as it is, where layers share a matrix.
        announcement: Whether the table says each difference.
    """

    layers: int
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    ranks: bool
    numbers: int
    peer_numbers: int
    packed: int
    announcement: bool

    @property
    def equal(self) -> bool:
        """Whether it is as the source says, or as the table does."""
        return (
            not (self.missing or self.extra)
            and self.ranks
            and self.numbers == self.peer_numbers
            and self.announcement
        )


def compared(case: Case, translation: Imported, source: Source) -> Comparison:
    """Put the recipe's adapters on the base, and count."""
    trainable = LoRA(config=translation.recipe.lora)
    family = family_of(source.index["_class_name"])
    spec = ModelSpec(family=family, source=source, trainable=trainable)
    rules = {family.denoiser: case.rule, **case.encoders}
    parts = {*rules, *spec.first_layers}
    models = {part: spec.skeleton(part) for part in parts}
    plain = {part: dict(_plain(models[part], source, part, family.denoiser)) for part in parts}
    layers: dict[str, tuple[Layer, int]] = {}
    packed: dict[str, list[int]] = {}
    for part, modules in plain.items():
        for name, (layer, holders) in modules.items():
            rule = rules.get(part)
            if rule is None or not rule(name, layer, holders):
                continue
            rank = case.kernels if wide(layer) and case.kernels else case.rank
            if re.fullmatch(case.silent, f"{part}.{name}"):
                continue
            layers[f"{part}.{name}"] = layer, rank
            down, up = counts(layer, rank)
            packed.setdefault(f"{part}.{group_of(name, case.fused)}", [down]).append(up)
    trainable.attach(spec, {part: models[part] for part in spec.first_layers}, [])
    factors_by_layer = {
        f"{part}.{name}": adapter.factors()
        for part in spec.first_layers
        for name, adapter in attached(models[part]).items()
    }
    notes = " ".join(row.note for row in translation.rows if row.outcome == "cannot be had")
    rank_of = {name: next(iter(factors.values())).shape[0] for name, factors in factors_by_layer.items()}
    return Comparison(
        layers=len(factors_by_layer.keys() & layers.keys()),
        missing=tuple(sorted(layers.keys() - factors_by_layer.keys())),
        extra=tuple(sorted(factors_by_layer.keys() - layers.keys())),
        ranks=all(rank_of[name] == rank for name, (_, rank) in layers.items() if name in factors_by_layer),
        numbers=sum(factor.numel() for factors in factors_by_layer.values() for factor in factors.values()),
        peer_numbers=sum(sum(counts(layer, rank)) for layer, rank in layers.values()),
        packed=sum(sum(group) for group in packed.values()),
        announcement=all(
            (sentence in notes) == (sentence in case.differs) for sentence in (FUSED, IDLE, PROJECTION)
        ),
    )


def _plain(
    model: nn.Module, source: Source, part: str, denoiser: str
) -> Iterator[tuple[str, tuple[Layer, frozenset[str]]]]:
    model = stock(source, part) if part == denoiser else model
    for name, layer, holders in layers_in(model):
        yield name, (layer, holders)


def read(case: Case, folder: Path) -> Imported:
    """Write the configuration and import it."""
    path = folder / case.file
    path.write_text(case.text)
    return import_recipe(path)


def main() -> None:
    """Compare all cases, print a table and write JSON."""
    hush()
    rows: dict[str, Any] = {}
    with TemporaryDirectory() as folder:
        for name, case in CASES.items():
            result = compared(case, read(case, Path(folder)), known(case.base))
            rows[name] = {
                **{key: getattr(result, key) for key in ("layers", "numbers", "peer_numbers", "packed")},
                "equal": result.equal,
                "missing": result.missing[:5],
                "extra": result.extra[:5],
                "ranks": result.ranks,
                "differs": case.differs,
                "announcement": result.announcement,
            }
            print(name, rows[name], flush=True)
    equal = sum(row["equal"] for row in rows.values())
    print(f"{equal} of {len(rows)} equal, or different as the table says")
    outcome.save("imported_targets", {"cases": rows, "equal": equal, "of": len(rows)})


if __name__ == "__main__":
    main()
