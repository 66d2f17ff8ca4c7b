from limner.captions.estimate import tokens
from limner.captions.spec import CaptionSpec


def test_tokens_grow_with_images_sides_variants_and_the_set_pass():
    sizes = [(3000, 2000)] * 30
    read, written = tokens(sizes, [], CaptionSpec(), 1024)
    assert 30 * (1024 * 683 / 750 + 300) < read < 30 * (1024 * 683 / 750 + 900)
    assert written == 30 * (105 + 20)
    assert tokens(sizes * 2, [], CaptionSpec(), 1024) == (2 * read, 2 * written)
    assert tokens(sizes, [], CaptionSpec(), 512)[0] < read
    assert tokens(sizes, [], CaptionSpec(variants=3), 1024)[1] > 2 * written
    more, twice = tokens(sizes, sizes, CaptionSpec(), 1024)
    assert twice == 2 * written
    assert read < more < 1.5 * read
    assert tokens([], [], CaptionSpec(), 1024) == (0, 0)


def test_a_set_pass_alone_costs_its_own_part():
    sizes = [(3000, 2000)] * 30
    alone, both = tokens(sizes, [], CaptionSpec(), 1024), tokens(sizes, sizes, CaptionSpec(), 1024)
    joined = tokens([], sizes, CaptionSpec(), 1024)
    assert both == (alone[0] + joined[0], alone[1] + joined[1])
    assert joined[0] < alone[0]
