"""The verb ``publish``: collect, write the folder, and give it to the hub."""

from dataclasses import dataclass
from pathlib import Path

from limner.errors import BadUsage
from limner.files import scratch_folder
from limner.publishing.civitai import write_civitai
from limner.publishing.folder import write_folder
from limner.publishing.hub import require_repo_id, upload
from limner.publishing.publication import Publication, publication
from limner.reporter import Reporter


@dataclass(frozen=True, kw_only=True)
class PublishRequest:
    """What to publish, and where.

    Attributes:
        target: A run folder or a LoRA file.
        repo: owner/name on the hub; "" where only ``civitai`` is asked for.
        private: Whether only its owner may see it.
        dry_run: Write the folder here, and upload nothing.
        civitai: Write what Civitai's upload page asks for here.
        captions: Whether captions of the dataset may be seen.
        base: The base, where a file does not name it.
        images: A folder of pictures by ``limner generate``, in place of the run's samples.
    """

    target: Path
    repo: str = ""
    private: bool = False
    dry_run: Path | None = None
    civitai: Path | None = None
    captions: bool = False
    base: str | None = None
    images: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Published:
    """What was written, and where it can be seen."""

    url: str
    """The page on the hub; "" where nothing was uploaded."""
    files: tuple[str, ...]
    """In the repository."""
    folder: Path | None
    """Where they are on this disk, of a dry run."""
    civitai: Path | None


def publish(request: PublishRequest, reporter: Reporter) -> Published:
    """Write the folder of a LoRA, and upload it.

    Raises:
        BadUsage: There is nowhere to publish, no LoRA, or a folder holds files.
        BadLora: A file cannot be read.
        BadHub: The hub refuses.
    """
    if not request.repo and not request.civitai:
        raise BadUsage("There is nowhere to publish. Say --to owner/name, or --civitai DIR.")
    if request.dry_run and not request.repo:
        raise BadUsage("--dry-run writes what --to would upload. Say --to owner/name.")
    if request.repo:
        require_repo_id(request.repo)
    item = publication(
        request.target, base=request.base, images=request.images, with_captions=request.captions
    )
    _remark(item, reporter)
    if request.civitai:
        write_civitai(item, request.civitai)
    if not request.repo:
        return Published(url="", files=(), folder=None, civitai=request.civitai)
    if request.dry_run:
        files = _written(item, request.dry_run, request.repo)
        return Published(url="", files=files, folder=request.dry_run, civitai=request.civitai)
    with scratch_folder() as folder:
        files = _written(item, folder, request.repo)
        url = upload(folder, request.repo, private=request.private)
    return Published(url=url, files=files, folder=None, civitai=request.civitai)


def _written(item: Publication, folder: Path, repo: str) -> tuple[str, ...]:
    return tuple(path.relative_to(folder).as_posix() for path in write_folder(item, folder, repo))


def _remark(item: Publication, reporter: Reporter) -> None:
    """Say what others will not find."""
    if item.hidden_prompts:
        reporter.line(
            f"Pictures whose prompts are captions of the dataset: {item.hidden_prompts}. They are published "
            "without their prompts; --captions shows them."
        )
    if not item.images:
        reporter.line(
            "There are no pictures for the card. Make some with `limner generate`, then --images DIR."
        )
    if item.record is None:
        reporter.line(
            f"The licence of {item.base} is not known here, so that the card names none. Add it to README.md."
        )
    if item.files and item.files[0].info.family is None:
        reporter.line("The family of the LoRA is not known, so that the card does not say how to load it.")
