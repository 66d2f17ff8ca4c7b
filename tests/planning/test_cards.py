import pytest

from limner.planning.cards import CARDS, TYPICAL, known, typical


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX 4070 Ti SUPER"),
        ("4070ti super", "RTX 4070 Ti SUPER"),
        ("RTX3060", "RTX 3060"),
        ("NVIDIA GeForce RTX 4060 Laptop GPU", "RTX 4060"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM4 80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 SXM4 40GB"),
        ("NVIDIA A100 80GB PCIe", "A100"),
        ("Tesla T4", "T4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000"),
    ],
)
def test_a_card_is_known_by_what_drivers_call_it(name, card):
    found = known(name)
    assert found is not None
    assert found.name == card


@pytest.mark.parametrize("name", ["", "GTX 1080", "NVIDIA A10G", "Intel Arc A770", "Ti"])
def test_a_card_of_another_name_is_not_known(name):
    assert known(name) is None


def test_every_card_is_found_by_its_own_name_and_has_possible_numbers():
    for card in CARDS:
        assert known(card.name) is card
        assert 0 <= card.bf16 < 5000
        assert card.fp32 < card.int8
        assert card.pcie < card.bandwidth
        assert card.source


def test_a_size_alone_stands_for_a_card_of_that_size():
    for size, name in TYPICAL.items():
        assert (typical(size).name, typical(size).memory) == (name, size)
    assert typical(14).name == "RTX 4070"
    assert typical(2).name == "RTX 2060"


def test_products_in_8_bits_are_those_of_the_capability():
    has = {card.name: set(card.w8a8) for card in CARDS}
    assert has["RTX 2080"] == has["V100"] == has["Instinct MI300X"] == has["Radeon RX 7900 XTX"] == set()
    assert has["RTX 3090"] == has["A100"] == {"int8"}
    assert has["RTX 4090"] == has["H100"] == has["B200"] == has["RTX 5090"] == {"int8", "fp8"}
    for card in CARDS:
        assert all(card.bf16 < peak <= card.int8 + 1 for peak in card.w8a8.values())
