import pytest
from benchmarks.speed.published_cases import CASES

from limner.planning.cards import CARDS, known
from limner.planning.devices import of_card


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        # the best published products in bf16; a model's own shapes reach a little less
        ("RTX 4090", 178.5), ("RTX 3090", 78.0), ("RTX 5090", 254.0), ("RTX A5000", 93.9),
        ("RTX A6000", 95.0), ("RTX PRO 6000", 457.6), ("RTX 6000 Ada", 278.0), ("L4", 91.0),
        ("L40", 170.0), ("L40S", 252.0), ("A100", 253.0), ("A100 SXM4 80GB", 271.0),
        ("H100", 794.0), ("H100 PCIe", 499.5), ("B200", 1745.0), ("Instinct MI300X", 668.0),
    ],
)  # fmt: skip
def test_products_are_planned_at_what_was_seen_on_such_a_card(name, teraflops):
    card = known(name)
    assert card is not None
    assert 0.85 <= of_card(card).rates.gemm["bf16"] / 1e12 / teraflops <= 1.05


def test_every_class_has_possible_shares():
    for card in CARDS:
        efficiency = card.efficiency
        assert 0.3 <= efficiency.gemm <= 1.25
        assert 0.2 <= efficiency.attention_backward < efficiency.attention < efficiency.gemm
        assert 0.3 <= efficiency.eager <= efficiency.traffic <= 0.95
        assert set(efficiency.eight) >= set(card.w8a8)


def test_every_published_figure_is_in_the_benchmark_with_a_source_and_a_prediction_or_a_reason():
    assert {row for case in CASES for row in case.rows} == set(range(1, 48))
    assert len({case.name for case in CASES}) == len(CASES)
    for case in CASES:
        assert case.source and case.trust in {"A", "B", "C"} and known(case.card)
        assert case.seconds or case.memory
        assert (case.model and case.timed) or case.remark, f"{case.name} says why it is not compared"
