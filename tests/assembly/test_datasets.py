import json
import shutil
from collections import Counter

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from limner.assembly import datasets
from limner.assembly.base import family_at
from limner.assembly.datasets import cut_captions, repeats_of, set_names, shares_of, token_counter
from limner.assembly.resolve import resolve
from limner.checking.check import base_of
from limner.data.views import View
from limner.errors import BadBase, BadData
from limner.files import user_cache
from limner.generation.class_images import with_prior
from limner.lora.location import locate_base
from limner.models.family import Objective
from limner.recipe.schema import Data, DataSet, Recipe
from limner.recipe.toml import change
from limner.report.report import write_report
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.runs import cache, train
from limner.training import checkpoint
from limner.training.cache import fill_cache
from limner.training.model import TrainableModel
from limner.training.samples import prompts_of
from messages import raises
from small import Told, wish
from tiny import save_flux, save_qwen_image, save_sd3, save_sdxl, save_z_image


@pytest.fixture
def folders(photos, tmp_path):
    """Two folders: four of six images, and the other two."""
    other = tmp_path / "others"
    other.mkdir()
    for number in (4, 5):
        for suffix in (".png", ".txt"):
            (photos / f"{number}{suffix}").rename(other / f"{number}{suffix}")
    return photos, other


def recipe(base, folders, *changes, **data):
    sets = [
        {"images": folder, "trigger": trigger, **more}
        for folder, trigger, more in zip(folders, ("zorb", "blik"), (*changes, {}, {}), strict=False)
    ]
    return Recipe(
        base=str(base),
        data={"sets": sets, **data},
        lora={"rank": 3},
        train={"steps": 4, "batch": 2, "learning_rate": 1e-2, "save_every": 2},
        sample={"every": -1},
    )


def test_each_set_has_its_trigger_flip_and_share_of_the_draws(tiny_base, folders):
    resolved = resolve(recipe(tiny_base, folders, {"share": 0.5, "flip": True}, {"share": 0.5}))
    captions = {(view.example.dataset, view.caption.partition(",")[0]) for view in resolved.own}
    assert captions == {(0, "zorb"), (1, "blik")}
    assert {(view.example.dataset, view.flip) for view in resolved.own} == {(0, False), (0, True), (1, False)}
    order = resolved.order
    drawn = [
        resolved.own[order.draw(position).view_index].example.dataset
        for position in range(order.images_per_epoch)
    ]
    assert Counter(drawn) == {0: 4, 1: 4} and shares_of(resolved.own, 2) == [0.5, 0.5]
    assert "Share of the draws: photos 50%, others 50%." in resolved.remarks
    assert [line for line in resolved.remarks if line.startswith("others: Read: 2 images")]
    assert {view.example.dataset for view in resolved.held_out} == {0, 1}, "a few of each are measured"


def test_repeats_multiply_and_shares_become_whole_numbers():
    assert repeats_of([DataSet(repeats=3), DataSet()], [4, 9]) == (3, 1)
    assert repeats_of([DataSet(share=0.75), DataSet(share=0.25)], [10, 10]) == (3, 1)
    assert repeats_of([DataSet(share=0.3), DataSet(share=0.7)], [7, 13]) == (4, 5)
    names = set_names(Data(sets=[{"images": "a/x"}, {"images": "b/x"}, {"images": "b/y"}]))
    assert names == ("a/x", "b/x", "y")


def test_images_are_held_out_set_by_set_and_only_those_are_measured(tiny_base, folders):
    resolved = resolve(recipe(tiny_base, folders, {"validation_count": 1}))
    assert resolved.truly_held_out and [view.example.dataset for view in resolved.held_out] == [0]
    both = resolve(recipe(tiny_base, folders, validation_count=1))
    assert Counter(view.example.dataset for view in both.held_out) == {0: 1, 1: 1}
    with raises(BadData):
        resolve(recipe(tiny_base, (folders[0], folders[1] / "none")))


