import pytest

from limner.planning.cards import CARDS, TYPICAL, Circuits, estimated, known, strange, typical


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX 4070 Ti SUPER"),
        ("4070ti super", "RTX 4070 Ti SUPER"),
        ("RTX3060", "RTX 3060"),
        ("NVIDIA GeForce RTX 4060 Laptop GPU", "RTX 4060 Laptop"),
        ("NVIDIA GeForce RTX 4090 D", "RTX 4090 D"),
        ("NVIDIA GeForce RTX 3080 12GB", "RTX 3080 12GB"),
        ("NVIDIA GeForce RTX 3080 10GB", "RTX 3080"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA A100-PCIE-40GB", "A100 40GB"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "RTX PRO 6000 Max-Q"),
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
    assert found is not None and not strange(name, found)
    assert found.name == card


@pytest.mark.parametrize(
    "name", ["", "GTX 1080", "Quadro RTX 8000", "RTX 4060 Ti Laptop GPU", "Intel Arc A770", "Ti"]
)
def test_a_card_of_another_name_is_not_known(name):
    assert known(name) is None


@pytest.mark.parametrize(
    ("name", "card", "memory"),
    [
        ("A100-40", "A100 40GB", 40),
        ("A100 80 GB", "A100", 80),
        ("RTX 4060 Ti 8GB", "RTX 4060 Ti 8GB", 8),
        ("4060ti 8 gb", "RTX 4060 Ti 8GB", 8),
        ("RTX 4090 48GB", "RTX 4090 48GB", 48),
        ("Tesla V100-SXM2-32GB", "V100 32GB", 32),
        ("RTX 3050 6GB", "RTX 3050 6GB", 6),
        ("RTX 3080 10GB", "RTX 3080", 10),
        ("RTX 3080 12", "RTX 3080 12GB", 12),
    ],
)
def test_a_size_in_a_name_is_that_of_the_card(name, card, memory):
    found = known(name)
    assert found is not None and not strange(name, found)
    assert (found.name, found.memory) == (card, memory)
    assert found.price is None or found in CARDS


@pytest.mark.parametrize("name", ["RTX 4090 7", "A100-41", "RTX 4060 Ti 99x"])
def test_a_bare_number_that_is_no_size_of_the_card_is_told(name):
    found = known(name)
    assert found is not None and strange(name, found)


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


@pytest.mark.parametrize(
    ("name", "visible"),
    [
        # out-of-memory messages and nvidia-smi of others' machines
        ("RTX 4090", 23.52), ("RTX 5090", 31.37), ("RTX 2080 Ti", 10.74), ("T4", 14.75), ("L4", 22.03),
        ("L40S", 44.4), ("A40", 44.4), ("A100 SXM4 40GB", 39.5), ("H100", 79.1), ("H200", 139.8),
    ],
)  # fmt: skip
def test_what_cuda_has_of_a_card_is_less_than_the_label(name, visible):
    card = known(name)
    assert card is not None
    assert card.visible == pytest.approx(visible, rel=0.01)


@pytest.mark.parametrize(
    ("name", "capability", "multiprocessors", "clock", "memory_clock", "bus_width"),
    [
        ("RTX 3090", (8, 6), 82, 1695, 9751, 384),
        ("RTX 4090", (8, 9), 128, 2520, 10501, 384),
        ("RTX 5090", (12, 0), 170, 2407, 14001, 512),
        ("RTX A6000", (8, 6), 84, 1800, 8001, 384),
        ("RTX 6000 Ada", (8, 9), 142, 2505, 10001, 384),
        ("A100 SXM4 80GB", (8, 0), 108, 1410, 1593, 5120),
        ("H100", (9, 0), 132, 1830, 2619, 5120),
        ("T4", (7, 5), 40, 1590, 5001, 256),
    ],
)
def test_a_card_in_no_table_is_worked_out_as_the_sheets_work_out_those_that_are(
    name, capability, multiprocessors, clock, memory_clock, bus_width
):
    card = known(name)
    assert card is not None
    cores = multiprocessors * (64 if capability in {(7, 5), (8, 0)} else 128)
    circuits = Circuits(
        capability=capability,
        cores=cores,
        clock=clock,
        memory_clock=memory_clock,
        bus_width=bus_width,
        pcie=31.5,
    )
    label = f"NVIDIA GeForce {name}" if name.startswith("RTX ") and name[4:].isdigit() else name
    unknown = estimated(label, card.memory, circuits)
    assert unknown.bf16 == pytest.approx(card.bf16, rel=0.02)
    assert unknown.fp32 == pytest.approx(card.fp32, rel=0.09)
    assert unknown.int8 == pytest.approx(card.int8, rel=0.02)
    assert unknown.bandwidth == pytest.approx(card.bandwidth, rel=0.02)


def test_an_unknown_size_stands_for_a_card_of_the_same_architecture():
    assert typical(48, (7, 5)).capability == (7, 5)
    assert typical(48, (7, 5)).bf16 == 0
    assert typical(1, (8, 9)).capability == (8, 9)
    assert typical(24, (13, 1)).name == "RTX 4090"
