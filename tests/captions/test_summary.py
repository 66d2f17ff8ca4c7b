import pytest

from limner.captions.summary import CaptionSettings
from limner.errors import BadUsage


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"concurrency": 0}, "--concurrency is 0; it must be 1 to 64"),
        ({"max_image_size": 9}, "--max-image-size is 9; it must be 64 to 4096"),
        ({"budget": 0.0}, "--budget is 0.0; it must be more than 0 US dollars"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(values, match):
    with pytest.raises(BadUsage, match=match):
        CaptionSettings(**values)
