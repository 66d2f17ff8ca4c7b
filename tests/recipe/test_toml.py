import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limner.errors import BadRecipe
from limner.recipe import Data, Lora, Recipe, Sample, Train
from limner.recipe.aliases import keys
from limner.recipe.toml import (
    PATHS,
    change,
    commented,
    dump,
    example,
    get,
    json_schema,
    load,
    parse,
    placed,
    prompts,
    with_trigger,
    write,
)
from messages import raises
from recipes import override

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
recipes = st.builds(
    Recipe,
    base=words.filter(bool),
    seed=st.integers(0, 2**63 - 1),
    data=st.builds(
        Data,
        images=words.filter(lambda text: "\x00" not in text).map(Path),
        trigger=words,
        caption_dropout=st.floats(0, 1),
        flip=st.booleans(),
        resolution=st.none()
        | st.integers(16, 8192)
        | st.lists(st.integers(16, 8192), min_size=1, max_size=3, unique=True).map(tuple),
    ),
    lora=st.builds(Lora, targets=words.filter(bool) | st.lists(words.filter(bool), min_size=1).map(tuple)),
    train=st.builds(
        Train,
        learning_rate=st.floats(1e-300, 10),
        betas=st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)),
        time_shift=st.sampled_from(["auto", "none"]) | st.floats(0.1, 1e300),
    ),
    sample=st.builds(Sample, prompts=st.lists(words.filter(bool), max_size=3).map(tuple)),
)


@settings(max_examples=60)
@given(recipes)
def test_what_is_dumped_reads_back_equal(recipe):
    assert parse(dump(recipe)) == recipe
    assert parse(commented(recipe)) == recipe


@settings(max_examples=60)
@given(st.text(max_size=200) | st.binary(max_size=100).map(lambda raw: raw.decode("latin-1")))
def test_any_text_is_a_recipe_or_one_line_of_bad_recipe(text):
    try:
        parse(text)
    except BadRecipe as error:
        assert "\n" not in str(error)


PREDICTOR = {"train.method": "instant", "train.batch": 4}
"""What keys of [instant] need."""


def test_every_unset_key_has_an_example_that_can_be_uncommented():
    lines = commented(Recipe()).splitlines()
    unset = [path for path in keys(Recipe) if get(Recipe(), path) is None]
    assert len(unset) > 10
    for path in unset:
        line = f"# {path.rpartition('.')[2]} = {write(example(path))}"
        assert line in lines
    needs = {
        "lora.text_encoders": ["text_encoder"],
        "lora.kind": "lokr",
        "train.schedule": "warmup_stable_decay",
    }
    for path in unset:
        objective = {"train.objective": "distill"} if path.startswith("distill.") else {}
        if path.startswith("inversion."):
            objective = {"train.method": "inversion", "inversion.with_lora": True}
        values = PREDICTOR if path.startswith("instant.") else {**needs, **objective}
        if path == "instant.vae_side":
            values = {**PREDICTOR, "instant.encoders": ["vae"]}
        assert get(change(Recipe(), {**values, path: example(path)}), path) is not None


def test_the_commented_file_explains_and_cites():
    text = commented(Recipe(), {"lora.rank": "the moon"})
    assert "# Optimizer steps." in text
    assert "# Here: the moon\nrank = 16" in text
    assert max(map(len, text.splitlines())) <= 110


def test_paths_in_a_file_start_at_its_folder(tmp_path):
    folder = tmp_path / "runs" / "cat"
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(
        'base = "../base"\n[data]\nimages = "../../photos"\ncache = "/c"\n[sample]\nprompt_file = "p.txt"\n'
    )
    recipe = load(folder / "recipe.toml")
    assert recipe.data.images == tmp_path / "photos"
    assert recipe.data.cache == Path("/c")
    assert recipe.sample.prompt_file == folder / "p.txt"
    assert recipe.base == str(tmp_path / "runs" / "base")
    assert recipe.data.validation_images is None


def test_names_of_bases_are_no_paths(tmp_path):
    assert placed(Recipe(base="someone/model"), tmp_path).base == "someone/model"


@pytest.mark.parametrize("word", ["alpha", "sidecar"])
def test_a_word_for_where_masks_are_is_no_path(tmp_path, word):
    recipe = parse(f'[data]\nmasks = "{word}"\n', tmp_path)
    assert recipe.data.masks == word and parse(dump(recipe)) == recipe
    folder = parse(f'[data]\nmasks = "./{word}"\n', tmp_path)
    assert folder.data.masks == tmp_path / word and parse(dump(folder)) == folder


def test_paths_that_are_listed_exist():
    assert set(PATHS) <= set(keys(Recipe))


