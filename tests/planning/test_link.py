from forks import forked
from limner.nn import distributed
from limner.planning import link


def test_what_comes_from_the_others_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(link, "SIZE", {"cpu": 2**16, "cuda": 2**16})

    def act():
        rate = link.rate()
        assert 1e5 < rate < 1e12
        assert distributed.all_reduce_max(round(rate)) == distributed.all_reduce_min(round(rate)), (
            "the slowest"
        )

    forked(2, tmp_path / "meeting", act)
