import sys

import pytest
from benchmarks.watched import Watch

from benchmarks import outcome, watched

BAR = """
import sys, time
for step in range(1, 4):
    time.sleep(0.05)
    sys.stderr.write(f"\\rSteps: {step * 33}%|##  | {step}/3 [00:00<00:00, 9it/s, loss={1 / step}, lr=0.1]")
    sys.stderr.flush()
sys.stderr.write("\\rOther: 100%|####| 9/9 [00:00<00:00, loss=3]\\n")
"""
ROWS = """
import json, pathlib, sys, time
path = pathlib.Path(sys.argv[1])
seen = lambda row: row["step"] == 0 or path.with_name(str(row["step"])).exists()
rows = [{"step": 0, "held_out": 1.0}, *({"step": step, "loss": 1.0} for step in (1, 2, 3))]
with path.open("w") as file:
    for row in rows:
        text = json.dumps(row) + "\\n"
        file.write(text[:5]); file.flush(); file.write(text[5:]); file.flush()
        while not seen(row):
            time.sleep(0.002)
"""


def test_steps_of_a_progress_bar(tmp_path):
    seen = watched.run(
        [sys.executable, "-c", BAR], watched.progress_bar(tmp_path / "log", "Steps:"), log=tmp_path / "log"
    )
    assert sorted(seen.ended) == [1, 2, 3]
    columns = seen.columns()
    assert 0.05 <= columns["first_step"] < columns["wall"]
    assert columns["step"] == pytest.approx((seen.ended[3] - seen.ended[1]) / 2)
    assert 1e6 < columns["peak_bytes"] < 1e11  # a forked child counts its parent until it becomes another
    assert "Other" in (tmp_path / "log").read_text()


def test_steps_of_a_metrics_file(tmp_path, monkeypatch):
    class Told(dict):
        def setdefault(self, step, at):
            (tmp_path / str(step)).touch()  # only then does the command write the next row
            return super().setdefault(step, at)

    monkeypatch.setattr(watched, "Watch", lambda: Watch(ended=Told()))
    eye = watched.metrics_file(tmp_path / "metrics.jsonl", tmp_path / "log")
    command = [sys.executable, "-c", ROWS, str(tmp_path / "metrics.jsonl")]
    seen = watched.run(command, eye, log=tmp_path / "log")
    assert sorted(seen.ended) == [1, 2, 3]
    assert seen.ended[1] < seen.ended[2] < seen.ended[3] < seen.wall


@pytest.mark.parametrize(("code", "what"), [("raise SystemExit(3)", "ended with 3"), ("", "showed no step")])
def test_a_run_that_failed_is_said(tmp_path, code, what):
    with pytest.raises(RuntimeError, match=f"{what}.*log"):
        watched.run(
            [sys.executable, "-c", code], watched.progress_bar(tmp_path / "log", "x"), log=tmp_path / "log"
        )


def test_table_and_medians():
    assert outcome.medians([{"a": 1.0}, {"a": 5.0}, {"a": 2.0}]) == {"a": 2.0}
    assert outcome.table(["", "x"], [["ab", "1.50"]]).splitlines() == [
        "|    |    x |",
        "| -- | ---: |",
        "| ab | 1.50 |",
    ]


def test_results_name_the_device(tmp_path):
    path = outcome.save("x", {"seconds": 1.5}, tmp_path)
    text = path.read_text()
    assert '"seconds": 1.5' in text
    assert '"processor"' in text
    assert '"torch"' in text
