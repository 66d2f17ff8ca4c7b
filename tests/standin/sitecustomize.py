"""Python reads this first where this folder is on its path: every process then has the card."""

import card  # noqa: F401
