import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from drafts import draft_of
from limner import files
from limner.errors import DiskFull
from messages import raises


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_230_000, "1.2 MB"), (4e12, "4.0 TB")]
)
def test_human(size, text):
    assert files.human(size) == text


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "sub" / "plan.json"
    files.write_text(path, "old")

    def torn(draft: Path) -> None:
        draft.write_text("half")
        assert path.read_text() == "old"
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        files.atomic_write(path, torn)
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["plan.json"]


def test_json_and_text_round_trip_in_utf8(tmp_path):
    files.write_json(tmp_path / "a.json", {"motif": "œuf à la coque"})
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"motif": "œuf à la coque"}
    assert "œuf" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path, code):
    path = tmp_path / "x"
    files.write_text(path, "old")

    def full(draft: Path) -> None:
        raise OSError(code, "no room", str(draft))

    with raises(DiskFull):
        files.atomic_write(path, full)
    assert path.read_text() == "old"


def test_other_errors_of_the_disk_are_not_hidden(tmp_path):
    def denied(draft: Path) -> None:
        raise PermissionError(errno.EACCES, "denied", str(draft))

    with pytest.raises(PermissionError):
        files.atomic_write(tmp_path / "x", denied)


def test_require_space(tmp_path):
    files.require_space(tmp_path / "not" / "there" / "yet", 1, "the cache")
    with pytest.raises(DiskFull, match=r"the cache needs 1000\.0 TB and .* are free"):
        files.require_space(tmp_path, 10**15, "the cache")


def test_append_line(tmp_path):
    for text in ("one", "two"):
        files.append_line(tmp_path / "runs" / "metrics.jsonl", text)
    assert (tmp_path / "runs" / "metrics.jsonl").read_text() == "one\ntwo\n"


def test_a_full_disk_while_appending_is_named(tmp_path, monkeypatch):
    def full(handle: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(files.os, "write", full)
    with raises(DiskFull):
        files.append_line(tmp_path / "metrics.jsonl", "one")


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "x").write_bytes(b"limner")
    assert files.sha256_file(tmp_path / "x") == hashlib.sha256(b"limner").hexdigest()


def test_one_place_for_all_that_is_kept(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "there")
    monkeypatch.delenv("LIMNER_CACHE", raising=False)
    assert files.user_cache("profiles") == Path("there/limner/profiles")
    assert files.shared_cache() == Path("there/limner/cache")
    monkeypatch.setenv("LIMNER_CACHE", "here")
    assert files.shared_cache() == Path("here")


def left(path: Path, **whose) -> Path:
    draft = draft_of(path, **whose)
    draft.parent.mkdir(parents=True)
    draft.write_bytes(b"half")
    (draft.parent / ".tmpesbJdw").write_bytes(b"a library's own draft")
    return draft.parent


def test_drafts_of_the_dead_go_and_those_of_the_living_stay(tmp_path):
    path = tmp_path / "lora.safetensors"
    dead = left(path)
    living = left(path, pid=os.getpid())
    elsewhere = left(path, host="0" * 8)
    reused = left(tmp_path / "b", pid=os.getppid())
    os.utime(reused, (1, 1))  # made before the process began that has the number now
    stranger = tmp_path / ".x.part"
    stranger.mkdir()
    assert set(files.dead_drafts(tmp_path)) == {dead, reused}
    files.write_text(path, "whole")
    assert not dead.exists() and not reused.exists()
    assert living.exists() and elsewhere.exists() and stranger.exists()
    os.utime(elsewhere, (1, 1))
    files.remove_dead_drafts(tmp_path)
    assert not elsewhere.exists() and living.exists()
    files.remove_dead_drafts(tmp_path, even_living=True)
    assert not living.exists() and stranger.exists() and path.read_text() == "whole"
    assert files.dead_drafts(tmp_path / "not there") == []


def test_a_name_as_long_as_names_may_be(tmp_path):
    path = tmp_path / ("x" * 255)
    files.write_text(path, "whole")
    assert path.read_text() == "whole"


def test_a_folder_is_there_when_it_is_whole(tmp_path):
    path = tmp_path / "model"
    with pytest.raises(ZeroDivisionError), files.atomic_folder(path) as draft:
        files.write_text(draft / "part" / "config.json", "{}")
        assert not path.exists() and draft.name == "model"
        1 / 0  # noqa: B018
    assert list(tmp_path.iterdir()) == []
    for text in ("old", "new"):
        with files.atomic_folder(path) as draft:
            files.write_text(draft / text, text)
    assert [each.name for each in path.iterdir()] == ["new"], "replaced, not mixed"
    with files.atomic_folder(tmp_path / "file") as draft:
        draft.write_text("one file")
    assert (tmp_path / "file").read_text() == "one file"


