"""A folder on the Hugging Face hub, by ``huggingface_hub``; its refusals in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from limner.errors import BadHub, BadUsage, first_line


def require_repo_id(repo: str) -> None:
    """Raise ``BadUsage`` unless a name can be that of a repository: owner/name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise BadUsage(
            f"--to is {repo[:100]!r}, which the hub takes for no name: {first_line(error)}."
        ) from error
    if repo.count("/") != 1:
        raise BadUsage(f"--to is {repo!r}; it must be owner/name, such as ada/cat-lora.")


def upload(folder: Path, repo: str, *, private: bool) -> str:
    """Create the repository where there is none, and commit all files of a folder to it in one commit.

    Args:
        folder: What to upload.
        repo: owner/name.
        private: Whether only its owner may see it.

    Returns:
        The address of its page.

    Raises:
        BadHub: The hub refuses, cannot be reached, or has a public repository where a private one is wanted.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="limner")
    with refusing(repo):
        page = api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise BadHub(
                f"{repo} is there already and public; nothing was uploaded. Make it private in its "
                "settings, or choose another name."
            )
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Publish the LoRA")
    return str(page)


@contextmanager
def refusing(repo: str) -> Iterator[None]:
    """Say in one line why the hub did not take something.

    Raises:
        BadHub: It did not.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise BadHub("The hub is switched off by HF_HUB_OFFLINE. Unset it, or use --dry-run DIR.") from error
    except errors.HfHubHTTPError as error:
        raise BadHub(_refusal(repo, error)) from error
    except (errors.HTTPError, OSError, ValueError, RuntimeError) as error:
        cause = error.__cause__ or error
        raise BadHub(
            f"{repo} could not be uploaded: {first_line(cause)}. Run the command again: what the hub "
            "has already is not sent twice."
        ) from error


def _refusal(repo: str, error: Exception) -> str:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", 0)
    words = str(getattr(error, "server_message", "") or first_line(error)).strip().rstrip(".")[:200]
    remedy = {
        401: "Log in with a token that may write: `hf auth login`, or set HF_TOKEN",
        403: "Check that the token may write there, and what its owner may store",
    }.get(status, "Run the command again, or look at the hub's status page")
    return f"The hub refused {repo} with {status}: {' '.join(words.split())}. {remedy}."
