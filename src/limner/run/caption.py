"""The verb ``caption``: captions for a folder of images, in text files beside them, with their provenance."""

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from threading import Lock
from typing import Any

from limner.annotate import agree, estimate, prompts
from limner.annotate.ask import Patience, Provider
from limner.annotate.captioner import Outcome, is_plain
from limner.annotate.captioner import caption as ask_caption
from limner.annotate.picture import Picture, picture
from limner.annotate.price import dollars, foretold, price_of
from limner.annotate.providers import Options, provider
from limner.annotate.record import now
from limner.annotate.shelf import Shelf
from limner.annotate.wish import MANNERS, Wish
from limner.data.images import BadImage, header, inspect
from limner.errors import BadProvider, BadUsage, Stopped
from limner.run.say import Say, counted

SAME_FAILURES = 5
"""So many first images that fail alike end the work."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How captions are made.

    Raises:
        BadUsage: A number means nothing.
    """

    jobs: int | None = None
    """Questions at once; None is the provider's own number."""
    side: int = 1024
    """Pixels of the longer side of the copy that is looked at."""
    overwrite: bool = False
    """Also images that have captions of ours."""
    together: bool = True
    """Whether the set pass follows."""
    budget: float | None = None
    """US dollars. The work is not begun when it is estimated to cost more, and ends when it has."""
    dry_run: bool = False
    """Only say what would be done, and its price."""

    def __post_init__(self) -> None:
        for name, value, least, most in (("jobs", self.jobs, 1, 64), ("side", self.side, 64, 4096)):
            if value is not None and not least <= value <= most:
                raise BadUsage(f"--{name} is {value}; it must be {least} to {most}.")
        if self.budget is not None and not self.budget > 0:
            raise BadUsage(f"--budget is {self.budget}; it must be more than 0 US dollars.")


@dataclass(kw_only=True)
class Captioned:
    """What was done. Numbers count images."""

    folder: Path
    images: int
    written: int = 0
    restored: int = 0
    """Answered before the last run was killed, and put in place now."""
    kept: int = 0
    by_hand: int = 0
    """With captions of a person: beside them or in a metadata file. Never touched."""
    flagged: list[dict[str, str]] = field(default_factory=list)
    """``file`` and ``reason`` of those without captions."""
    left: int = 0
    """Not asked about, because the budget was reached or nothing was to be sent."""
    agreed: int = 0
    """Edited or confirmed by the set pass."""
    words: dict[str, list[str]] = field(default_factory=dict)
    """Words that the set pass settled: the one used -> those replaced."""
    findings: list[str] = field(default_factory=list)
    """What is still to be said of the captions as a set."""
    place: str = ""
    """Where images went; empty: nowhere."""
    model: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    estimate: float | None = None
    cost: float | None = None
    """US dollars, by list price; None when unknown."""
    seconds: float = 0.0


def caption(
    folder: Path,
    wish: Wish,
    options: Options,
    settings: Settings,
    say: Say,
    patience: Patience | None = None,
) -> Captioned:
    """Write captions for the images that have none. Killed at any moment, the next call goes on.

    Args:
        folder: The images. Captions become ``cat.txt`` beside ``cat.jpg``, one variant a line; where each is
            from, and why some image has none, is in ``captions.jsonl``.
        wish: What the captions must be.
        options: Who is asked.
        settings: See :class:`Settings`.
        say: Where progress is told.
        patience: How long a server is tried.

    Raises:
        BadData: The folder cannot be used.
        BadProvider: Nobody answers: key, model, address or package.
        Stopped: Ctrl-C.
    """
    start, shelf = time.monotonic(), Shelf(folder)
    work = _Work(shelf, wish, options, settings, say, patience or Patience())
    try:
        work.run()
    except KeyboardInterrupt:
        done = work.result.written
        raise Stopped(f"Stopped; {done} captions are saved. Run the same command to go on.") from None
    finally:
        work.close()
        work.result.seconds = time.monotonic() - start
        shelf.record.tidy(shelf.texts(), done=work.finished)
    return work.result


