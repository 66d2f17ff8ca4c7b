import numpy as np
import pytest

from limner.judging.measures import Features, measured


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def features(*, seeds: int = 4, plain: int = 3, texts: bool = True) -> Features:
    """Three cells: the base, a LoRA that learned, and one that repeats a training image whatever is asked."""
    generator = np.random.default_rng(0)
    target, prompts = np.array([1.0, *[0] * 15]), 3
    training = unit(target + 0.15 * generator.normal(size=(6, 16)))
    noise = 0.1 * generator.normal(size=(prompts, seeds, 16))
    content = np.zeros((prompts, 1, 16))
    content[range(prompts), 0, 1 + np.arange(prompts)] = 1.0
    base = unit(content + noise)
    learned = unit(content + 1.5 * target + noise)
    stuck = np.broadcast_to(training[0], base.shape)
    outside = unit(generator.normal(size=(plain, seeds, 16)))
    fits = unit(content[:, 0])
    trigger = np.stack([base, learned, stuck])
    return Features(
        trigger=trigger,
        plain=np.stack([outside, outside, np.broadcast_to(training[0], outside.shape)]),
        training=training,
        texts=np.einsum("cpsd,td->cpst", trigger, fits) if texts else None,
    )


def test_each_measure_sees_what_it_is_for():
    samples = measured(features())
    means = {name: values[0] for name, values in samples.means.items()}
    base, learned, stuck = range(3)
    assert means["likeness"][base] < means["likeness"][learned] < means["likeness"][stuck]
    assert means["prompt"][base] > means["prompt"][learned] > means["prompt"][stuck]
    assert abs(means["leak"][[base, learned]]).max() < 1e-9
    assert means["leak"][stuck] > 0.5
    assert means["variety"][stuck] < 1e-9 < 1e-3 < means["variety"][learned]
    assert samples.tells_apart and samples.scores[0].argmax() == learned
    assert samples.scores[0, base] == 0 and samples.scores[0, stuck] < 0.1


def test_shares_lie_between_ends_that_mean_something():
    samples = measured(features())
    assert samples.shares["likeness"][0, 0] == 0 and samples.shares["prompt"][0, 0] == pytest.approx(1)
    assert all(values.min() >= 0 and values.max() <= 1 for values in samples.shares.values())
    assert 0.7 < samples.ceiling < 1


def test_likeness_is_the_mean_over_the_training_images():
    given = features()
    expected = (given.trigger[1].reshape(-1, 16) @ given.training.T).mean()
    assert measured(given).means["likeness"][0, 1] == pytest.approx(expected)


def test_what_is_not_known_is_not_there():
    assert list(measured(features(seeds=1)).means) == ["likeness", "prompt", "leak"]
    assert "variety" not in measured(features(seeds=1)).means
    assert list(measured(features(plain=0)).means) == ["likeness", "prompt", "variety"]
    assert list(measured(features(texts=False)).means) == ["likeness", "leak", "variety"]


def test_a_prompt_that_cannot_be_read_does_not_count():
    whole, partly = features(), features()
    partly.texts[..., 2] = np.nan
    alone = features()
    alone.texts[..., 1:] = np.nan
    first, second = measured(whole).means["prompt"], measured(partly).means["prompt"]
    own = whole.texts[1][[0, 1], :, [0, 1]].mean()
    assert second[0, 1] == pytest.approx(own) != first[0, 1]
    assert np.isnan(measured(alone).means["prompt"]).any()  # draws without that one prompt
    alone.texts[:] = np.nan
    assert "prompt" not in measured(alone).means


def test_one_training_image_is_wholly_like_itself():
    given = features()
    one = Features(given.trigger, given.plain, given.training[:1], given.texts)
    assert measured(one).ceiling == 1


def test_the_same_features_give_the_same_intervals():
    assert np.array_equal(measured(features(), 1).scores, measured(features(), 1).scores)
    assert not np.array_equal(measured(features(), 1).scores, measured(features(), 2).scores)