def test_a_loss_weight_scales_the_loss_of_its_set_alone(tiny_base, folders):
    def losses(wish):
        resolved = resolve(wish)
        model = TrainableModel(resolved, fill_cache(resolved, Reporter())[0])
        return [
            (resolved.own[draw.view_index].example.dataset, next(model._losses(0, [draw])).item())
            for draw in (resolved.order.draw(position) for position in range(6))
        ]

    plain = losses(recipe(tiny_base, folders))
    for (number, loss), (_, heavy) in zip(
        plain, losses(recipe(tiny_base, folders, {}, {"weight": 3.0})), strict=True
    ):
        assert heavy == pytest.approx(loss * (3 if number else 1), rel=1e-6)


def test_the_teacher_hears_each_sets_captions_without_its_trigger(tiny_base, folders, tmp_path):
    wish = recipe(tiny_base, folders, {"class_word": "cat"})
    taught = with_prior(
        resolve(change(wish, {"prior.kind": "teacher", "prior.class_word": "dog"})),
        RunDir(tmp_path / "run"),
        Reporter(),
    )
    new: tuple[View, ...] = taught.views[len(taught.own) :]
    assert {(view.example.dataset, view.caption.partition(",")[0]) for view in new} == {
        (0, "cat"),
        (1, "dog"),
    }


def test_default_samples_show_every_set(tiny_base, folders):
    texts = prompts_of(resolve(change(recipe(tiny_base, folders), {"sample.every": 0})))
    assert [text.partition(",")[0] for text in texts] == ["zorb", "blik", "zorb", "blik"]


def test_a_run_of_two_sets_resumed_is_the_whole_run_and_its_report_has_them(tiny_base, folders, tmp_path):
    wish = recipe(tiny_base, folders, {"repeats": 2})
    train(wish, tmp_path / "whole", Reporter())
    half = RunDir(shutil.copytree(tmp_path / "whole", tmp_path / "half"))
    half.checkpoint_path(4).unlink()
    half.lora_path.unlink()
    train(wish, half.path, Reporter())
    states = [
        checkpoint.load(RunDir(run).checkpoint_path(4))[0]["weights"]
        for run in (half.path, tmp_path / "whole")
    ]
    assert all(
        torch.equal(value, states[1][model][name])
        for model, part in states[0].items()
        for name, value in part.items()
    )
    data = json.loads(half.data_path.read_text())
    assert [(entry["name"], entry["images"], entry["share"]) for entry in data["sets"]] == [
        ("photos", 4, 0.8),
        ("others", 2, 0.2),
    ]
    page = write_report(half).read_text()
    assert "Sets (2)" in page and "blik" in page and "80%" in page


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

    assert cut_captions(lambda: counter, []) == cut_captions(lambda: counter, ["abc", "abcde"]) == []
    assert cut_captions(lambda: counter, ["abc", "abcdefg", "abcdef", "abcdefg"]) == [
        "2 of 3 captions have more than the 5 tokens that are read (the longest has 7); the rest is not "
        "read. Put what matters first, or shorten them."
    ]


def test_what_was_counted_of_many_captions_is_kept_for_just_these_and_these_tokenizers(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(datasets, "MIN_CAPTIONS", 3)
    monkeypatch.setattr(datasets, "MAX_COUNTS", 2)
    runs: list[str] = []

    def cut(captions: list[str], tokenizers: str) -> list[str]:
        return cut_captions(lambda: lambda text: runs.append(text) or (len(text), 5), captions, tokenizers)

    texts = ["abc", "abcdefg", "abcdef"]
    line = cut(texts, "one")
    assert len(line) == 1 and runs == texts
    assert cut(texts, "one") == line and runs == texts, "a full cache says it again without a tokenizer"
    assert cut([*texts, "x"], "one") and len(runs) == 7
    assert cut(texts, "other") == line and len(runs) == 10
    assert cut(texts, "one") == line and len(runs) == 13, "what was counted first went"
    path = user_cache("captions") / "cut.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(dict.fromkeys(kept, ["2", 5, 7])))
    assert cut(texts, "one") == line and len(runs) == 16, "a damaged count is none"
    assert cut(texts[:2], "one") and cut(texts, "") == line and len(runs) == 21, "few are counted anew"


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
