"""The verb ``caption``: captions for a folder of images, in text files beside them, with their provenance."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from threading import Lock
from typing import Any

from limner.captions import consistency, estimate, prompts
from limner.captions.captioner import Outcome, is_plain
from limner.captions.captioner import caption as ask_caption
from limner.captions.catalog import provider_record
from limner.captions.client import Patience, Provider
from limner.captions.picture import Picture, picture
from limner.captions.price import Price, dollars, foretold, price_of
from limner.captions.provenance import now
from limner.captions.providers import Options, provider
from limner.captions.spec import MANNERS, Wish
from limner.captions.store import Shelf
from limner.captions.summary import Captioned, Settings
from limner.data.images import BadImage, header, inspect
from limner.errors import BadProvider, BadUsage, Stopped
from limner.reporter import Reporter, counted

SAME_FAILURES = 5
"""So many first images that fail alike end the work."""


def caption(
    folder: Path,
    spec: Wish,
    options: Options,
    settings: Settings,
    reporter: Reporter,
    patience: Patience | None = None,
) -> Captioned:
    """Write captions for the images that have none. Killed at any moment, the next call goes on.

    Args:
        folder: The images. Captions become ``cat.txt`` beside ``cat.jpg``, one variant a line; where each is
            from, and why some image has none, is in ``captions.jsonl``.
        spec: What the captions must be.
        options: Who is asked.
        settings: See :class:`Settings`.
        reporter: Where progress is told.
        patience: How long a server is tried.

    Raises:
        BadUsage: There is no such provider, or what was asked of it cannot be.
        BadData: The folder cannot be used.
        BadProvider: Nobody answers: key, model, address or package.
        Stopped: Ctrl-C.
    """
    provider_record(options.name)  # also where nobody will be asked
    start, store = time.monotonic(), Shelf(folder)
    work = _Work(store, spec, options, settings, reporter, patience or Patience())
    try:
        work.run()
    except KeyboardInterrupt:
        count = work.result.written
        raise Stopped(f"Stopped; {count} captions are saved. Run the same command to go on.") from None
    finally:
        work.close()
        work.result.seconds = time.monotonic() - start
        store.record.tidy(store.texts(), complete=work.finished)
    return work.result


class _Work:
    """One call of the verb: what is to do, and what has been done."""

    def __init__(
        self,
        store: Shelf,
        spec: Wish,
        options: Options,
        settings: Settings,
        reporter: Reporter,
        patience: Patience,
    ) -> None:
        self.shelf, self.wish, self.options = store, spec, options
        self.settings, self.reporter, self.patience = settings, reporter, patience
        self.result = Captioned(folder=store.root, images=len(store.files))
        self.finished = False
        self._hopeless: BadProvider | None = None
        self._owed, self._lock = 0.0, Lock()  # known to the threads before the results are kept
        self._provider: Provider | None = None

    def run(self) -> None:
        queue, result = self._todo(), self.result
        if queue or self._joining(queue):
            self._begin(queue)
            if self.settings.dry_run:
                result.left = len(queue)
                return
            result.cost = 0.0 if self._price or not result.place else None
            self._caption(queue)
            self._agree()
        result.findings = consistency.findings(self._members(), self.wish)
        self.finished = result.left == 0

    def close(self) -> None:
        if self._provider is not None:
            self._provider.close()

    # what is to do -----------------------------------------------------------------------------------------

    def _todo(self) -> list[str]:
        queue, job, result = [], "", self.result
        if self.settings.overwrite and not self.settings.dry_run:
            job = self.shelf.record.begin(self._settings_hash())
        for file in self.shelf.files:
            state = self.shelf.state(file)
            row = self.shelf.record.rows.get(file)
            if state == "answered" and not self.settings.dry_run:
                self.shelf.restore(file)
                result.restored += 1
                state = "ours"
            if state in ("by hand", "listed"):
                result.by_hand += 1
            elif state == "shared":
                owner = self.shelf.shared_with(file)
                self._flagged(file, f"shares its text file with {owner}. Give one of them another name")
            elif state == "ours" and not (self.settings.overwrite and row and row.facts.get("job") != job):
                result.kept += 1
            else:
                queue.append(file)
        self._tell_kept()
        return queue

    def _settings_hash(self) -> str:
        text = json.dumps(
            [asdict(self.wish), asdict(self.options), self.settings.max_image_size], default=str
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _tell_kept(self) -> None:
        result = self.result
        if result.by_hand:
            self.reporter.line(f"Captions of your own: {counted(result.by_hand, 'image')}, never touched.")
        if result.kept:
            current = {
                "concept_type": self.wish.concept_type,
                "manner": self.wish.manner.name,
                "trigger": self.wish.trigger,
            }
            rows = [self.shelf.record.rows.get(file) for file in self.shelf.files]
            count = sum(
                bool(row and row.captions and any(row.facts.get(k, v) != v for k, v in current.items()))
                for row in rows
            )
            note = f", {count} of them made for another concept, manner or trigger" if count else ""
            self.reporter.line(
                f"Kept: {counted(result.kept, 'image')}{note}. Captions are written anew with --overwrite."
            )

    def _begin(self, todo: list[str]) -> None:
        """Make the provider, say where images go and what it will cost."""
        self._provider = captioner = provider(self.options)
        if captioner.takes == "nothing":
            if self.wish.variants > 1:
                raise BadUsage(f"{captioner.model} writes one caption an image. Leave out --variants.")
            style = MANNERS["tags"] if captioner.name == "tagger" else self.wish.manner
            self.wish = replace(self.wish, by_rule=True, manner=style)
            self.reporter.line(
                f"{captioner.model} takes no instructions: concept and manner have no effect, "
                "the trigger comes first."
            )
        self._foretell(todo)
        self._refuse_beyond_budget()

    def _foretell(self, todo: list[str]) -> None:
        """Say how many images go where, and what it will cost."""
        captioner, result = self._one, self.result
        result.place, result.model = captioner.place, captioner.model
        joining = self._joining(todo) if captioner.several else []
        sizes = self._sizes(dict.fromkeys([*todo, *joining]))
        images = counted(len(sizes), "image")
        if unreadable := len({*todo, *joining}) - len(sizes):
            images += f" ({counted(unreadable, 'more image')} cannot be read)"
        if not captioner.place:
            self.reporter.line(f"{images}, captioned by {captioner.model} here. Nothing leaves this machine.")
            result.estimate = 0.0
            return
        detail = f"as copies of at most {self.settings.max_image_size} pixels without their metadata"
        self.reporter.line(f"To {captioner.place} ({captioner.model}): {images}, {detail}.")
        if self._price is not None:
            image_sizes, set_sizes = (
                [sizes[file] for file in files if file in sizes] for files in (todo, joining)
            )
            result.estimate = self._price.of(
                *estimate.tokens(image_sizes, set_sizes, self.wish, self.settings.max_image_size)
            )
        self.reporter.line(foretold(captioner.model, result.estimate))

    def _refuse_beyond_budget(self) -> None:
        budget, expected, model = self.settings.budget, self.result.estimate, self._one.model
        if budget is None:
            return
        if expected is None:
            raise BadUsage(
                f"The price of {model} is not known, so that --budget cannot be held. Leave it out."
            )
        if expected > budget:
            raise BadUsage(
                f"Estimated: {dollars(expected)}, more than the budget of {dollars(budget)}. "
                "Raise --budget, lower --max-image-size, or choose a cheaper --model."
            )

    # what it costs -----------------------------------------------------------------------------------------

    @property
    def _one(self) -> Provider:
        assert self._provider is not None
        return self._provider

    @property
    def _price(self) -> Price | None:
        return price_of(self._one.model) if self._one.place else None

    def _sizes(self, files: Iterable[str]) -> dict[str, tuple[int, int]]:
        """(width, height) of the images that can be read. Of the others it is told when it is their turn."""
        sizes = {}
        for file in files:
            with suppress(BadImage):
                sizes[file] = header(self.shelf.path(file))
        return sizes

    def _joining(self, todo: list[str]) -> list[str]:
        """The images whose captions the set pass may change, if it is wanted and there is a set."""
        members = self._members()
        free = dict.fromkeys([*todo, *(member.file for member in members if not member.fixed)])
        files = free.keys() | {member.file for member in members}
        return [*free] if self.settings.together and len(files) > 1 else []

    def _spend(self, tokens_in: int, tokens_out: int) -> float | None:
        result, price = self.result, self._price
        result.tokens_in += tokens_in
        result.tokens_out += tokens_out
        if price is None:
            return None if self._one.place else 0.0
        cost = price.of(tokens_in, tokens_out)
        result.cost = (result.cost or 0.0) + cost
        return cost

    def _spent(self) -> bool:
        budget = self.settings.budget
        return budget is not None and self._owed >= budget

    # doing it ----------------------------------------------------------------------------------------------

    def _caption(self, todo: list[str]) -> None:
        jobs = (
            min(self.settings.concurrency or self._one.parallel, len(todo)) if self._one.parallel > 1 else 1
        )
        failures: list[str] = []
        # The threads of this pool do not keep the process alive: after Ctrl-C nobody waits for their answers.
        with self.reporter.progress("Captions", len(todo)) as bar, ThreadPool(max(1, jobs)) as pool:
            results = pool.imap_unordered(self._ask, todo)
            for _ in todo:
                try:
                    file, outcome, image = next(results)
                except BadProvider as error:  # what the other threads are being told is still kept
                    self._hopeless = self._hopeless or error
                    continue
                if outcome is None:
                    self.result.left += 1
                    continue
                self._keep(file, outcome, image)
                failures.append(outcome.flag if outcome.flag and not outcome.asked and image else "")
                if len(failures) == SAME_FAILURES and failures[0] and len(set(failures)) == 1:
                    self._hopeless = BadProvider(
                        f"The first {len(failures)} images all failed alike: {failures[0]}."
                    )
                bar.advance(note=dollars(self.result.cost) if self.result.cost else "")
        if self._hopeless:
            raise self._hopeless
        if self.result.left:
            self.reporter.line(
                f"The budget is reached: {self.result.left} images are left. Run again to go on."
            )

    def _ask(self, file: str) -> tuple[str, Outcome | None, str]:
        """In a thread of its own: nothing here writes."""
        if self._spent() or self._hopeless:
            return file, None, ""
        try:
            digest = inspect(self.shelf.path(file), verify=False).sha256
            image = picture(self.shelf.path(file), self.settings.max_image_size)
            outcome = ask_caption(self._one, self.wish, image, self.patience)
        except BadImage as error:
            return file, Outcome(flag=error.reason), ""
        except BadProvider as error:
            self._hopeless = error
            raise
        if self._price is not None:
            with self._lock:
                self._owed += self._price.of(outcome.tokens_in, outcome.tokens_out)
        return file, outcome, digest

    def _keep(self, file: str, outcome: Outcome, image: str) -> None:
        cost = self._spend(outcome.tokens_in, outcome.tokens_out)
        prompt = prompts.for_image(self.wish, plain=is_plain(self._one, self.wish))
        facts = self._facts("image", prompt, outcome.model)
        facts |= {"asked": outcome.asked, "tokens_in": outcome.tokens_in, "tokens_out": outcome.tokens_out}
        optional = {"cost": cost, "set_aside": outcome.refused or None, "note": outcome.note or None}
        facts |= {name: value for name, value in optional.items() if value is not None}
        if not outcome.captions:
            self.shelf.flag(file, image, outcome.flag, facts)
            self._flagged(file, outcome.flag)
        elif self.shelf.put(file, image, outcome.captions, facts):
            self.result.written += 1
        else:
            self._flagged(file, "was captioned by you in the meantime; the answer was dropped")

    def _facts(self, pass_name: str, prompt: prompts.Prompt, model: str) -> dict[str, Any]:
        prompt_facts = {} if self._one.takes == "nothing" else {"prompt": prompt.record}
        job = self.shelf.record.job.get("id")
        return {
            "pass": pass_name,
            "by": self._one.name,
            "model": model or self._one.model,
            **prompt_facts,
            "concept_type": self.wish.concept_type,
            "manner": self.wish.manner.name,
            "trigger": self.wish.trigger,
            "at": now(),
            **({"job": job} if job else {}),
        }

    def _flagged(self, file: str, reason: str) -> None:
        self.result.flagged.append({"file": file, "reason": reason})
        self.reporter.line(f"{file}: {reason.rstrip('.')}.")

    # the set -----------------------------------------------------------------------------------------------

    def _members(self) -> list[consistency.Member]:
        members = []
        for file in self.shelf.files:
            state = self.shelf.state(file)
            if state in ("ours", "by hand"):
                is_fixed = state == "by hand" or self.shelf.record.rows[file].agreed
                members.append(consistency.Member(file, self.shelf.captions(file), is_fixed))
        return members

    def _agree(self) -> None:
        members = sorted(self._members(), key=lambda member: not member.fixed)  # they bind the others
        free = [member for member in members if not member.fixed]
        if not self.settings.together or len(members) < 2 or not free or self._spent():
            return
        if not self._one.several:
            self.reporter.line(
                f"{self._one.model} cannot read a set, so that captions are not made to agree."
            )
            return
        record, prompt = self.shelf.record, prompts.for_set(self.wish)
        load_image: Callable[[str], Picture] = lambda file: picture(self.shelf.path(file), estimate.SMALL)  # noqa: E731
        with self.reporter.progress("Agreeing", len(free)) as bar:
            for result in consistency.agree(
                self._one, self.wish, members, self.patience, record.words, load_image
            ):
                cost = self._spend(result.tokens_in, result.tokens_out)
                facts = self._facts("set", prompt, result.model)
                facts |= {"cost": cost / max(1, len(result.captions))} if cost is not None else {}
                for file, captions in result.captions.items():
                    row = record.rows[file]
                    self.result.agreed += self.shelf.put(
                        file, row.image, captions, facts | {"first": row.facts}
                    )
                record.agree(result.words)
                self.result.words |= result.words
                for file, reason in result.flags.items():
                    self.reporter.line(f"{file}: left as it was by the set pass ({reason.rstrip('.')}).")
                bar.advance(len(result.captions) + len(result.flags))
