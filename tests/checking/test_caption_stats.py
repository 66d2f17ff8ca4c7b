from limner.checking.caption_stats import wording


def of(*captions: str, trigger: str = "sks cat"):
    return wording([(each,) if each else () for each in captions], trigger)


def test_captions_in_order_raise_nothing():
    found = of(
        "sks cat on a sofa",
        "sks cat in snow",
        "a photo of sks cat at night",
        "sks cat, from behind",
        "sks cat",
    )
    assert found == wording([], "") and not any(vars(found).values())


def test_missing_and_repeated():
    found = of("", "a dog", "A dog.", "a dog", "sks cat by a lake", trigger="")
    assert found.missing == (0,) and found.repeated == ((1, 2, 3),)
    assert of("sks cat", "sks cat", "sks cat").repeated == (), "the trigger alone is a known way"


def test_a_caption_of_several_may_repeat():
    told_apart = [(f"in style, a {thing}", "in style") for thing in ("turtle", "castle", "key", "boat")]
    assert wording(told_apart, "cyan").repeated == ()
    twice = [("a dog", "one dog")] * 3
    assert wording(twice).repeated == ((0, 1, 2),), "one finding, however many captions repeat"
    assert wording([*told_apart, *twice]).repeated == ((4, 5, 6),)


def test_the_trigger_is_missing_respelled_or_displaced():
    found = of("sks cat on a sofa", "a cat in snow", "SKS cat at night", "sks cats in a row")
    assert found.untriggered == (1, 3) and found.respelled == (2,)
    found = of("sks cat one", "sks cat two", "[trigger] three", "on a long sofa by the window lies sks cat")
    assert found.displaced == (3,) and not found.untriggered
    assert not of("one", "two").untriggered, "where nobody writes it, it is put in front of all"


def test_words_bound_to_the_trigger():
    found = of(
        "sks cat on a red sofa", "a sofa, red, with sks cat", "red sofa and sks cat", "sks cat, sofa in red"
    )
    assert found.fused == ("red", "sofa")
    assert of("sks cat on a red sofa", "sks cat in snow", "sks cat", "sks cat, sofa").fused == ()
    assert of("red sofa", "red sofa again").fused == (), "too few to tell"


def test_openings_that_repeat():
    starts = [f"sks cat, this image shows a {thing}" for thing in ("tree", "house", "river", "road")]
    assert of(*starts).openings == "this image shows a"
    assert of("sks cat a b c", "sks cat d e f", "sks cat g h i", "sks cat j k l").openings == ""
