import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import replace

import pytest

from limner.captions.caption import caption
from limner.captions.client import Patience
from limner.captions.providers import Options
from limner.captions.summary import CaptionSettings
from limner.errors import BadProvider, Stopped
from messages import raises
from scribe import KEY, Raw, Say, Status, answers, captions, serving
from small import Told
from writing import GOOD, WISH, everything_written, write

# stopping and going on -------------------------------------------------------------------------------------

PROGRAM = """
import sys
from pathlib import Path
from limner.captions.providers import Options
from limner.captions.spec import CaptionSpec
from limner.captions.caption import caption
from limner.captions.summary import CaptionSettings
from limner.reporter import Reporter
caption(Path(sys.argv[1]), CaptionSpec(trigger="sks cat"), Options(name="openai", url=sys.argv[2], model="m"),
        CaptionSettings(concurrency=1, consistency=False, overwrite=bool(sys.argv[3:])), Reporter())
"""


def kill_when(pets, scribe, asked, written, *more):
    """Kill the program while it waits for an answer: the one before that is written meanwhile."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(pets), f"{scribe.url}/v1", *more])
    end = time.monotonic() + 600
    while len(scribe.requests) < asked or not written():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(scribe.requests) == asked


def fresh(pets):
    return [path for path in pets.glob("*.txt") if "evening" in path.read_text()]


def test_killed_and_run_again_it_goes_on_and_nothing_is_asked_twice(pets):
    def script(asked, number):
        return Say(captions(GOOD).text, pause=3600 if number == 2 else 0)

    with serving(script) as scribe:
        kill_when(pets, scribe, 3, lambda: len(list(pets.glob("*.txt"))) == 2)
        scribe.script = answers(captions(GOOD))
        done = write(pets, scribe, settings=CaptionSettings(concurrency=1, consistency=False))
    assert (done.existing_captions, done.new_captions, len(scribe.requests)) == (2, 2, 5)


@pytest.mark.slow
def test_an_overwriting_that_was_killed_goes_on_too(pets):
    with serving(answers(captions(GOOD))) as scribe:
        write(pets, scribe)
        new = captions(GOOD.replace("morning", "evening"))

        scribe.script = lambda asked, number: replace(new, pause=3600 if number == 6 else 0)
        kill_when(pets, scribe, 7, lambda: len(fresh(pets)) == 2, "overwrite")
        scribe.script = answers(new)
        asked = len(scribe.requests)
        overwrite = CaptionSettings(concurrency=1, consistency=False, overwrite=True)
        going_on = Options(name="openai", url=f"{scribe.url}/v1", model="m")
        done = caption(pets, WISH, going_on, overwrite, Told(), Patience(first=0.01))
    assert (done.existing_captions, done.new_captions, len(scribe.requests) - asked) == (2, 2, 2)
    assert len(fresh(pets)) == 4
    assert '"job": {' not in (pets / "captions.jsonl").read_text()


def test_an_answer_that_was_not_put_in_place_is_not_paid_twice(pets):
    with serving(answers(captions(GOOD))) as scribe:
        write(pets, scribe)
        record = (pets / "captions.jsonl").read_text().replace('"written": true', '"written": false')
        (pets / "captions.jsonl").write_text(record + '{"file": "torn')
        (pets / "a.txt").unlink()
        done = write(pets, scribe)
    assert (done.recovered_captions, done.existing_captions, len(scribe.requests)) == (1, 4, 4)
    assert (pets / "a.txt").read_text() == GOOD + "\n"


@pytest.fixture
def listening():
    """SIGINT as a terminal's programs have it: those that a script starts in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening")
def test_ctrl_c_saves_and_says_how_to_go_on(pets):
    with serving(lambda asked, number: Say(captions(GOOD).text, pause=3600 if number else 0)) as scribe:

        def interrupt():
            while len(scribe.requests) < 2 or len(list(pets.glob("*.txt"))) < 1:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(Stopped, match="[01] captions are saved. Run the same command"):
            write(pets, scribe, settings=CaptionSettings(concurrency=1, consistency=False))
    assert len(scribe.requests) == 2, "it waited until the server was given up, and asked again"
    assert len(list(pets.glob("*.txt"))) == 1


# keys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["claude", "openai"])
@pytest.mark.parametrize(
    "step",
    [
        captions(GOOD),
        Status(401, f"bad key {KEY}"),
        Status(400, f"bad key {KEY}"),
        Status(500, KEY),
        Raw(KEY.encode()),
    ],
)
def test_keys_reach_no_file_no_log_no_error(pets, name, step, caplog, capfd, monkeypatch):
    caplog.set_level(logging.DEBUG)
    variable = {"claude": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}[name]
    monkeypatch.setenv(variable, KEY)
    monkeypatch.setenv("ANTHROPIC_BASE_URL" if name == "claude" else "OPENAI_BASE_URL", "")
    reporter, told = Told(), ""
    with serving(answers(step)) as scribe:
        url = scribe.url if name == "claude" else f"{scribe.url}/v1"
        monkeypatch.setenv("ANTHROPIC_BASE_URL" if name == "claude" else "OPENAI_BASE_URL", url)
        try:
            plain = Options(name=name, model="m", timeout=60.0)
            done = caption(
                pets, WISH, plain, CaptionSettings(consistency=False), reporter, Patience(tries=2, first=0.01)
            )
            told = repr(done)
        except BadProvider:
            told = traceback.format_exc()
    assert any(KEY in json.dumps(asked.headers) for asked in scribe.requests)
    everywhere = [everything_written(pets), reporter.text, told, caplog.text, *capfd.readouterr()]
    assert not any(KEY in place or KEY[3:20] in place for place in everywhere)


def test_a_key_goes_only_where_it_belongs(pets, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with serving(answers(captions(GOOD))) as scribe:
        write(pets, scribe, key_env=None, model="m")
        (pets / "a.txt").unlink()
        write(pets, scribe, name="claude", key_env=None, model="m")
        (pets / "a.txt").unlink()
        write(pets, scribe, name="vllm", url=f"{scribe.url}/v1", key_env=None, model="m")
    assert len(scribe.requests) == 6
    assert not any(KEY in json.dumps(asked.headers) for asked in scribe.requests)


@pytest.mark.parametrize(
    ("name", "variable"), [("claude", "ANTHROPIC_API_KEY"), ("openai", "OPENAI_API_KEY")]
)
def test_a_missing_key_is_told_with_the_variable(pets, name, variable):
    with pytest.raises(BadProvider, match=f"no key for .*export {variable}="):
        caption(pets, WISH, Options(name=name), CaptionSettings(), Told())
    with raises(BadProvider):
        caption(pets, WISH, Options(name=name, key_env="NOT_THERE"), CaptionSettings(), Told())


def test_a_password_in_the_address_is_not_told(pets):
    reporter = Told()
    with serving(answers(captions(GOOD))) as scribe:
        url = scribe.url.replace("//", f"//me:{KEY}@") + "/v1"
        write(pets, scribe, url=url, model="m", reporter=reporter)
    assert KEY not in reporter.text + everything_written(pets)