def test_every_path_of_a_recipe_starts_at_its_folder(tmp_path):
    paths = [key for key, field in keys(Recipe).items() if "Path" in str(field.annotation)]
    assert set(paths) == set(PATHS)
    for key in paths:
        values = PREDICTOR if key.startswith("instant.") else {}
        here = ["here"] if key == "instant.experts" else "here"
        value = get(placed(change(Recipe(), {**values, key: here}), tmp_path), key)
        assert value in (tmp_path / "here", (tmp_path / "here",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"lora.rank = ", "recipe.toml: Not TOML: Invalid value"),
        (b"\xff\xfe", "recipe.toml is not UTF-8 text"),
        (b"[lora]\nrank = 0\n", r"recipe.toml: lora.rank is 0; .* Try 16\."),
        (b"a = 1\na = 2", "Not TOML"),
        (b"a = " + b"[" * 5000, "Not TOML"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path, content, message):
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(BadRecipe, match=message):
        load(path)


def test_the_mark_that_windows_puts_before_a_text_is_passed_over(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_bytes("seed = 3\r\n".encode("utf-8-sig"))
    assert load(path).seed == 3


def test_a_missing_or_unreadable_file_is_named(tmp_path):
    with raises(BadRecipe):
        load(tmp_path / "absent.toml")
    with raises(BadRecipe):
        load(tmp_path)


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("train.steps=800", "train.steps", 800),
        ("train.learning_rate = 1e-3", "train.learning_rate", 1e-3),
        ("base=flux-dev", "base", "flux-dev"),
        ('base="flux-dev"', "base", "flux-dev"),
        ("data.trigger=sks cat", "data.trigger", "sks cat"),
        ("data.trigger=123", "data.trigger", "123"),
        ("data.trigger=", "data.trigger", ""),
        ("data.flip=true", "data.flip", True),
        ("data.resolution=", "data.resolution", None),
        ("data.images=a = b", "data.images", Path("a = b")),
        ('sample.prompts=["a, b", "c"]', "sample.prompts", ("a, b", "c")),
        ("data.trigger=1\ntrain = 2", "data.trigger", "1 train = 2"),
        ("data.trigger= sks cat, ", "data.trigger", "sks cat"),
        ("track.with=['wandb']", "track.with", ("wandb",)),
        ("train.time_shift=3", "train.time_shift", 3.0),
    ],
)
def test_settings_are_toml_or_bare_words(setting, path, value):
    assert get(override(Recipe(data=Data(resolution=64)), [setting]), path) == value


def test_settings_are_applied_all_at_once():
    settings = ["train.warmup=1500", "train.steps=2000"]
    assert override(Recipe(), settings) == override(Recipe(), settings[::-1])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lora.rnak=4", r"Unknown recipe key lora\.rnak\. Did you mean lora\.rank\?"),
        ("lora=4", r"Unknown recipe key lora\."),
        ("lora.rank", r"has no value\. Write it as key=value"),
        ("lora.rank=many", r'lora\.rank is "many"; it must be a whole number'),
        ("lora.rank=", r'lora\.rank is ""'),
        ("=", "Unknown recipe key "),
    ],
)
def test_settings_that_mean_nothing(setting, message):
    with pytest.raises(BadRecipe, match=message):
        override(Recipe(), [setting])


def test_a_path_that_is_not_unicode_is_refused():
    with raises(BadRecipe):
        write(Path("\udcff"))


def test_the_json_schema_knows_every_key():
    schema = json.loads(json.dumps(json_schema()))
    assert schema["title"] == "Limner recipe"
    for path in keys(Recipe):
        table, _, key = path.rpartition(".")
        properties = schema["$defs"][table.title()]["properties"] if table else schema["properties"]
        assert properties[key]["description"], path
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 1" + "0" * 5000, "Not TOML"),
        ("seed = " + "[" * 50_000, "Not TOML"),
        ('name = ".."', "the first no dot"),
        ("[lora]\ntargets = []", "lora.targets is \\[\\]; it must be .* or a list, not empty"),
        ('[data]\ncache = "a\\u0000b"', "data.cache is .*; it must be a path"),
        ('[data]\nimages = "a\\u0000b"', "data.images is .*; it must be a path"),
        ('[sample]\nprompt_file = "a\\u0000b"', "sample.prompt_file is .*; it must be a path"),
    ],
)
def test_what_no_system_takes_is_told(text, message):
    with pytest.raises(BadRecipe, match=message):
        parse(text)


def test_a_setting_that_no_parser_takes_is_told():
    for value in ("1" + "0" * 5000, "[" * 50_000):
        with raises(BadRecipe):
            override(Recipe(), [f"seed={value}"])


def test_a_huge_file_is_no_recipe(tmp_path):
    with (tmp_path / "r.toml").open("wb") as file:
        file.truncate(3 << 30)
    with raises(BadRecipe):
        load(tmp_path / "r.toml")


def test_prompts_come_first_then_those_of_the_file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a {trigger} car\n\n  a moon  \n")
    sample = Sample(prompts=("[trigger] asleep",), prompt_file=path)
    recipe = Recipe(data=Data(trigger="sks cat"), sample=sample)
    assert prompts(recipe) == ("sks cat asleep", "a sks cat car", "a moon")


