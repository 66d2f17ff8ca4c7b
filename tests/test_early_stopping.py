import pytest

from limner.early_stopping import EACH, early_stop, final_step, stopped_early
from limner.run_folder import RunDir


def rows(*losses, each=None):
    return [
        {"step": 10 * n, "held_out": loss} | ({EACH: each[n]} if each else {})
        for n, loss in enumerate(losses)
    ]


@pytest.mark.parametrize(
    ("losses", "patience", "best"),
    [
        ((1.0, 0.9, 0.8, 0.7), 1, None),
        ((1.0, 0.9, 0.8, 0.85), 1, 20),
        ((1.0, 0.9, 0.8, 0.85), 2, None),
        ((1.0, 0.9, 0.8, 0.85, 0.79, 0.8, 0.8), 2, 40),
        ((1.0, 0.9, 0.9, 0.9), 2, 10),
        ((0.1, 0.9, 0.8), 1, None),
        ((1.0, 0.9, 1.0), None, None),
        ((1.0,), 1, None),
    ],
    ids=str,
)
def test_evaluations_without_a_better_loss_end_a_run(losses, patience, best):
    end = early_stop(rows(*losses), patience)
    assert (end and end.best) == best and (end is None or end.step == 10 * (len(losses) - 1))


def test_the_interval_is_that_of_paired_images():
    shared = [[5.0, 1.0], [5.0, 1.0], [5.2, 1.4]]
    end = early_stop(rows(3.0, 3.0, 3.3, each=shared), 1)
    assert end is not None and end.excess == pytest.approx(0.3)
    assert end.interval == pytest.approx(1.96 * 0.1), "the images differ by 4, their differences by 0.2"
    assert (
        end.text.startswith("Early stopping at step 20: 1 evaluations without a better")
        and "± 0.2" in end.text
    )
    one = early_stop(rows(3.0, 3.0, 3.3, each=[[3.0], [3.0], [3.3]]), 1)
    assert one is not None and one.interval is None and "±" not in one.text


def test_rows_after_a_step_and_steps_without_a_checkpoint_do_not_count(tmp_path):
    run = RunDir(tmp_path)
    for row in rows(1.0, 0.9, 0.95, 0.95):
        run.log(row)
    assert stopped_early(run, 2, 20) is None and stopped_early(run, 2, 30)
    assert final_step(run, 2, 30) == 30, "nothing is kept of step 10"
    for step in (10, 30):
        run.checkpoint_path(step).parent.mkdir(exist_ok=True)
        run.checkpoint_path(step).touch()
    assert (final_step(run, 2, 30), final_step(run, None, 30)) == (10, 30)
