import json

import pytest

from limner import doctor
from limner.doctor import Diagnosis


def test_demo_hands_its_object_on(limner, verb):
    found = {
        "loras": [{"path": "demo/style.safetensors", "seconds": 61.2, "before": 0.05, "after": 0.9}],
        "sheet": "demo/sheet.png",
        "report": "demo/report.html",
    }
    verb("demo", demo=lambda out, reporter: found)
    assert json.loads(limner("demo", "--json").out) == found
    assert "demo/style.safetensors: 61 s, score 5% before, 90% after" in limner("demo").out


@pytest.mark.parametrize(("ok", "status"), [(True, 0), (False, 1)])
def test_doctor_exits_1_when_something_needed_is_missing(limner, verb, ok, status):
    findings = [Diagnosis("torch", ok, "2.13", "" if ok else "pip install torch")]
    verb("doctor", doctor=lambda: findings, summary=lambda findings: "Ready.", lines=doctor.lines)
    done = limner("doctor", "--json")
    assert done.status == status
    assert json.loads(done.out)["ok"] is ok
    assert ("-> pip install torch" in limner("doctor").out) is not ok
