import os
from pathlib import Path

import pytest

from limner.errors import BadUsage
from limner.importing.options import LARGEST, ForeignOption, command, has_variable, read


@pytest.mark.parametrize("end", ["\\", "^", "`"])
def test_a_command_is_read_in_the_shells_of_three_systems(end: str):
    script, options = command(
        f"accelerate launch --num_processes 2 train.py {end}\n --lr=1e-4 --flag {end}\n --two a b\n"
    )
    assert script == "train.py"
    assert options == [
        ForeignOption("launcher.num_processes", 2),
        ForeignOption("lr", 1e-4),
        ForeignOption("flag", True),
        ForeignOption("two", ["a", "b"]),
    ]


def test_of_several_commands_the_training_is_read():
    lines = (
        "python cache_latents.py --dit a",
        "python krea2_train_network.py --dit b",
        "# python train_c.py",
    )
    text = "\n".join(lines)
    assert command(text) == ("krea2_train_network.py", [ForeignOption("dit", "b")])


def test_tables_and_lists_are_read_by_dotted_paths(tmp_path: Path):
    path = tmp_path / "a.yaml"
    path.write_text("a:\n  b: [1, 2]\n  c:\n    - d: 1e-4\n    - d: off\n")
    assert read(path).options == (
        ForeignOption("a.b", [1, 2]),
        ForeignOption("a.c.0.d", 1e-4),
        ForeignOption("a.c.1.d", False),
    )


def test_files_that_a_configuration_names_are_read_along(tmp_path: Path):
    (tmp_path / "sets.toml").write_text("num_repeats = 3\n")
    path = tmp_path / "a.toml"
    path.write_text('dataset_config = "sets.toml"\nconcept_file_name = "gone.json"\nconfig_file = "a.toml"\n')
    found = read(path)
    assert ForeignOption("num_repeats", 3) in found.options
    assert found.absent_files == (ForeignOption("concept_file_name", "gone.json"),)


BOMB = "a0: &a0 [1, 1]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}, *a{n}]\n" for n in range(60))
"""Of 2^60 values: each list is the one before it, twice."""


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.yaml", "a: [", "is torn: line"),
        ("a.toml", "a = ", "is torn"),
        ("a.json", '{"a": }', "is torn"),
        ("a.sh", "python train.py --a 'b\n", "quotes"),
        ("a.sh", "echo nothing\n", "holds no key"),
        ("a.json", "[]", "holds no key"),
        ("a.yaml", "- " * 3000, "torn"),
        ("a.yaml", BOMB, "torn: more than 20,000 values"),
        ("a.toml", f"seed = {'9' * 5000}", "torn"),
        ("a.json", f'{{"seed": {"9" * 5000}}}', "torn"),
        ("a.yaml", f"seed: {'9' * 5000}", "torn"),
    ],
)
def test_what_is_no_configuration_is_told_in_a_line(tmp_path: Path, name: str, text: str, words: str):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(BadUsage) as info:
        read(path)
    assert words in str(info.value) and "\n" not in str(info.value)


def test_files_that_cannot_be_read_are_told(tmp_path: Path):
    with pytest.raises(BadUsage, match="cannot be read"):
        read(tmp_path / "gone.toml")
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadUsage, match="UTF-8"):
        read(tmp_path / "a.toml")
    (tmp_path / "big.json").write_bytes(b" " * (LARGEST + 1))
    with pytest.raises(BadUsage, match="no configuration has"):
        read(tmp_path / "big.json")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="only POSIX has named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "a.toml")
    with pytest.raises(BadUsage, match="is no file"):
        read(tmp_path / "a.toml")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('python train.py --path "C:\\my files\\a b"', "C:\\my files\\a b"),
        ("python train.py ^\n --path=C:\\files\\cat", "C:\\files\\cat"),
        ("python train.py `\n --path 'D:\\a\\b'", "D:\\a\\b"),
        ("set ROOT=C:\\files\npython train.py --path %ROOT%\\cat", "C:\\files\\cat"),
        ('$root = "D:\\files"\npython train.py --path "$root\\cat"', "D:\\files\\cat"),
        ("ROOT=/files\nexport PART=$ROOT/cat\npython train.py --path ${PART}", "/files/cat"),
        ("python train.py --path ${ROOT:-/files}/cat", "/files/cat"),
        ("python train.py --path a\\ b", "a b"),
    ],
)
def test_paths_of_windows_and_variables_of_shells(text: str, path: str):
    (option,) = command(text)[1]
    assert option == ForeignOption("path", path)


def test_a_variable_that_nothing_sets_is_told():
    options = command("python train.py --a $HOME/x --b 5% --c cost$ --d %USERPROFILE%")[1]
    assert [has_variable(option.value) for option in options] == [True, False, False, True]


@pytest.mark.parametrize("line", ["a=" + " ;" * 9000, "python t.py " + "${a-" * 3000, "a" * 9000])
def test_a_long_line_is_read(line: str):
    assert command(line)[1] == []
