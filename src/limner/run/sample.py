"""Samples during training: painted by the stock sampler, never able to end the training."""

from PIL import Image
from torch import OutOfMemoryError

from limner.nn import processes
from limner.run.cache import prompts_of
from limner.run.rundir import RunDir
from limner.run.say import Say
from limner.run.sheet import sheet
from limner.run.trainee import Trainee


def sample(trainee: Trainee, run: RunDir, step: int, say: Say) -> None:
    """Paint the run's prompts with the weights as they stand after ``step`` steps, and redo the sheet.

    What goes wrong here is said and passed over: training is worth more than a picture.
    """
    if processes.rank() != 0:
        return
    prompts = prompts_of(trainee.setting)
    try:
        images = trainee.paint(len(prompts))
        for number, image in enumerate(images):
            path = run.sample_path(step, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
        write_sheet(run, prompts)
    except (OutOfMemoryError, RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        say.line(f"Samples at step {step} failed ({reason[0][:160]}); training goes on.")


def write_sheet(run: RunDir, prompts: list[str]) -> None:
    """The contact sheet: a row for each prompt, a column for each step, the base first."""
    taken = run.samples()
    steps = sorted(taken)
    rows = [
        [Image.open(taken[step][number]).convert("RGB") if number in taken[step] else None for step in steps]
        for number in range(len(prompts))
    ]
    labels = ["base" if step == 0 else f"step {step}" for step in steps]
    picture = sheet(rows, prompts, labels)
    picture.convert("RGB").save(run.sheet_path, quality=90)