class _Work:
    """One call of the verb: what is to do, and what has been done."""

    def __init__(
        self, shelf: Shelf, wish: Wish, options: Options, settings: Settings, say: Say, patience: Patience
    ) -> None:
        self.shelf, self.wish, self.options = shelf, wish, options
        self.settings, self.say, self.patience = settings, say, patience
        self.result = Captioned(folder=shelf.root, images=len(shelf.files))
        self.finished = False
        self._hopeless: BadProvider | None = None
        self._owed, self._lock = 0.0, Lock()  # known to the threads before the results are kept
        self._provider: Provider | None = None

    def run(self) -> None:
        todo, result = self._todo(), self.result
        agreeing = self._disagreeing(todo)
        if todo or agreeing:
            self._begin(todo)
            if self.settings.dry_run:
                result.left = len(todo)
                return
            result.cost = 0.0 if self._price or not result.place else None
            self._caption(todo)
            self._agree()
        result.findings = agree.findings(self._members(), self.wish)
        self.finished = result.left == 0

    def close(self) -> None:
        if self._provider is not None:
            self._provider.close()

    # what is to do -----------------------------------------------------------------------------------------

    def _todo(self) -> list[str]:
        todo, job, result = [], "", self.result
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
                other = self.shelf.shared_with(file)
                self._flagged(file, f"shares its text file with {other}. Give one of them another name")
            elif state == "ours" and not (self.settings.overwrite and row and row.facts.get("job") != job):
                result.kept += 1
            else:
                todo.append(file)
        self._tell_kept()
        return todo

    def _settings_hash(self) -> str:
        said = json.dumps([asdict(self.wish), asdict(self.options), self.settings.side], default=str)
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    def _tell_kept(self) -> None:
        result = self.result
        if result.by_hand:
            self.say.line(f"Captions of your own: {counted(result.by_hand, 'image')}, never touched.")
        if result.kept:
            asked = {"goal": self.wish.goal, "manner": self.wish.manner.name, "trigger": self.wish.trigger}
            rows = [self.shelf.record.rows.get(file) for file in self.shelf.files]
            other = sum(
                bool(row and row.captions and any(row.facts.get(k, v) != v for k, v in asked.items()))
                for row in rows
            )
            made = f", {other} of them made for another goal, manner or trigger" if other else ""
            self.say.line(
                f"Kept: {counted(result.kept, 'image')}{made}. Captions are written anew with --overwrite."
            )

    def _disagreeing(self, todo: list[str]) -> bool:
        ours = [self.shelf.record.rows[f] for f in self.shelf.files if self.shelf.state(f) == "ours"]
        return self.settings.together and not todo and len(ours) > 1 and not all(row.agreed for row in ours)

    def _begin(self, todo: list[str]) -> None:
        """Make the provider, say where images go and what it will cost."""
        self._provider = one = provider(self.options)
        if one.takes == "nothing":
            if self.wish.variants > 1:
                raise BadUsage(f"{one.model} writes one caption an image. Leave out --variants.")
            manner = MANNERS["tags"] if one.name == "tagger" else self.wish.manner
            self.wish = replace(self.wish, by_rule=True, manner=manner)
            self.say.line(
                f"{one.model} takes no instructions: goal and manner have no effect, the trigger comes first."
            )
        result = self.result
        result.place, result.model = one.place, one.model
        count = len(todo) or sum(not member.fixed for member in self._members())
        if not one.place:
            self.say.line(
                f"{counted(count, 'image')}, captioned by {one.model} here. Nothing leaves this machine."
            )
            result.estimate = 0.0
        else:
            what = f"as copies of at most {self.settings.side} pixels without their metadata"
            self.say.line(f"To {one.place} ({one.model}): {counted(count, 'image')}, {what}.")
            result.estimate = self._estimate(todo)
            self.say.line(foretold(one.model, result.estimate))
        budget = self.settings.budget
        if budget is not None and result.estimate is None:
            raise BadUsage(
                f"The price of {one.model} is not known, so that --budget cannot be held. Leave it out."
            )
        if budget is not None and result.estimate is not None and result.estimate > budget:
            raise BadUsage(
                f"Estimated: {dollars(result.estimate)}, more than the budget of {dollars(budget)}. "
                "Raise --budget, lower --side, or choose a cheaper --model."
            )

    # what it costs -----------------------------------------------------------------------------------------

    @property
    def _one(self) -> Provider:
        assert self._provider is not None
        return self._provider

    @property
    def _price(self) -> Any:
        return price_of(self._one.model) if self._one.place else None

    def _estimate(self, todo: list[str]) -> float | None:
        if self._price is None:
            return None
        files = todo or [member.file for member in self._members() if not member.fixed]
        together = self.settings.together and self._one.several and len(self.shelf.files) > 1
        sizes = []
        for file in files:
            with suppress(BadImage):  # told when it is its turn
                sizes.append(header(self.shelf.path(file)))
        return self._price.of(*estimate.tokens(sizes, self.wish, self.settings.side, together=together))

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
        jobs = min(self.settings.jobs or self._one.parallel, len(todo)) if self._one.parallel > 1 else 1
        alike: list[str] = []
        # The threads of this pool do not keep the process alive: after Ctrl-C nobody waits for their answers.
        with self.say.steps("Captions", len(todo)) as bar, ThreadPool(max(1, jobs)) as pool:
            found = pool.imap_unordered(self._ask, todo)
            for _ in todo:
                try:
                    file, outcome, image = next(found)
                except BadProvider as error:  # what the other threads are being told is still kept
                    self._hopeless = self._hopeless or error
                    continue
                if outcome is None:
                    self.result.left += 1
                    continue
                self._keep(file, outcome, image)
                alike.append(outcome.flag if outcome.flag and not outcome.asked and image else "")
                if len(alike) == SAME_FAILURES and alike[0] and len(set(alike)) == 1:
                    self._hopeless = BadProvider(
                        f"The first {len(alike)} images all failed alike: {alike[0]}."
                    )
                bar.advance(note=dollars(self.result.cost) if self.result.cost else "")
        if self._hopeless:
            raise self._hopeless
        if self.result.left:
            self.say.line(f"The budget is reached: {self.result.left} images are left. Run again to go on.")

    def _ask(self, file: str) -> tuple[str, Outcome | None, str]:
        """In a thread of its own: nothing here writes."""
        if self._spent() or self._hopeless:
            return file, None, ""
        try:
            image = inspect(self.shelf.path(file), verify=False).sha256
            seen = picture(self.shelf.path(file), self.settings.side)
            outcome = ask_caption(self._one, self.wish, seen, self.patience)
        except BadImage as error:
            return file, Outcome(flag=error.reason), ""
        except BadProvider as error:
            self._hopeless = error
            raise
        if self._price is not None:
            with self._lock:
                self._owed += self._price.of(outcome.tokens_in, outcome.tokens_out)
        return file, outcome, image

    def _keep(self, file: str, outcome: Outcome, image: str) -> None:
        cost = self._spend(outcome.tokens_in, outcome.tokens_out)
        prompt = prompts.for_image(self.wish, plain=is_plain(self._one, self.wish))
        facts = self._facts("image", prompt, outcome.model)
        facts |= {"asked": outcome.asked, "tokens_in": outcome.tokens_in, "tokens_out": outcome.tokens_out}
        more = {"cost": cost, "set_aside": outcome.refused or None, "note": outcome.note or None}
        facts |= {name: value for name, value in more.items() if value is not None}
        if not outcome.captions:
            self.shelf.flag(file, image, outcome.flag, facts)
            self._flagged(file, outcome.flag)
        elif self.shelf.put(file, image, outcome.captions, facts):
            self.result.written += 1
        else:
            self._flagged(file, "was captioned by you in the meantime; the answer was dropped")

    def _facts(self, which: str, prompt: prompts.Prompt, model: str) -> dict[str, Any]:
        told = {} if self._one.takes == "nothing" else {"prompt": prompt.record}
        job = self.shelf.record.job.get("id")
        return {
            "pass": which,
            "by": self._one.name,
            "model": model or self._one.model,
            **told,
            "goal": self.wish.goal,
            "manner": self.wish.manner.name,
            "trigger": self.wish.trigger,
            "at": now(),
            **({"job": job} if job else {}),
        }

    def _flagged(self, file: str, reason: str) -> None:
        self.result.flagged.append({"file": file, "reason": reason})
        self.say.line(f"{file}: {reason.rstrip('.')}.")

    # the set -----------------------------------------------------------------------------------------------

    def _members(self) -> list[agree.Member]:
        found = []
        for file in self.shelf.files:
            state = self.shelf.state(file)
            if state in ("ours", "by hand"):
                fixed = state == "by hand" or self.shelf.record.rows[file].agreed
                found.append(agree.Member(file, self.shelf.captions(file), fixed))
        return found

    def _agree(self) -> None:
        members = sorted(self._members(), key=lambda member: not member.fixed)  # they bind the others
        free = [member for member in members if not member.fixed]
        if not self.settings.together or len(members) < 2 or not free or self._spent():
            return
        if not self._one.several:
            self.say.line(f"{self._one.model} cannot read a set, so that captions are not made to agree.")
            return
        record, prompt = self.shelf.record, prompts.for_set(self.wish)
        look: Callable[[str], Picture] = lambda file: picture(self.shelf.path(file), estimate.SMALL)  # noqa: E731
        with self.say.steps("Agreeing", len(free)) as bar:
            for done in agree.agree(self._one, self.wish, members, self.patience, record.words, look):
                cost = self._spend(done.tokens_in, done.tokens_out)
                facts = self._facts("set", prompt, done.model)
                facts |= {"cost": cost / max(1, len(done.captions))} if cost is not None else {}
                for file, captions in done.captions.items():
                    row = record.rows[file]
                    self.result.agreed += self.shelf.put(
                        file, row.image, captions, facts | {"first": row.facts}
                    )
                record.agree(done.words)
                self.result.words |= done.words
                for file, reason in done.flags.items():
                    self.say.line(f"{file}: left as it was by the set pass ({reason.rstrip('.')}).")
                bar.advance(len(done.captions) + len(done.flags))