KILLED = """
import os, signal, sys
from pathlib import Path
from limner import files
def die(draft):
    draft.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
files.atomic_write(Path(sys.argv[1]), die)
"""


def test_what_a_killed_process_half_wrote_is_cleared_at_the_next_writing(tmp_path):
    path = tmp_path / "plan.json"
    files.write_text(path, "old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 2
    files._remove_once.cache_clear()  # as a new process begins
    files.write_text(path, "new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_others_read_meanwhile_goes_with_its_process(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    home = tmp_path / "limner" / "scratch"
    left = draft_of(home / "folder")
    left.mkdir(parents=True)
    (left / "half").write_text("x")
    files._remove_once.cache_clear()
    with files.scratch_folder() as folder:
        assert folder.is_dir() and list(folder.iterdir()) == [] and list(home.iterdir()) == [folder.parent]
    assert list(home.iterdir()) == []


def test_a_folder_that_is_removed_is_gone_before_its_files_are(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("x")
    true, seen = files.shutil.rmtree, []

    def rmtree(path, **options):
        seen.append(((tmp_path / "a").exists(), [item.name for item in path.rglob("x")]))
        true(path, **options)

    monkeypatch.setattr(files.shutil, "rmtree", rmtree)
    files.remove_folder(tmp_path / "a")
    assert seen == [(False, ["x"])] and list(tmp_path.iterdir()) == []


def test_a_ring_of_links_has_a_path(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert files.real_path(tmp_path / "a" / "x").name == "x"
    (tmp_path / "c").symlink_to(tmp_path / "d")
    assert files.real_path(tmp_path / "c") == tmp_path.resolve() / "d"


def test_a_new_file_takes_the_first_free_name_and_never_that_of_another(tmp_path):
    paths = [
        files.write_new(tmp_path / "sub", "a.b", ".txt", lambda draft: draft.write_text("x")) for _ in "123"
    ]
    assert [path.name for path in paths] == ["a.b.txt", "a.b-2.txt", "a.b-3.txt"]
    assert sorted(path.name for path in paths[0].parent.iterdir()) == sorted(path.name for path in paths)


def test_a_name_that_somebody_takes_meanwhile_is_left_to_them(tmp_path, monkeypatch):
    """Two that look at the same moment see the name free; only one gets it."""
    monkeypatch.setattr(Path, "exists", lambda self: False)
    (tmp_path / "a.txt").write_text("theirs")
    path = files.write_new(tmp_path, "a", ".txt", lambda draft: draft.write_text("ours"))
    assert path.name == "a-2.txt"
    assert (tmp_path / "a.txt").read_text() == "theirs"


def test_a_disk_without_hard_links_takes_new_files(tmp_path, monkeypatch):
    def refused(self, target):
        raise OSError(errno.EPERM, "no hard links", str(self))

    monkeypatch.setattr(Path, "hardlink_to", refused)
    paths = [files.write_new(tmp_path, "a", ".txt", lambda draft: draft.write_text("x")) for _ in "12"]
    assert [path.name for path in paths] == ["a.txt", "a-2.txt"]
    assert all(path.read_text() == "x" for path in paths) and len(list(tmp_path.iterdir())) == 2


def test_a_new_file_is_whole_or_not_there(tmp_path):
    def torn(draft: Path) -> None:
        draft.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_new(tmp_path, "a", ".txt", torn)
    assert not list(tmp_path.iterdir())


def test_a_new_folder_gets_the_first_name_that_is_free_and_appears_filled(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "file").touch()

    def fill(draft):
        (draft / "file").write_text("new")
        (tmp_path / "2").mkdir()  # somebody else is faster
        (tmp_path / "2" / "file").touch()

    path = files.new_folder(tmp_path, map(str, range(1, 9)), fill)
    assert path == tmp_path / "3" and (path / "file").read_text() == "new"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["1", "2", "3"]


def test_of_several_that_want_the_same_name_one_gets_it(tmp_path, monkeypatch):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "file").touch()
    answers = iter([False])  # it appears between the look and the renaming
    exists = Path.exists
    monkeypatch.setattr(
        Path, "exists", lambda path: next(answers, True) if path == tmp_path / "1" else exists(path)
    )
    path = files.new_folder(tmp_path, ["1", "2"], lambda draft: (draft / "file").touch())
    assert path == tmp_path / "2"


def test_a_draft_that_is_finished_meanwhile_is_not_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / f".limner-{files._host()}-{os.getpid()}-abcdefgh.part"
    monkeypatch.setattr(files, "_drafts_in", lambda _: [gone])
    assert files.DRAFT.fullmatch(gone.name) and files.dead_drafts(tmp_path) == []


def test_a_path_of_an_unknown_user_stays_as_it_is():
    assert files.user_path("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")
    assert files.user_path("~") == Path.home()
