from limner.report.sets import set_of_prompt, set_rows

DATA = {
    "sets": [
        {"name": "cats", "trigger": "zorb", "images": 4, "share": 0.25},
        {"name": "dogs", "trigger": "blik", "images": 6, "share": 0.75},
    ],
    "held_out_sets": [0, 1, 1],
    "prompt_sets": [1, None, 0],
}
ROWS = [{"step": 0, "held_out_each": [1.0, 2.0, 4.0]}, {"step": 1, "loss": 1.0}]
ROWS += [{"step": 5, "held_out_each": [0.5, 1.0, 1.0]}, {"step": 9, "held_out_each": [0.75, 1.5, 0.5]}]


def test_each_set_has_a_row_with_its_own_validation_loss():
    cats, dogs = set_rows(DATA, ROWS)
    assert cats == {
        "set": "cats",
        "trigger": "zorb",
        "images": 4,
        "draws": "25%",
        "at first": "1",
        "best": "0.5",
        "at the end": "0.75",
    }
    assert (dogs["at first"], dogs["best"], dogs["at the end"]) == ("3", "1", "1")


def test_one_folder_and_damaged_data_have_no_rows_and_no_names():
    assert set_rows({}, ROWS) == set_rows({"sets": 3}, ROWS) == []
    assert set_rows({"sets": DATA["sets"], "held_out_sets": [0, 1, 1, 1]}, ROWS)[0]["best"] == "0.5"
    assert [set_of_prompt(DATA, index) for index in range(4)] == ["dogs", "", "cats", ""]
    assert set_of_prompt({"prompt_sets": [7], "sets": []}, 0) == ""
