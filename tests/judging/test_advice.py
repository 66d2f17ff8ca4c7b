import numpy as np

from limner.judging.advice import recommend, table
from limner.judging.measures import Samples

CELLS = [(0, 0.0), (50, 0.8), (50, 1.0), (100, 0.8), (100, 1.0)]


def samples(scores: list[float], *, noise: float = 0.001, ceiling: float = 0.9) -> Samples:
    """Cells whose share of likeness is their score, the base's 0."""
    generator = np.random.default_rng(0)
    values = np.array([0.0, *scores]) + noise * generator.normal(size=(501, 5))
    values[0] = [0.0, *scores]
    values = np.clip(values, 0, 1)
    variety = np.broadcast_to([0.4, 0.4, 0.4, 0.4, 0.1], values.shape)
    return Samples({"likeness": 0.3 + 0.5 * values, "variety": variety}, {"likeness": values}, ceiling)


def test_the_best_is_taken_where_it_is_measurably_better():
    advice = recommend(CELLS, samples([0.3, 0.8, 0.5, 0.4]))
    assert (advice.step, advice.strength) == (50, 1.0) == advice.best
    assert advice.ties == ((50, 1.0),)
    assert advice.reason.startswith("Step 50 at strength 1: 80% of the way from the base")
    assert (
        "higher than that of step 100 at strength 1, the LoRA as it is, by 0.40 (0.40 to 0.40)"
        in advice.reason
    )


def test_it_cannot_be_told_where_the_intervals_overlap():
    advice = recommend(CELLS, samples([0.3, 0.42, 0.3, 0.4], noise=0.1))
    assert advice.step is None and advice.strength is None and advice.best == (50, 1.0)
    assert (100, 1.0) in advice.ties
    assert advice.reason.startswith("It cannot tell: step 50 at strength 1 has the highest score")


def test_others_that_are_as_good_are_named():
    advice = recommend(CELLS, samples([0.3, 0.8, 0.799, 0.1], noise=0.01))
    assert advice.step == 50 and advice.ties == ((50, 1.0), (100, 0.8))
    assert advice.reason.endswith("Not measurably worse: 100 at 0.8.")


def test_the_lora_as_it_is_may_be_the_best():
    clear = recommend(CELLS, samples([0.3, 0.4, 0.5, 0.9]))
    assert (clear.step, clear.strength) == (100, 1.0)
    assert "measurably better than all others" in clear.reason
    assert "alike (25% of the base's variety)" in clear.reason
    equal = recommend(CELLS, samples([0.3, 0.4, 0.899, 0.9], noise=0.01))
    assert equal.step == 100 and "nothing is better" in equal.reason


def test_an_encoder_that_sees_nothing_and_a_lora_that_learned_nothing_are_told():
    blind = recommend(CELLS, samples([0.3, 0.8, 0.5, 0.4], ceiling=0.2))
    assert blind.step is None and "the encoder does not see what was learned" in blind.reason
    idle = recommend(CELLS, samples([0.0, 0.0, 0.0, 0.0], noise=0.0))
    assert idle.step is None and "Train longer" in idle.reason


def test_the_table_has_every_measure_of_every_cell():
    rows = table(samples([0.3, 0.8, 0.5, 0.4]))
    assert len(rows) == 5 and list(rows[0]) == ["likeness", "variety", "score"]
    assert rows[2]["score"].mean == 0.8 and rows[2]["likeness"].low <= rows[2]["likeness"].mean