def test_the_mark_that_windows_puts_before_a_text_is_no_part_of_a_prompt(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("a cat\r\na moon\r\n".encode("utf-8-sig"))
    assert prompts(Recipe(sample=Sample(prompt_file=path))) == ("a cat", "a moon")


def test_no_trigger_leaves_no_hole():
    assert with_trigger("a cat, [trigger]", "") == "a cat"
    assert with_trigger("a [trigger] cat", "") == "a cat"


def test_a_trigger_is_no_pattern():
    assert with_trigger("[trigger]", r"\1 \g<0>") == r"\1 \g<0>"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"there is no such file\. Write one prompt per line"),
        (b"\xff", "is not UTF-8"),
        (b" \n\n", "holds no prompt"),
    ],
)
def test_a_bad_prompt_file_is_named(tmp_path, content, message):
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadRecipe, match=message):
        prompts(Recipe(sample=Sample(prompt_file=path)))


def test_a_folder_is_no_prompt_file(tmp_path):
    with raises(BadRecipe):
        prompts(Recipe(sample=Sample(prompt_file=tmp_path)))


def test_comments_of_a_prompt_file_are_no_prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("# mine\na cat #1\n  ; more\n// and\n[Trigger] in {TRIGGER}\n")
    recipe = Recipe(data=Data(trigger="zxq"), sample=Sample(prompt_file=path))
    assert prompts(recipe) == ("a cat #1", "zxq in zxq")
    path.write_text("# only\n")
    with pytest.raises(BadRecipe, match="holds no prompt"):
        prompts(recipe)


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("a cat --w 64 --zz 96", "--zz is no flag of a prompt"),
        ("a cat --ci x.png", "--ci is no flag of a prompt"),
        ("a cat --w wide", "--w is 'wide'; it must be a number"),
        ("a cat --w 8", "width is 8 in .*; it must be from 16 to 8192"),
        ("--n blurry", "is no prompt, only flags"),
        ('{"prompt": "a cat"}', "is JSON. Write the prompt alone, one a line"),
    ],
)
@pytest.mark.parametrize("in_file", [True, False])
def test_what_other_trainers_write_into_prompts_is_refused(tmp_path, prompt, reason, in_file):
    path = tmp_path / "prompts.txt"
    path.write_text(f"a moon\n{prompt}\n")
    sample = Sample(prompt_file=path) if in_file else Sample(prompts=("a moon", prompt))
    with pytest.raises(BadRecipe, match=reason) as caught:
        prompts(Recipe(sample=sample))
    assert str(caught.value).startswith(f"sample.prompt_file {path}: " if in_file else "sample.prompts: ")


@pytest.mark.parametrize(
    "prompt", ["a well-lit cat - small", "a {red} cat", "a cat -- and a dog", "size 3--4"]
)
def test_dashes_and_braces_are_words(prompt):
    assert prompts(Recipe(sample=Sample(prompts=(prompt,)))) == (prompt,)


def test_sets_are_tables_that_read_back_equal_and_whose_paths_start_at_the_recipe(tmp_path):
    text = """
[data]
flip = true
trigger = "zorb"
[[data.sets]]
image_dir = "cats"
num_repeats = 3
[[data.sets]]
images = "dogs"
trigger_word = "blik"
flip = false
"""
    recipe = parse(text)
    assert parse(dump(recipe)) == parse(commented(recipe)) == recipe
    assert [(entry.trigger, entry.flip, entry.repeats) for entry in recipe.data.folders] == [
        ("zorb", True, 3),
        ("blik", False, 1),
    ]
    assert recipe.data.triggers == ("zorb", "blik")
    assert parse(text, tmp_path).data.roots == (tmp_path / "cats", tmp_path / "dogs")
    short = parse('[data]\nimages = "cats"\ntrigger = "zorb"\n').data
    assert (short.roots, short.triggers) == ((Path("cats"),), ("zorb",))


def test_a_prompt_with_the_trigger_becomes_one_for_each_set():
    sets = [{"images": "a", "trigger": "zorb"}, {"images": "b", "trigger": "blik"}]
    recipe = change(Recipe(), {"data.sets": sets, "sample.prompts": ("[trigger] on the moon", "a cat")})
    assert prompts(recipe) == ("zorb on the moon", "blik on the moon", "a cat")


def test_a_table_for_another_method_is_not_written_so_that_its_defaults_may_change():
    text = dump(Recipe(base="glyph", data={"images": "photos"}))
    assert not {"slider", "distill", "inversion", "instant"} & parse(text).model_fields_set
    assert "[train]" in text and "[slider]" not in text
    slider = {"positive": "a red car", "negative": "a blue car", "neutral": ["a car"], "guidance": 2.0}
    recipe = Recipe(base="glyph", train={"objective": "slider"}, slider=slider)
    assert "[slider]" in dump(recipe) and parse(dump(recipe)) == recipe
