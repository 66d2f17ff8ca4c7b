import pytest

from limner.recipe.readers import READERS, WORDS


@pytest.mark.parametrize("key", sorted(WORDS))
def test_words_of_ours_stay_as_they_are(key):
    ours = {
        "train.optimizer": ["adamw", "adamw8bit", "pagedadamw8bit", "adafactor", "prodigy", "schedulefree"],
        "train.schedule": [
            *("constant", "cosine", "linear"),
            *("cosine_with_restarts", "polynomial", "warmup_stable_decay"),
        ],
        "train.optimizer_args": [{"eps": 1e-6}],
        "train.loss": ["mse", "l1", "huber", "smooth_l1"],
        "lora.kind": ["lora", "loha", "lokr", "dora"],
        "train.time_density": ["auto", "logit-normal", "uniform", "sigmoid", "content", "style"],
        "train.prediction": ["auto", "epsilon", "v"],
        "train.method": ["lora", "full"],
        "data.crop": ["auto", "subject", "centre"],
        "slider.neutral": [("a house", "a cat")],
    }
    assert [WORDS[key](word) for word in ours[key]] == ours[key]
    assert WORDS[key](3) == 3


@pytest.mark.parametrize("spelling", sorted(READERS))
def test_a_value_of_another_kind_is_left_for_the_schema_to_refuse(spelling):
    assert READERS[spelling](3) == 3
