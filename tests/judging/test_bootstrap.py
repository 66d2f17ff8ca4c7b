import numpy as np

from limner.judging.bootstrap import REPLICATES, draws, interval, means, not_worse, pair_means


def test_the_first_row_is_the_plain_mean_and_the_intervals_hold_it():
    values = np.random.default_rng(0).normal(size=(3, 5, 4))
    count = draws(5, 4, np.random.default_rng(1))
    result = means(values, count)
    assert result.shape == (REPLICATES + 1, 3) and np.allclose(result[0], values.mean((1, 2)))
    for cell in range(3):
        item = interval(result[:, cell])
        assert item.low < item.mean < item.high


def test_an_interval_of_independent_images_holds_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        effects = generator.normal(size=(12, 1)) + generator.normal(size=(1, 10))
        item = interval(means(effects[None], draws(12, 10, generator))[:, 0])
        hits += item.low <= 0 <= item.high
    assert 50 <= hits <= 60


def test_what_all_cells_share_drops_out_of_their_difference():
    generator = np.random.default_rng(0)
    shared = 10 * generator.normal(size=(6, 4))
    values = np.stack([shared, shared + 0.1 + 0.01 * generator.normal(size=(6, 4))])
    result = means(values, draws(6, 4, generator))
    assert interval(result[:, 1] - result[:, 0]).low > 0.05  # though each alone moves by several units
    assert interval(result[:, 1]).low < interval(result[:, 0]).mean


def test_pairs_of_seeds_leave_a_seed_with_itself_out():
    values = np.zeros((1, 2, 3, 3)) + (1 - np.eye(3))
    result = pair_means(values, draws(2, 3, np.random.default_rng(0)))
    known = ~np.isnan(result[:, 0])
    assert np.allclose(result[known, 0], 1) and known[0]
    assert 0 < (~known).sum() < 400  # one seed drawn three times: 1 in 9
    lonely = pair_means(np.zeros((1, 2, 1, 1)), draws(2, 1, np.random.default_rng(0)))
    assert np.isnan(interval(lonely[:, 0]).low)


def test_the_best_of_equals_is_not_told_from_them():
    generator = np.random.default_rng(3)
    values = generator.normal(size=(3, 8, 6))
    values -= values.mean((1, 2), keepdims=True)
    values[1] += 0.01
    count = draws(8, 6, generator)
    assert not_worse(means(values, count), 1) == [0, 1, 2]
    values[1] += 2
    assert not_worse(means(values, count), 1) == [1]


def test_draws_that_say_nothing_are_left_out_of_a_comparison():
    scores = np.random.default_rng(0).normal(size=(200, 2)) + [0, 5]
    scores[7] = np.nan
    assert not_worse(scores, 1) in ([1], [0, 1])
    scores[:, 0] = scores[:, 1]
    assert not_worse(scores, 1) == [0, 1]
