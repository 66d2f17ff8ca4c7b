import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from limner.graph.leases import Lease, gate, held_keys, leases_folder

HOLD = """
import sys
from pathlib import Path
from limner.graph.leases import Lease

lease = Lease(Path(sys.argv[1]))
lease.hold(["a", "b"])
print("held", flush=True)
sys.stdin.read()
"""


def held(root: Path) -> set[str]:
    with gate(root):
        return held_keys(root)


def test_a_lease_lasts_from_hold_to_release(tmp_path):
    lease = Lease(tmp_path)
    assert not leases_folder(tmp_path).exists(), "looking creates nothing"
    lease.hold(["a", "b"])
    lease.hold(["b", "c"])
    other = Lease(tmp_path)
    other.hold(["c", "d"])
    assert held(tmp_path) == {"a", "b", "c", "d"}
    lease.release()
    assert held(tmp_path) == {"c", "d"}
    lease.release()
    lease.hold(["e"])
    assert held(tmp_path) == {"c", "d", "e"}
    lease.release()
    other.release()
    assert [path.name for path in leases_folder(tmp_path).iterdir()] in (["gate.lock"], [])


def test_a_lease_may_be_given_up_in_another_thread(tmp_path):
    lease = Lease(tmp_path)
    lease.hold(["a"])
    thread = threading.Thread(target=lease.release)
    thread.start()
    thread.join()
    assert held(tmp_path) == set()


def test_a_lease_ends_with_its_process_however_that_ends(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    assert held(tmp_path) == {"a", "b"}
    process.kill()
    process.communicate()
    assert list(leases_folder(tmp_path).glob("*.json")), "a killed process cleans nothing up"
    assert held(tmp_path) == set()
    assert not list(leases_folder(tmp_path).glob("*.json"))


def test_a_run_that_starts_sweeps_out_what_killed_ones_left(tmp_path):
    leases_folder(tmp_path).mkdir()
    dead = leases_folder(tmp_path) / "dead.json"
    dead.write_text(json.dumps({"keys": ["a"]}))
    dead.with_suffix(".lock").touch()
    lease = Lease(tmp_path)
    lease.hold(["b"])
    assert not dead.exists() and held(tmp_path) == {"b"}
    (path,) = leases_folder(tmp_path).glob("*.json")
    assert json.loads(path.read_text())["pid"] == os.getpid()
    lease.release()
