"""What is published: LoRA and word of a run, or one file, with the facts and pictures of the model card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from limner.errors import BadUsage
from limner.generation.image_files import slug
from limner.lora import file
from limner.lora.inspect import LoraInfo, inspect
from limner.lora.metadata import header, triggers, without_path
from limner.lora.tools import DIFFUSERS
from limner.models.facts import FamilyFacts, RegisteredBase
from limner.models.registry import families, named_base, recognised
from limner.publishing.card_images import CardImage, captions_of, generated, is_caption, samples
from limner.publishing.word import PublishedWord, require_word, word_of
from limner.recipe import toml
from limner.recipe.schema import Recipe
from limner.run_folder import RunDir, run_of
from limner.target import request_for

CHOSEN_STRENGTH = "limner.chosen_strength"
"""Entry of a LoRA that a person chose among a run's steps: the strength that its weights hold."""
DIFFUSERS_NAME = file.PREFERRED
"""Where there are several files, the name by which diffusers knows its own."""


@dataclass(frozen=True)
class PublishedFile:
    """One file of the LoRA."""

    name: str
    """Of the file that others see."""
    source: Path
    info: LoraInfo
    metadata: Mapping[str, str]

    def loads_in(self, tool: str) -> bool:
        """Whether a tool reads it whole."""
        return self.info.loads.get(tool) == "yes"


@dataclass(frozen=True, kw_only=True)
class Publication:
    """A LoRA, a word or both, and what a model card says of them."""

    title: str
    files: tuple[PublishedFile, ...]
    """Of the LoRA, the main one first."""
    word: PublishedWord | None = None
    """Of textual inversion."""
    base: str
    """As people call it: a registered name, a hub id, or the last part of a path."""
    record: RegisteredBase | None
    """What is known of the base; None where it is not registered."""
    family: FamilyFacts | None
    trigger: str
    images: tuple[CardImage, ...] = ()
    facts: Mapping[str, str]
    """Of the training, for people: name -> value."""
    sampling_steps: int | None = None
    strength: float | None = None
    """That was measured to be the best; None where nobody measured."""
    captions: tuple[str, ...] = ()
    """Of the dataset, to be published."""
    hidden_prompts: int = 0
    """Pictures whose prompts are captions that stay private."""

    @property
    def hub_id(self) -> str:
        """Where the base is on the hub; "" of a base that is not there."""
        if self.record:
            return self.record.hub_id
        return self.base if file.HUB_ID.fullmatch(self.base) else ""

    def file_for(self, tool: str) -> PublishedFile | None:
        """The file that a tool reads whole: the one named after it, else the first that it reads."""
        readers = [item for item in self.files if item.loads_in(tool)]
        return next((item for item in readers if tool in item.name), readers[0] if readers else None)


def publication(
    target: Path, *, base: str | None = None, images: Path | None = None, with_captions: bool = False
) -> Publication:
    """Collect what is published of a run folder or of a LoRA file.

    Args:
        target: A run folder or a LoRA file of any tool; the newest LoRA of a run counts as its run.
        base: The base, where the file does not name it.
        images: A folder of pictures by ``limner generate``, in place of the run's samples.
        with_captions: Whether captions of the dataset, and prompts that are captions, may be seen.

    Raises:
        BadUsage: There is no LoRA, or files of a run are missing or of other steps; nobody says the base.
        BadLora: A file cannot be read.
    """
    run, recipe = _run_of(target)
    published_run = run if run and (target.is_dir() or target == run.lora_path) else None
    sources = _run_files(published_run, recipe) if published_run and recipe else {DIFFUSERS.name: target}
    infos = {tool: _inspected(path) for tool, path in sources.items()}
    if infos:
        main, metadata = next(iter(infos.values()))
    else:
        assert published_run
        main, metadata = None, header(published_run.embedding_path).metadata
    title = (main and main.title) or metadata.get("modelspec.title") or target.stem
    name = base or (recipe.base if recipe else metadata.get("ss_sd_model_name", ""))
    if not name:
        raise BadUsage(f"{target} does not say which base it was trained on. Name it with --base.")
    trigger = next(iter(triggers(metadata)), "")
    captions = captions_of(run) if run else ()
    card_images = generated(images) if images else samples(published_run, metadata) if published_run else []
    private = [] if with_captions else _private(card_images, captions, trigger, None if images else recipe)
    family = _family(name, main)
    is_word = bool(published_run and recipe and recipe.trains_words)
    word = word_of(published_run, family) if is_word and published_run and family else None
    return Publication(
        title=title,
        files=_named(infos, slug(title)) if infos else (),
        word=word,
        base=without_path(name),
        record=named_base(name),
        family=family,
        trigger=trigger,
        images=tuple(replace(item, prompt="") if item in private else item for item in card_images),
        facts=_facts(main, word, metadata, published_run),
        sampling_steps=recipe.sample_steps if recipe else None,
        strength=_strength(run, metadata) if run else None,
        captions=captions if with_captions else (),
        hidden_prompts=len(private),
    )


