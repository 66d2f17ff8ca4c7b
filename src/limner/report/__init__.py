"""Pages for people: the report of a run, charts, sheets of pictures."""
