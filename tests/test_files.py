import errno
import hashlib
import json
from pathlib import Path

import pytest

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
