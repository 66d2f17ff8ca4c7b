"""The verb ``instant``: from pictures to a LoRA in one pass of a predictor, written as any LoRA is."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from limner.assembly.base import family_at, shape_at
from limner.data.formats import SUFFIXES
from limner.data.images import read_image
from limner.data.listing import listed
from limner.errors import BadBase, BadData, BadLora, BadUsage
from limner.files import human, sha256_file
from limner.hyper.catalog import expert_paths, predictor_path
from limner.hyper.merge import cut, groups_of, join
from limner.hyper.predictor import FILE, PIXELS, VAE, Predictor, is_predictor, mean_cosine
from limner.hyper.published import PublishedPredictor, is_published
from limner.hyper.targets import Target, fingerprint, linear_layers
from limner.hyper.vision import ReferenceImages
from limner.imports import imported
from limner.lora import file
from limner.lora.adapters import to_lora
from limner.lora.factors import Factors
from limner.lora.metadata import LoraMetadata, SamplingHints, header_entries, without_path
from limner.lora.saving import save
from limner.lora.tools import tool_named
from limner.models.bundled import described
from limner.models.family import Family
from limner.models.registry import embedded_bases
from limner.models.source import Source, content
from limner.reporter import Reporter, counted

PUBLISHED_ENCODERS = ("siglip2", "dinov3")
"""What the published predictors read, in this order."""
GROUP = 8
"""Pictures that are read together; more make several LoRAs, which are joined."""
LITTLE_IN_COMMON = 0.3
"""Mean cosine of the pictures' style vectors below which they are told to differ.

To ``glyph-instant``, each of the demo's sets is above 0.39, and two pictures of each of the four 0.17.
"""


@dataclass(frozen=True, kw_only=True)
class InstantOptions:
    """What a person decides about a LoRA of one pass."""

    predictor: str = ""
    """A predictor's file or folder, the name of a published one, or a hub id; "": the one of the base."""
    rank: int | None = None
    """Of the file; None for that of the prediction."""
    strength: float = 1.0
    """Multiplied into the LoRA."""
    tool: str = "diffusers"
    """Whose names to write."""
    encoders: str = ""
    """For a published predictor: the folder of its encoders, one subfolder each; "": the hub's cache."""
    experts: str = ""
    """Files of the predictor's folder, by their names with commas between: predictors, and LoRAs that are the
    same for all pictures (a bias), each with its strength if it is not 1: "coarse,bias:0.9". Their LoRAs are
    joined along the rank. "": the folder's one predictor."""

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise BadUsage(f"--rank is {self.rank}; it must be at least 1.")
        if not math.isfinite(self.strength) or not self.strength:
            raise BadUsage(f"--strength is {self.strength:g}; it must be a number, and not 0.")


@dataclass(frozen=True, kw_only=True)
class InstantReport:
    """A LoRA of one pass."""

    lora: Path
    predictor: str
    images: int
    layers: int
    rank: int
    energy: float
    """Share that was kept when the rank was cut, 0 to 1."""
    similarity: float
    """Mean cosine of the pictures' style vectors; 1 of one picture."""
    seconds: float


@dataclass(frozen=True)
class Prediction:
    """What a predictor makes of pictures."""

    adapter: Mapping[str, Factors]
    """Layer of the denoiser -> factors."""
    hints: SamplingHints
    predictor: str
    sha256: str
    similarity: float
    nested: bool = False
    """Whether its ranks are in the order of what they give."""
    strength: float = 1.0
    """That images are generated at; a training that starts from it starts at 1, where the loss is least."""

    def at_strength(self, further: float = 1.0) -> dict[str, Factors]:
        """The change at its strength, times a further one."""
        strength = self.strength * further
        return {layer: Factors(pair.down, pair.up * strength) for layer, pair in self.adapter.items()}


def instant(
    photos: Sequence[Path], base: str, out: Path, options: InstantOptions, reporter: Reporter
) -> InstantReport:
    """Write a LoRA of one pass, read back by the rules of the tool that it is for.

    Args:
        photos: Image files, and folders of them.
        base: The base, as recipes name it.
        out: The file; ends in .safetensors.
        options: See :class:`InstantOptions`.
        reporter: Is told what is done, before it is.

    Raises:
        BadData: There is no picture, or one cannot be read.
        BadUsage: An option means nothing, or there is no predictor for the base.
        BadBase: The predictor is damaged, or is for another base.
    """
    if out.suffix != ".safetensors":
        raise BadUsage(f"--out is {out}; a LoRA file ends in .safetensors.")
    tool = tool_named(options.tool)
    paths = image_paths(photos)
    start = time.monotonic()
    source = described(base, folders=embedded_bases(), tell=reporter.line)  # its weights are not needed
    family = family_at(source)
    prediction = predict_experts(ReferenceImages(paths, options.encoders), source, family, options, reporter)
    adapter, energy = prediction.at_strength(options.strength), 1.0
    if options.rank is not None:
        adapter, energy = cut(adapter, options.rank, nested=prediction.nested)
    components = {family.denoiser: adapter}
    architecture, version = family.model_spec(source)
    side = shape_at(source, family).resolution
    info = LoraMetadata(
        title=out.stem,
        architecture=f"{architecture}/lora",
        base=source.name,
        base_version=version,
        resolution=(side, side),
        description=f"Made from {counted(len(paths), 'picture')} in one pass of {prediction.predictor}.",
        sampling=prediction.hints,
    )
    entries = header_entries(info, components) | {
        "limner.predictor": prediction.predictor,
        "limner.predictor_sha256": prediction.sha256,
        "limner.images": str(len(paths)),
        "limner.strength": f"{options.strength:g}",
        "limner.energy": f"{energy:.6f}",
    }
    save(out, components, entries, torch.float32, tool, family.pipeline)
    return InstantReport(
        lora=out,
        predictor=prediction.predictor,
        images=len(paths),
        layers=len(adapter),
        rank=max(pair.rank for pair in adapter.values()),
        energy=energy,
        similarity=prediction.similarity,
        seconds=time.monotonic() - start,
    )


