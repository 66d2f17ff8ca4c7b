"""``python -m limner``, and ``accelerate launch -m limner train ..`` for several processes."""

from limner.cli import main

main()
