"""Every error Limner raises on purpose. Each message says what is wrong, the number, and what to do."""


class LimnerError(Exception):
    """Base of all errors meant for the user. Anything else that escapes is a bug."""

    exit_code = 1


class BadUsage(LimnerError):
    """The command line asks for something that cannot mean anything."""

    exit_code = 2


class BadRecipe(BadUsage):
    """The recipe cannot mean anything: unknown key, impossible value, contradiction."""


class BadData(LimnerError):
    """The images or captions cannot be used."""


class BadBase(LimnerError):
    """The base model is incomplete, gated or unreachable."""


class UnknownBase(BadBase):
    """No base model has that name: wrong usage, as an unknown card is."""

    exit_code = 2


class BadHub(LimnerError):
    """The hub refuses what is uploaded, or cannot be reached."""


class BrokenGraph(LimnerError):
    """Units of a family read a value that nothing before them writes."""


class BadProvider(LimnerError):
    """Captions cannot be had there: key, model, address, package, or a file of the model."""


class BadCache(LimnerError):
    """A cache entry is not what its address says."""


class BadCheckpoint(LimnerError):
    """A checkpoint cannot be read: torn, altered, foreign, or of another format version."""


class BadLora(LimnerError):
    """A LoRA file is unsafe, malformed, or does not belong to the base."""


class RunBusy(LimnerError):
    """Another process is training in this run folder."""


class ProcessLost(LimnerError):
    """Another process of a run that several compute together has ended or cannot be reached."""


class DiskFull(LimnerError):
    """There is not enough room on the disk for what is about to be written."""


class DoesNotFit(LimnerError):
    """No way of computing the run fits the memory that there is."""


class LaunchFailed(LimnerError):
    """The program that rents machines ended with an error."""


class Diverged(LimnerError):
    """Loss or gradient stopped being finite. Raised before the optimizer touches a weight."""


class Stopped(LimnerError):
    """The user stopped the run. Everything finished is saved; the message says how to go on."""


def first_line(error: BaseException) -> str:
    """What an error of a library says, cut to one line of at most 200 characters."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line[:200].rstrip(". :")
