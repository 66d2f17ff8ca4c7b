"""Try several ranks on one set of images in a thread, and keep the one with the least validation loss.

    python examples/sweep.py FOLDER [--base glyph] [--trigger "zorbix"] [--ranks 4 16] [--steps 200]

The latents and text embeddings are computed once for all runs. Enter stops after the step that is under way;
the same command goes on.
"""

import argparse
import sys
import threading
from pathlib import Path

import limner
from limner.arguments import RecipeKeys
from limner.errors import LimnerError, Stopped
from limner.events import Done, Event, StepDone


class Sweep(threading.Thread):
    """Trains one run after another; ``stop`` ends it between two steps."""

    def __init__(self, folder: str, keys: RecipeKeys, ranks: list[int], out: Path) -> None:
        super().__init__()
        self.folder, self.keys, self.ranks, self.out = folder, keys, ranks, out
        self.stop = threading.Event()
        self.results: dict[int, Done] = {}
        self.error: LimnerError | None = None

    def run(self) -> None:
        for rank in self.ranks:
            try:
                self.results[rank] = limner.train(
                    self.folder,
                    out=self.out / f"rank-{rank}",
                    settings={"data.validation_count": 1, "sample.every": -1, "lora.rank": rank},
                    on_event=lambda event, rank=rank: self.show(rank, event),
                    stop=self.stop,
                    **self.keys,
                )
            except LimnerError as error:
                self.error = error
                return

    def show(self, rank: int, event: Event) -> None:
        if isinstance(event, StepDone) and event.step % 50 == 0:
            print(f"rank {rank}: step {event.step} of {event.steps}, loss {event.loss:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Try several ranks on one set of images, and keep the one with the least validation loss."
    )
    parser.add_argument("folder", help="images, and text files with their captions")
    parser.add_argument("--base", default="glyph")
    parser.add_argument("--trigger", default="zorbix")
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("sweep"))
    options = parser.parse_args()

    keys: RecipeKeys = {"base": options.base, "trigger": options.trigger, "steps": options.steps}
    plan = limner.plan(options.folder, settings={"lora.rank": max(options.ranks)}, **keys)
    if not plan.fits:
        raise SystemExit(f"{plan.misfit}")
    sweep = Sweep(options.folder, keys, options.ranks, options.out)
    sweep.start()
    if sys.stdin.isatty():
        threading.Thread(target=lambda: (sys.stdin.readline(), sweep.stop.set()), daemon=True).start()
    sweep.join()
    if isinstance(sweep.error, Stopped):
        print(sweep.error)
        return
    if sweep.error:
        raise SystemExit(f"{type(sweep.error).__name__}: {sweep.error}")
    for rank, result in sweep.results.items():
        print(f"rank {rank}: validation loss {result.validation_loss:.4f}, {result.lora}")
    best = min(sweep.results, key=lambda rank: sweep.results[rank].validation_loss or float("inf"))
    small = limner.lora.convert(sweep.results[best].lora or "", "comfyui")
    print(f"Best: rank {best}; for ComfyUI: {small.path}")


if __name__ == "__main__":
    main()
