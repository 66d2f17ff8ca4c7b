"""The family Anima."""
