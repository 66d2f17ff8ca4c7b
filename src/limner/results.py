"""The front door to what comes of a LoRA: images, a judgement of its steps, and a LoRA in one pass."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from limner.arguments import InstantKeys, JudgeKeys, SamplingKeys
from limner.events import Done, OnEvent
from limner.lora.location import local, on_hub, output_path
from limner.reporter import Reporter
from limner.target import subject_of

if TYPE_CHECKING:
    from limner.judging.judge import JudgeReport
    from limner.prediction import InstantReport

Stop = threading.Event | Callable[[], bool]
"""Says whether to end the work between two pieces of it."""


def generate(
    run: Done | str | Path,
    prompts: str | Sequence[str] = (),
    *,
    out: str | Path | None = None,
    base: str | None = None,
    strength: float | Sequence[float] = 1.0,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
    **keys: Unpack[SamplingKeys],
) -> list[Path]:
    """Generate images with a LoRA, loaded exactly as other tools load it.

    Args:
        run: A run, its folder, what it was made from, one of its checkpoints, a LoRA file or a hub id.
        prompts: One or several; of a run, its own when left out.
        out: Folder for the images; beside the LoRA when left out.
        base: Base model; the one that the LoRA was trained on when left out.
        strength: Of the LoRA, or several to compare; 0 is the base alone.
        on_event: Called with each event.
        stop: Ends the work after the image that is under way.
        keys: See :class:`SamplingKeys`.

    Returns:
        The image files, prompts outermost, then a grid for each prompt where there is something to compare.
    """
    from limner.generation.generate import generate as images_of
    from limner.generation.settings import GenerationRequest, Settings

    values: dict[str, Any] = dict(keys)
    values["controls"] = tuple(Path(path) for path in values.pop("images", None) or ())
    steps, texts = values.pop("step", ()), [prompts] if isinstance(prompts, str) else prompts
    steps, names = [steps] if isinstance(steps, int | str) else steps, ("negative_lora", "prompt_file")
    paths: dict[str, Any] = {name: Path(path) for name in names if (path := values.pop(name, None))}
    target = run.path if isinstance(run, Done) else run
    subject = subject_of(local(target), texts, paths.pop("prompt_file", None), steps)
    request = GenerationRequest(
        targets=subject.paths,
        prompts=subject.prompts,
        out=Path(out or (output_path(target, "-pictures") if on_hub(target) else subject.folder)),
        base=base,
        **{name: values.pop(name, None) or "" for name in ("components_from", "sample_base")},
        loras={local(path): scale for path, scale in values.pop("loras", {}).items()},
        embeddings=tuple(map(Path, values.pop("embeddings", ()))),
        settings=Settings(lora_scale=strength, **values, **paths),
    )
    return images_of(request, reporter_of(on_event, stop))


def judge(
    run: Done | str | Path,
    *,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
    **keys: Unpack[JudgeKeys],
) -> "JudgeReport":
    """Measure which step and strength of a run's LoRA to use.

    ``limner.judge("runs/cat", seeds=8).recommendation.reason`` says what to take and why, or that it cannot
    be told. Images that are there already are not generated again.

    Args:
        run: A run, its folder, or what it was made from.
        on_event: Called with each event.
        stop: Ends the work after the images that are under way; they stay, and the same call goes on.
        keys: See :class:`JudgeKeys`.

    Returns:
        The measures of each step and strength with their intervals, and what to take.

    Raises:
        Stopped: ``stop``, or Ctrl-C in the main thread.
        LimnerError: There is no run of a LoRA, or its images, the base or an encoder cannot be used.
    """
    from limner.judging.judge import judge as measure
    from limner.judging.request import options_of

    target = run.path if isinstance(run, Done) else Path(run)
    return measure(target, options_of(keys), reporter_of(on_event, stop))


def instant(
    photos: str | Path | Sequence[str | Path],
    *,
    base: str = "glyph",
    out: str | Path = "instant.safetensors",
    on_event: OnEvent | None = None,
    **keys: Unpack[InstantKeys],
) -> "InstantReport":
    """Make a LoRA of 1 to 8 pictures in one pass of a predictor, without training.

    Args:
        photos: A picture, a folder of pictures, or several of them. More than 8 are read in groups.
        base: Base model, as recipes name it.
        out: The file to write.
        on_event: Called with each event.
        keys: See :class:`InstantKeys`.

    Returns:
        Where the LoRA is, its rank, and how alike the pictures are.

    Raises:
        LimnerError: A picture, the predictor or the base cannot be used.
    """
    from limner.prediction import InstantOptions
    from limner.prediction import instant as run

    paths = [photos] if isinstance(photos, str | Path) else photos
    options = InstantOptions(**keys)
    return run([Path(path) for path in paths], base, Path(out), options, Reporter(on_event))


def reporter_of(on_event: OnEvent | None, stop: Stop | None) -> Reporter:
    """Passes events on, and asks whether to stop."""
    return Reporter(on_event, asker_of(stop))


def asker_of(stop: Stop | None) -> Callable[[], bool] | None:
    """A function that says whether to stop, of what a caller gave."""
    return stop.is_set if isinstance(stop, threading.Event) else stop
