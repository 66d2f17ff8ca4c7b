import pytest

from limner.errors import BadUsage
from limner.launching.clouds import CARDS, Gpus, card_of, parse_gpus, require_cloud
from messages import raises


@pytest.mark.parametrize(
    ("text", "gpus"), [("H100", Gpus("H100")), ("H100:2", Gpus("H100", 2)), ("RTX4090:8", Gpus("RTX4090", 8))]
)
def test_gpus_are_named_as_skypilot_names_them(text, gpus):
    assert parse_gpus(text) == gpus and gpus.text == f"{gpus.name}:{gpus.count}"


@pytest.mark.parametrize("text", ["", "H100:0", "H100:x", ":2", "H100:200", "X9"])
def test_what_is_no_gpu_is_told(text):
    with raises(BadUsage):
        parse_gpus(text)


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("A100", "A100 40GB"),
        ("A100-80GB", "A100 SXM4 80GB"),
        ("RTX4090", "RTX 4090"),
        ("RTX3090", "RTX 3090"),
        ("RTXA6000", "RTX A6000"),
        ("L40S", "L40S"),
        ("L4", "L4"),
        ("T4", "T4"),
        ("A10G", "A10G"),
        ("H200-SXM", "H200"),
        ("B200", "B200"),
    ],
)
def test_the_cards_of_the_catalogue_are_known(name, card):
    found = card_of(name)
    assert found and found.name == card


def test_each_translation_is_of_a_card_that_is_there():
    assert all(card_of(name) for name in CARDS) and card_of("Gaudi HL-205") is None


@pytest.mark.parametrize(("cloud", "bucket"), [("moon", False), ("runpod", True)])
def test_clouds_that_cannot_be_are_told(cloud, bucket):
    with raises(BadUsage):
        require_cloud(cloud, bucket=bucket)
    require_cloud("runpod", bucket=False)
    require_cloud("AWS", bucket=True)


def test_a_cloud_without_spot_machines_is_refused_one():
    require_cloud("lambda", bucket=True)
    require_cloud("aws", bucket=True, spot=True)
    with raises(BadUsage):
        require_cloud("Lambda", bucket=True, spot=True)
