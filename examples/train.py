"""Train a LoRA on a folder of images, watch it, and generate with it.

    python examples/train.py FOLDER [--base glyph] [--trigger "zorbix"] [--steps 300]

Stop it with Ctrl-C at any time: the run is saved, and the same command goes on.
"""

import argparse

import limner
from limner.errors import LimnerError
from limner.events import CacheFilled, Done, PlanMade, Sampled, StepDone, Validated


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a LoRA on a folder of images, watch it, and use it.")
    parser.add_argument("folder", help="images, and text files with their captions")
    parser.add_argument("--base", default="glyph")
    parser.add_argument("--trigger", default="zorbix")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", default=None, help="the run folder")
    options = parser.parse_args()

    run = None
    events = limner.train_iter(
        options.folder,
        out=options.out,
        base=options.base,
        trigger=options.trigger,
        steps=options.steps,
    )
    for event in events:
        match event:
            case PlanMade(seconds=seconds, bytes=size):
                print(f"about {seconds / 60:.1f} min, {size / 1e9:.1f} GB")
            case CacheFilled(computed=computed_count, reused=reused_count):
                print(f"latents and text embeddings: {computed_count} computed, {reused_count} reused")
            case StepDone(step=step, steps=steps, loss=loss) if step % 50 == 0:
                print(f"step {step} of {steps}: loss {loss:.4f}")
            case Validated(step=step, loss=loss):
                print(f"step {step}: validation loss {loss:.4f}")
            case Sampled(step=step, paths=paths):
                print(f"step {step}: {len(paths)} samples in {paths[0].parent}")
            case Done():
                run = event
    assert run is not None, "a run that ends without an error is done"
    print(f"LoRA: {run.lora}")
    print(f"Report: {run.report}")
    for image in limner.generate(run, f"{options.trigger} on a white background", strength=0.8):
        print(f"Image: {image}")


if __name__ == "__main__":
    try:
        main()
    except LimnerError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