def image_paths(photos: Sequence[Path]) -> list[Path]:
    """The image files that are meant: files by name, and all below folders.

    Raises:
        BadData: There is none.
        BadUsage: A path is neither.
    """
    paths: list[Path] = []
    for path in photos:
        if path.is_dir():
            paths += [path / name for name in listed(path).images]
        elif path.is_file() and path.suffix.lower() in SUFFIXES:
            paths.append(path)
        else:
            fault = "is no image" if path.exists() else "does not exist"
            raise BadUsage(f"{path} {fault}. Name 1 to {GROUP} pictures of one style, or their folder.")
    if not paths:
        raise BadData(
            f"There is no picture in {', '.join(map(str, photos)) or 'nothing'}. Name 1 to {GROUP} pictures "
            "of one style, or their folder."
        )
    return paths


def predict(
    references: ReferenceImages, source: Source, family: Family, name: str, reporter: Reporter
) -> Prediction:
    """Read pictures and make a LoRA of them.

    Args:
        references: The pictures.
        source: The base.
        family: Its family.
        name: The predictor; "" for the base's own.
        reporter: Is told what is done, before it is.

    Raises:
        LimnerError: See :func:`instant`.
    """
    path = predictor_path(name, source.name, family.name, reporter.line)
    title = without_path(name) or f"{source.name}-instant"
    layers = linear_layers(source, family)
    if path.is_file() and is_published(path):
        return _of_published(PublishedPredictor(path, layers), title, references, source, family, reporter)
    predictor = Predictor.load(path)
    require_base(predictor, title, source, layers)
    count, side = len(references.paths), predictor.config.side
    _announce(predictor, title, count, reporter)
    further = {*predictor.config.names} - {PIXELS}
    images = references.whole if further else [read_image(path, (side, side)) for path in references.paths]
    looks = references.vectors([look for look in predictor.config.names if look not in (PIXELS, VAE)])
    if vae := next((look for look in predictor.config.looks if look.name == VAE), None):
        latents_of = imported("limner.hyper.latents:latents_of")
        looks[VAE] = latents_of(images, source, family, vae.side, reporter.line)
    sample = slice(8 * GROUP)
    similarity = predictor.similarity(images[sample], {name: look[sample] for name, look in looks.items()})
    _tell_difference(similarity, reporter)
    groups = groups_of(count, GROUP)
    parts = [
        predictor.predict([images[n] for n in group], {name: look[[*group]] for name, look in looks.items()})
        for group in groups
    ]
    adapter = join(parts, [len(group) / count for group in groups])
    hints = SamplingHints()
    if predictor.config.lora_on == "positive":
        hints = SamplingHints(lora_on="positive", guidance=predictor.config.guidance)
    weights_path = path / FILE if path.is_dir() else path
    sha256 = sha256_file(weights_path)
    return Prediction(
        adapter,
        hints,
        title,
        sha256,
        similarity,
        nested=predictor.config.nested and len(groups) == 1,
        strength=predictor.config.strength,
    )


def _of_published(  # noqa: PLR0913  what is read, for what, by what
    predictor: PublishedPredictor,
    title: str,
    references: ReferenceImages,
    source: Source,
    family: Family,
    reporter: Reporter,
) -> Prediction:
    """One LoRA of each picture, joined with equal shares, as its authors do."""
    layout, count = predictor.layout, len(references.paths)
    size = predictor.path.stat().st_size
    encoders = [*PUBLISHED_ENCODERS, *([f"{source.name}'s text encoder"] if layout.tokens else [])]
    reporter.line(
        f"{title}: {layout.family}, {layout.expert}; {human(size)}, read in {len(layout.heads)} parts, for "
        f"each of {counted(count, 'picture')}; encoders {', '.join(encoders)} in turn."
    )
    states = [None] * count
    if layout.tokens:
        states = imported("limner.hyper.states:states_of")(
            references.whole, source, family, layout.expert, reporter.line
        )
    embeddings = torch.cat([*references.vectors(PUBLISHED_ENCODERS).values()], 1)
    similarity = mean_cosine(embeddings)
    _tell_difference(similarity, reporter)
    with reporter.progress("Predicting", count * len(layout.heads)) as bar:
        pairs = [
            predictor.predict(embedding, state, bar.advance)
            for embedding, state in zip(embeddings, states, strict=True)
        ]
    adapter = join(pairs, [1 / count] * count)
    guidance = layout.positive_guidance
    hints = SamplingHints(lora_on="positive", guidance=guidance) if guidance else SamplingHints()
    return Prediction(adapter, hints, title, content(predictor.path), similarity)


