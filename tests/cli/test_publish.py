import json
from pathlib import Path

import pytest

from limner.errors import BadHub
from limner.publishing.publish import Published


@pytest.fixture
def requests(verb):
    """The requests that reached ``limner.publishing.publish``."""
    requests = []

    def publish(request, reporter):
        requests.append(request)
        if request.repo == "ada/refused":
            raise BadHub("The hub refused ada/refused with 403: no.")
        return Published(
            url="https://hub/ada/cat", files=("README.md",), folder=None, civitai=request.civitai
        )

    def request(**keys):
        return type("Request", (), keys)()

    verb("publishing.publish", publish=publish, PublishRequest=request)
    return requests


def test_the_page_is_told(limner, requests):
    assert limner("publish", "runs/cat", "--to", "ada/cat", "--private").out == "https://hub/ada/cat\n"
    done = limner("publish", "runs/cat", "--to", "ada/cat", "--civitai", "civ", "--captions", "--json")
    assert json.loads(done.out) == {
        "url": "https://hub/ada/cat",
        "files": ["README.md"],
        "folder": None,
        "civitai": "civ",
    }
    first, second = requests
    assert (first.target, first.repo, first.private, first.captions) == (
        Path("runs/cat"),
        "ada/cat",
        True,
        False,
    )
    assert (second.civitai, second.captions, second.dry_run, second.base) == (Path("civ"), True, None, None)


def test_a_refusal_is_one_line(limner, requests):
    done = limner("publish", "runs/cat", "--to", "ada/refused")
    assert done.status == 1 and done.err == "limner: error: The hub refused ada/refused with 403: no.\n"