def _run_of(target: Path) -> tuple[RunDir | None, Recipe | None]:
    """The run that a target is, or that a file is of, and its recipe."""
    run = RunDir(request_for(target, {}, None).out) if target.is_dir() else run_of(target)
    if run and not run.recipe_path.is_file():
        raise BadUsage(f"{run.path} holds no run. Train it first: limner train {target}")
    return run, toml.load(run.recipe_path) if run else None


def _private(
    images: Sequence[CardImage], captions: Sequence[str], trigger: str, recipe: Recipe | None
) -> list[CardImage]:
    """The pictures whose prompts are captions: all samples of a recipe that has no prompts of its own."""
    if recipe and not (recipe.sample.prompts or recipe.sample.prompt_file):
        return [item for item in images if item.prompt]
    return [item for item in images if is_caption(item.prompt, captions, trigger)]


def _strength(run: RunDir, metadata: Mapping[str, str]) -> float | None:
    """The strength that ``limner judge`` recommends for the LoRA of its step; None where it says none.

    A LoRA that was chosen at a strength holds it in its weights.
    """
    record = run.read(run.judge_path)
    advice = record.get("recommendation") if isinstance(record, dict) else None
    if not isinstance(advice, dict) or CHOSEN_STRENGTH in metadata:
        return None
    strength, step = advice.get("strength"), advice.get("step")
    is_of_this = step is not None and str(step) == metadata.get("ss_steps")
    return float(strength) if is_of_this and isinstance(strength, int | float) else None


def _run_files(run: RunDir, recipe: Recipe) -> dict[str, Path]:
    """Tool -> file, of all that a run exports.

    Raises:
        BadUsage: There are none, or they are not of one step.
    """
    if recipe.train.method == "full":
        raise BadUsage(
            f"{run.path} trained a whole base and no LoRA. Make one of it: limner lora extract BASE "
            f"{run.model_path} --out lora.safetensors"
        )
    if recipe.trains_words:
        require_word(run)
        if not recipe.inversion.with_lora:
            return {}
    paths = {DIFFUSERS.name: run.lora_path}
    paths |= {tool: run.lora_path_for(tool) for tool in recipe.export.for_ if tool != DIFFUSERS.name}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        raise BadUsage(f"{run.path} has no {missing[0]} yet. Finish it with: limner train {run.path}")
    steps = {path.name: file.read(path).metadata.get("ss_steps", "") for path in paths.values()}
    if len(set(steps.values())) > 1:
        words = ", ".join(f"{name} of step {step}" for name, step in steps.items())
        raise BadUsage(f"{run.path} has {words}. Finish it with: limner train {run.path}")
    return paths


def _inspected(path: Path) -> tuple[LoraInfo, Mapping[str, str]]:
    if not path.exists():
        raise BadUsage(f"There is no {path}. Name a run folder or a LoRA file.")
    info = inspect(path)
    return info, file.read(info.path).metadata


def _named(infos: Mapping[str, tuple[LoraInfo, Mapping[str, str]]], stem: str) -> tuple[PublishedFile, ...]:
    """Files under the names that others see: diffusers looks for its own where there are several."""
    names = {tool: f"{stem}-{tool}.safetensors" for tool in infos}
    is_one_of_several = len(infos) > 1 and infos[DIFFUSERS.name][0].loads.get(DIFFUSERS.name) == "yes"
    names[DIFFUSERS.name] = DIFFUSERS_NAME if is_one_of_several else f"{stem}.safetensors"
    return tuple(
        PublishedFile(names[tool], info.path, info, metadata) for tool, (info, metadata) in infos.items()
    )


def _family(base: str, info: LoraInfo | None) -> FamilyFacts | None:
    match = recognised(base.rstrip("/").rpartition("/")[2])
    family = info.family if info else None
    if match and (family is None or family in (match[0].name, match[0].keys_of)):
        return match[0]
    return families().get(family or "")


def _adapter(info: LoraInfo) -> str:
    """The kinds of a LoRA, its ranks, and what it is on."""
    ranks = sorted(int(rank) for part in info.components for rank in part.ranks)
    kinds = sorted({kind for part in info.components for kind in part.kinds})
    rank = f"{ranks[0]}" if ranks[0] == ranks[-1] else f"{ranks[0]} to {ranks[-1]}"
    return f"{' and '.join(kinds)}, rank {rank}, on {', '.join(part.name for part in info.components)}"


def _facts(
    info: LoraInfo | None, word: PublishedWord | None, metadata: Mapping[str, str], run: RunDir | None
) -> dict[str, str]:
    """What is known of the training, and nothing of the machine."""
    encoders = ", ".join(encoder for encoder, _ in word.encoders) if word else ""
    facts = {
        "Steps": metadata.get("ss_steps", ""),
        "Adapter": _adapter(info) if info else "",
        "Textual inversion": f"{word.vectors} token vectors in {encoders}" if word else "",
        "Resolution": metadata.get("modelspec.resolution", ""),
    }
    if run:
        images = run.data().get("images")
        seconds = [row["seconds"] for row in run.metrics() if isinstance(row.get("seconds"), int | float)]
        facts["Images"] = str(len(images)) if isinstance(images, list) else ""
        facts["Training time"] = _duration(sum(seconds)) if seconds else ""
    facts["Trained with"] = metadata.get("software", "")
    return {name: text for name, text in facts.items() if text}


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"
