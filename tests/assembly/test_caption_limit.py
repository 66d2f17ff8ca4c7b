import pytest
from transformers import PreTrainedTokenizerBase

from limner.assembly.base import family_at, locate_base
from limner.assembly.caption_limit import cut_captions, token_counter
from limner.checking.check import base_of
from limner.errors import BadBase
from limner.models.family import Objective
from limner.runs import cache
from small import Told, wish
from tiny import save_flux, save_qwen_image, save_sd3, save_sdxl, save_z_image

SAVES = {"flux": save_flux, "sd3": save_sd3, "sdxl": save_sdxl, "qwen": save_qwen_image, "z": save_z_image}


@pytest.fixture(scope="module")
def counters(tmp_path_factory):
    """Counter, source, family of a tiny base of each kind."""
    result = {}
    for name, save in SAVES.items():
        source = locate_base(str(save(tmp_path_factory.mktemp("bases") / name)))
        family = family_at(source)
        units = family.bound(source, Objective())
        result[name] = token_counter(family, source, units), source, family
    return result


def text_length(source, family) -> int:
    return int(family.constants(source, Objective()).get("text_length", 0))


@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_where_t5_reads_on_clip_cuts_nothing(counters, name):
    counter, source, family = counters[name]
    limit = text_length(source, family)
    assert counter("a cat")[1] == max(77, limit)
    count = counter("a cat " * 40)[0]
    assert count > 77 or limit <= 77


def test_clip_alone_reads_77(counters):
    counter, _, _ = counters["sdxl"]
    assert counter("a" * 300)[1] == 77 and counter("a" * 300)[0] > 77 >= counter("a cat")[0]


@pytest.mark.parametrize("name", ["qwen", "z"])
def test_the_chat_around_a_caption_counts(counters, name):
    counter, source, family = counters[name]
    short, limit = counter("a")
    longer, same = counter("a" + " a" * 9)
    assert limit == same >= text_length(source, family) > 0
    assert short > 1 and longer > short


@pytest.mark.parametrize("name", list(SAVES))
def test_what_is_said_to_be_read_is_what_the_units_keep(counters, name, monkeypatch):
    """Counted against the base itself: a caption of just the limit changes nothing when it is cut."""
    counter, source, family = counters[name]
    words = "a " * 600
    count, limit = counter(words)
    assert count > limit
    lengths: list[int] = []
    call = PreTrainedTokenizerBase.__call__

    def watched(self, *texts, **options):
        out = call(self, *texts, **options)
        if options.get("max_length"):
            lengths.append(max(len(row) for row in out.input_ids))
        return out

    monkeypatch.setattr(PreTrainedTokenizerBase, "__call__", watched)
    counter(words)
    assert max(lengths) == limit


def test_a_line_tells_how_many_are_cut():
    def counter(text: str) -> tuple[int, int]:
        return len(text), 5

    assert cut_captions(counter, ["abc", "abcde"]) == []
    assert cut_captions(counter, ["abc", "abcdefg", "abcdef", "abcdefg"]) == [
        "2 of 3 captions have more than the 5 tokens that are read (the longest has 7); the rest is not "
        "read. Put what matters first, or shorten them."
    ]


def test_check_and_cache_count_alike_and_a_full_cache_says_it_again(photos, tmp_path):
    base_folder = save_sdxl(tmp_path / "base")
    (photos / "2.txt").write_text("a" * 200)
    recipe = wish(base_folder, photos, data={"cache": tmp_path / "cache", "trigger": "zxq"})
    base = base_of(recipe)
    assert base.tokens is not None
    count, limit = base.tokens("zxq, " + "a" * 200)
    for _ in range(2):
        told = Told()
        cache(recipe, tmp_path / "run", told)
        assert (
            f"1 of 7 captions have more than the {limit} tokens that are read (the longest has {count});"
            in (told.text)
        )


def test_a_base_without_its_tokenizer_is_told(tmp_path):
    folder = save_sdxl(tmp_path / "bare")
    source = locate_base(str(folder))
    for file in (folder / "tokenizer").iterdir():
        file.unlink()
    family = family_at(source)
    with pytest.raises(BadBase):
        token_counter(family, source, family.bound(source, Objective()))
