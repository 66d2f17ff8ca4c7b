"""Jobs: commands of Limner that run in the background, one after the other on the GPU. Loads no torch."""

from limner.jobs.job import Job
from limner.jobs.queue import Jobs

__all__ = ["Job", "Jobs"]
