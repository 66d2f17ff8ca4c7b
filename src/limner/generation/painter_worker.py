"""A process that keeps a loaded pipeline: ``python -m limner.generation.painter_worker``.

It reads one request per line of stdin, as JSON, and answers in lines of JSON on stdout; see
:mod:`limner.generation.painter`. It ends with stdin. What libraries print goes to stderr.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from limner.errors import BadUsage, DoesNotFit, LimnerError
from limner.events import Event, Message
from limner.generation.generate import ImageSampler
from limner.generation.image_files import write_image
from limner.generation.pipeline_keeper import PipelineKeeper
from limner.generation.settings import GenerationRequest, Settings
from limner.recipe.prompt_file import PromptLine
from limner.reporter import Reporter

KEYS = {
    "id": (str, int),
    "kind": (str,),
    "run": (str,),
    "base": (str,),
    "loras": (list,),
    "prompt": (str,),
    "negative": (str,),
    "seed": (int,),
    "steps": (int,),
    "guidance": (int, float),
    "width": (int,),
    "height": (int,),
    "count": (int,),
    "strength": (int, float),
    "out": (str,),
}
"""What a request may have, and the types of it; null is as if it were not there."""
Answer = Callable[[Mapping[str, Any]], None]


def request_from(values: Mapping[str, Any]) -> GenerationRequest:
    """A request of a line.

    Args:
        values: ``run`` (a run folder or a LoRA file, with ``strength``) or ``base``; ``loras``, a list of
            ``{"path", "strength"}``; ``prompt``, ``negative``, ``seed``, ``steps``, ``guidance``, ``width``,
            ``height``, ``count`` (images from seeds one apart), ``out`` (a folder).

    Raises:
        BadUsage: A key is unknown, of another type, or missing.
    """
    for key, value in values.items():
        if key not in KEYS:
            raise BadUsage(f"A request has no {key!r:.60}. It may have {', '.join(KEYS)}.")
        if value is not None and (not isinstance(value, KEYS[key]) or isinstance(value, bool)):
            raise BadUsage(
                f"{key} is {value!r:.60}; it must be {' or '.join(t.__name__ for t in KEYS[key])}."
            )
    entries = {key: value for key, value in values.items() if value is not None}
    if missing := [key for key in ("prompt", "out") if not entries.get(key)]:
        raise BadUsage(f"The request has no {missing[0]}. Give one.")
    loras = [_lora(item) for item in entries.get("loras", [])]
    target, strength = entries.get("run"), float(entries.get("strength", 1.0))
    if target is None and loras:
        (target, strength), *loras = loras
    if target is None and "base" not in entries:
        raise BadUsage("The request names neither a run nor a base. Give one of the two.")
    sampling = {
        name: entries[key]
        for key, name in (
            ("seed", "seed"),
            ("steps", "steps"),
            ("guidance", "guidance"),
            ("width", "width"),
            ("height", "height"),
            ("count", "images_per_prompt"),
            ("negative", "negative_prompt"),
        )
        if key in entries
    }
    return GenerationRequest(
        targets=() if target is None else (Path(target),),
        prompts=(PromptLine(entries["prompt"]),),
        out=Path(entries["out"]),
        base=entries.get("base"),
        loras={Path(path): scale for path, scale in loras},
        settings=Settings(**sampling, lora_scale=strength),
    )


def _lora(item: Any) -> tuple[str, float]:
    if not isinstance(item, Mapping) or not isinstance(item.get("path"), str):
        raise BadUsage(f'loras holds {item!r:.60}; each must be {{"path": .., "strength": ..}}.')
    strength = item.get("strength", 1.0)
    if not isinstance(strength, int | float) or isinstance(strength, bool):
        raise BadUsage(f"The strength of {item['path']} is {strength!r:.60}; it must be a number.")
    return item["path"], float(strength)


class Worker:
    """Answers requests, one at a time.

    Args:
        answer: Takes each answer.
    """

    def __init__(self, answer: Answer) -> None:
        """See the class."""
        self._answer, self._keeper = answer, PipelineKeeper()

    def serve(self, line: str) -> bool:
        """Answer one line; whether more are wanted."""
        name: Any = None
        try:
            values = json.loads(line)
            if not isinstance(values, dict):
                raise BadUsage(f"A request is {line.strip()!r:.60}; it must be a JSON object.")
            name = values.get("id")
            match values.get("kind", "generate"):
                case "quit":
                    return False
                case "release":
                    self._tell(name, "released", was_loaded=self._keeper.release())
                case "generate":
                    self._generate(name, request_from(values))
                case kind:
                    raise BadUsage(f"kind is {kind!r:.60}; it must be generate, release or quit.")
        except (ValueError, RecursionError) as error:
            self._fail(
                name, BadUsage(f"A request cannot be read ({error}). Write one JSON object in a line.")
            )
        except LimnerError as error:
            self._fail(name, error)
        except torch.OutOfMemoryError:
            self._keeper.release()
            text = "The GPU has no memory left. Generate smaller images, or stop what else uses it."
            self._fail(name, DoesNotFit(text))
        return True

    def _generate(self, name: Any, request: GenerationRequest) -> None:
        start, count = time.monotonic(), 0
        total = request.settings.steps * len(request.settings.seeds)

        def on_step(step: int) -> None:
            self._tell(name, "progress", done=count + step, total=total)

        def on_event(event: Event) -> None:
            if isinstance(event, Message):
                self._tell(name, "line", text=event.text)

        sampler = ImageSampler(request, Reporter(on_event), self._keeper, on_step)
        (line,) = request.prompts
        for _, image, record in sampler.images(line):
            path = write_image(request.out, image, record)
            count += request.settings.steps
            self._tell(name, "image", path=str(path), seed=record.seed, parameters=record.parameters())
        self._tell(name, "done", seconds=round(time.monotonic() - start, 3))

    def _fail(self, name: Any, error: LimnerError) -> None:
        text = " ".join(str(error).splitlines())
        self._tell(name, "error", error=type(error).__name__, message=text)

    def _tell(self, name: Any, kind: str, **values: Any) -> None:
        self._answer({"id": name, "kind": kind, **values})


def main() -> None:
    """Serve stdin until it ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print, in C as well, is no answer
    sys.stdout = sys.stderr

    def answer(values: Mapping[str, Any]) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    worker = Worker(answer)
    answer({"id": None, "kind": "ready", "pid": os.getpid()})
    for line in sys.stdin:
        if line.strip() and not worker.serve(line):
            break


if __name__ == "__main__":
    main()
