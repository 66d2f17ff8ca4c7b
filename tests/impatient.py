"""``limner`` as one of several machines, which gives another up after a few seconds without an answer."""

from limner.cli import main
from limner.nn import distributed

if __name__ == "__main__":
    distributed.SILENCE = 6
    main()