def predict_experts(
    references: ReferenceImages, source: Source, family: Family, options: InstantOptions, reporter: Reporter
) -> Prediction:
    """What several experts make of the same pictures, added up: their ranks stand side by side.

    Guidance and its branch are those that the first of them asks for.

    Args:
        references: The pictures.
        source: The base.
        family: Its family.
        options: Whose ``predictor`` is a folder where ``experts`` names files in it; else one predictor.
        reporter: Is told what is done, before it is.

    Raises:
        BadUsage: There is no such folder or file, or a name comes twice.
        LimnerError: See :func:`instant`.
    """
    if not options.experts:
        return predict(references, source, family, options.predictor, reporter)
    paths = expert_paths(options.experts, options.predictor, source.name, family.name, reporter.line)
    strengths = {name: strength for name, (_, strength) in paths.items()}
    parts = [_expert(path, references, source, family, reporter) for path, _ in paths.values()]
    pairs = [{layer: (f.down, f.up) for layer, f in part.at_strength().items()} for part in parts]
    return Prediction(
        join(pairs, [*strengths.values()]),
        parts[0].hints,
        " + ".join(f"{name}:{value:g}" if value != 1 else name for name, value in strengths.items()),
        " + ".join(part.sha256 for part in parts),
        min(part.similarity for part in parts),
    )


def _expert(
    path: Path, references: ReferenceImages, source: Source, family: Family, reporter: Reporter
) -> Prediction:
    """What one expert makes of the pictures; a LoRA is what it is, whatever they show."""
    if is_published(path) or is_predictor(path):
        return predict(references, source, family, str(path), reporter)
    adapter = file.read(path, family.name).components
    layers = linear_layers(source, family)
    if further := sorted(set(adapter) - {family.denoiser}):
        raise BadLora(f"{path.name} changes {further[0]}; an expert changes {family.denoiser} alone.")
    factors = {layer: to_lora(change) for layer, change in adapter.get(family.denoiser, {}).items()}
    for layer, pair in factors.items():
        sizes = (layers[layer].outputs, layers[layer].inputs) if layer in layers else None
        if pair.shape != sizes:
            raise BadLora(
                f"{path.name} is a LoRA of another base: {layer} is not there in this size. Name one of "
                f"{source.name}."
            )
    reporter.line(f"{path.stem}: a LoRA of {counted(len(factors), 'layer')}, the same for all pictures.")
    return Prediction(factors, SamplingHints(), path.stem, sha256_file(path), 1.0)


def _tell_difference(similarity: float, reporter: Reporter) -> None:
    if similarity < LITTLE_IN_COMMON:
        reporter.line(
            f"The pictures have little in common (likeness {similarity:.2f} of 1): the LoRA is a mean of "
            "their styles. Pictures of one style make a clearer one."
        )


def _announce(predictor: Predictor, title: str, images: int, reporter: Reporter) -> None:
    """Memory and time, before they are taken. Seconds as measured for the embedded predictor, by size."""
    weights = sum(weight.numel() for weight in predictor.parameters())
    seconds = (0.005 + 0.0012 * images) * weights / 4.5e6
    groups = math.ceil(images / GROUP)
    suffix = f" in {groups} groups, which are joined along the rank" if groups > 1 else ""
    reporter.line(
        f"{title}: {weights / 1e6:.1f}M parameters, {human(4 * weights)} of memory; "
        f"{counted(images, 'picture')}{suffix}, about {max(seconds, 0.01):.2f} s on one core."
    )


def require_named_base(predictor: Predictor, title: str, base: str, reporter: Reporter) -> None:
    """As :func:`require_base`, of a base by name, whose weights need not be here."""
    source = described(base, folders=embedded_bases(), tell=reporter.line)
    require_base(predictor, title, source, linear_layers(source, family_at(source)))


def require_base(predictor: Predictor, title: str, source: Source, layers: Mapping[str, Target]) -> None:
    """Raise ``BadBase`` unless the base has the layers that a predictor writes LoRAs for."""
    targets = [layers[target.name] for target in predictor.config.targets if target.name in layers]
    if fingerprint(targets) != predictor.base.targets:
        raise BadBase(
            f"{title} writes LoRAs for {predictor.base.name}, and {source.name} has other layers. Name a "
            f"predictor for {source.name} with --predictor."
        )
