import json

from limner.captions.provenance import CaptionRecord, Provenance, hash_of, text_of

FACTS = {"by": "claude", "pass": "image"}


def test_a_text_is_ours_until_a_person_changes_a_word(tmp_path):
    record = Provenance(tmp_path)
    record.add(CaptionRecord("a.png", "00", ("a cat", "one cat"), FACTS))
    assert record.state("a.png", "a cat\none cat\n") == "ours"
    assert record.state("a.png", "a cat \r\n\r\n  one cat") == "ours"
    assert record.state("a.png", "a dog\none cat\n") == "by hand"
    assert record.state("a.png", "one cat\na cat\n") == "by hand"
    assert record.state("b.png", "a cat") == "by hand"
    assert record.state("b.png", None) == record.state("b.png", " \n") == "missing"


def test_an_answer_waits_until_it_was_seen_in_place(tmp_path):
    record = Provenance(tmp_path)
    record.add(CaptionRecord("a.png", "00", ("a cat",), FACTS))
    assert Provenance(tmp_path).state("a.png", None) == "answered"
    record.tidy({"a.png": "a cat\n"}, complete=True)
    assert Provenance(tmp_path).state("a.png", None) == "missing"


def test_an_edit_by_the_set_pass_that_was_cut_short_is_not_taken_for_a_persons(tmp_path):
    record = Provenance(tmp_path)
    record.add(CaptionRecord("a.png", "00", ("a cat",), FACTS, on_disk=True))
    record.add(
        CaptionRecord("a.png", "00", ("a cat on a sofa",), FACTS | {"pass": "set", "before": ["a cat"]})
    )
    again = Provenance(tmp_path)
    assert again.state("a.png", "a cat\n") == "answered"
    assert again.state("a.png", "a dog\n") == "by hand"
    again.tidy({"a.png": "a cat on a sofa\n"}, complete=True)
    assert again.state("a.png", "a cat\n") == "by hand"


def test_torn_and_foreign_lines_are_passed_over_and_tidied_away(tmp_path):
    record = Provenance(tmp_path)
    record.add(CaptionRecord("b.png", "00", ("old",), FACTS))
    record.add(CaptionRecord("b.png", "01", ("new",), FACTS))
    with record.path.open("a") as file:
        file.write(
            '[1]\n{"file": "c.png"}\nnull\n{"words": 3}\n{"job": 1}\n{"file": "d.png", "image": "0", "capti'
        )
    again = Provenance(tmp_path)
    assert list(again.rows) == ["b.png"]
    assert again.rows["b.png"].captions == ("new",)
    again.agree({"sofa": ["couch"]})
    again.tidy({}, complete=True)
    lines = [json.loads(line) for line in record.path.read_text().splitlines()]
    assert lines[0]["captions"] == ["new"]
    assert lines[1] == {"words": {"sofa": ["couch"]}}
    assert Provenance(tmp_path).words == {"sofa": ["couch"]}


def test_an_overwriting_keeps_its_id_until_it_is_done(tmp_path):
    record = Provenance(tmp_path)
    record.add(CaptionRecord("a.png", "00", ("a",), FACTS))
    job = record.begin("these")
    record.tidy({}, complete=False)
    assert Provenance(tmp_path).begin("these") == job
    assert Provenance(tmp_path).begin("others") != job
    record.tidy({}, complete=True)
    assert Provenance(tmp_path).job == {}


def test_texts_and_hashes():
    assert text_of(("a", "b")) == "a\nb\n"
    assert hash_of("a\n\nb ") == hash_of("a\r\nb")
    assert hash_of("a") != hash_of("A")
