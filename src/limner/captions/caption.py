"""The verb ``caption``: captions for a folder of images, in text files beside them, with their provenance."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable
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
from limner.captions.price import Price, dollars, foretold, price_of
from limner.captions.prompt_image import PromptImage, prompt_image
from limner.captions.provenance import now
from limner.captions.providers import Options, provider
from limner.captions.spec import STYLES, CaptionSpec
from limner.captions.store import CaptionStore
from limner.captions.summary import CaptionReport, CaptionSettings
from limner.data.images import BadImage, header, inspect
from limner.errors import BadProvider, BadUsage, Stopped
from limner.reporter import Reporter, counted

EQUAL_LINES = 3
"""Images that are named for one reason; of more only the number is told."""
SAME_FAILURES = 5
"""So many first images that fail alike end the work."""


def caption(
    folder: Path,
    spec: CaptionSpec,
    options: Options,
    settings: CaptionSettings,
    reporter: Reporter,
    patience: Patience | None = None,
) -> CaptionReport:
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
    start, store = time.monotonic(), CaptionStore(folder)
    work = _Work(store, spec, options, settings, reporter, patience or Patience(tell=reporter.line))
    try:
        work.run()
    except KeyboardInterrupt:
        count = work.result.new_captions
        raise Stopped(f"Stopped; {count} captions are saved. Run the same command to go on.") from None
    finally:
        work.close()
        work.result.seconds = time.monotonic() - start
        store.record.tidy(store.texts(), complete=work.is_complete)
    return work.result


class _Work:
    """One call of the verb: what is to do, and what has been done."""

    def __init__(
        self,
        store: CaptionStore,
        spec: CaptionSpec,
        options: Options,
        settings: CaptionSettings,
        reporter: Reporter,
        patience: Patience,
    ) -> None:
        self.store, self.spec, self.options = store, spec, options
        self.settings, self.reporter, self.patience = settings, reporter, patience
        self.result = CaptionReport(folder=store.root, images=len(store.files))
        self.is_complete = False
        self._hopeless: BadProvider | None = None
        self._committed_cost, self._lock = 0.0, Lock()  # known to the threads before the results are kept
        self._provider: Provider | None = None
        self._reasons: Counter[str] = Counter()

    def run(self) -> None:
        queue, result = self._todo(), self.result
        if queue or self._joining(queue):
            self._begin(queue)
            if self.settings.dry_run:
                result.remaining = len(queue)
                return
            result.cost = 0.0 if self._price or not result.destination else None
            self._caption(queue)
            self._agree()
        self._tell_more()
        result.findings = consistency.set_findings(self._members(), self.spec)
        self.is_complete = result.remaining == 0

    def close(self) -> None:
        if self._provider is not None:
            self._provider.close()

    # what is to do -----------------------------------------------------------------------------------------

    def _todo(self) -> list[str]:
        queue, job, result = [], "", self.result
        if self.settings.overwrite and not self.settings.dry_run:
            job = self.store.record.begin(self._settings_hash())
        for file in self.store.files:
            state = self.store.state(file)
            row = self.store.record.rows.get(file)
            if state == "answered" and not self.settings.dry_run:
                self.store.restore(file)
                result.recovered_captions += 1
                state = "ours"
            if state in ("by hand", "listed"):
                result.by_hand += 1
            elif state == "shared":
                owner = self.store.shared_with(file)
                self._flagged(file, f"shares its text file with {owner}. Give one of them another name")
            elif state == "ours" and not (self.settings.overwrite and row and row.facts.get("job") != job):
                result.existing_captions += 1
            else:
                queue.append(file)
        self._tell_kept()
        return queue

    def _settings_hash(self) -> str:
        text = json.dumps(
            [asdict(self.spec), asdict(self.options), self.settings.max_image_size], default=str
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _tell_kept(self) -> None:
        result = self.result
        if result.by_hand:
            self.reporter.line(f"Captions of your own: {counted(result.by_hand, 'image')}, never touched.")
        if result.existing_captions:
            current = {
                "concept_type": self.spec.concept_type,
                "style": self.spec.style.name,
                "trigger": self.spec.trigger,
            }
            rows = [self.store.record.rows.get(file) for file in self.store.files]
            count = sum(
                bool(row and row.captions and any(row.facts.get(k, v) != v for k, v in current.items()))
                for row in rows
            )
            note = f", {count} of them made for another concept, style or trigger" if count else ""
            self.reporter.line(
                f"Kept: {counted(result.existing_captions, 'image')}{note}. "
                "Captions are written anew with --overwrite."
            )

    def _begin(self, todo: list[str]) -> None:
        """Make the provider, say where images go and what it will cost."""
        self._provider = captioner = provider(replace(self.options, sends=not self.settings.dry_run))
        if captioner.takes == "nothing":
            if self.spec.variants > 1:
                raise BadUsage(f"{captioner.model} writes one caption an image. Leave out --variants.")
            style = STYLES["tags"] if captioner.name == "tagger" else self.spec.style
            self.spec = replace(self.spec, by_rule=True, style=style)
            self.reporter.line(
                f"{captioner.model} takes no instructions: concept and style have no effect, "
                "the trigger comes first."
            )
        self._foretell(todo)
        self._refuse_beyond_budget()

    def _foretell(self, todo: list[str]) -> None:
        """Say how many images go where, and what it will cost."""
        captioner, result = self._one, self.result
        result.destination, result.model = captioner.destination, captioner.model
        joining = self._joining(todo) if captioner.reads_sets else []
        sizes = self._sizes(dict.fromkeys([*todo, *joining]))
        images = counted(len(sizes), "image")
        if unreadable := len({*todo, *joining}) - len(sizes):
            images += f" ({counted(unreadable, 'more image')} cannot be read)"
        if not captioner.destination:
            self.reporter.line(f"{images}, captioned by {captioner.model} here. Nothing leaves this machine.")
            result.estimate = 0.0
            return
        detail = f"as copies of at most {self.settings.max_image_size} pixels without their metadata"
        self.reporter.line(f"To {captioner.destination} ({captioner.model}): {images}, {detail}.")
        if self._price is not None:
            image_sizes, set_sizes = (
                [sizes[file] for file in files if file in sizes] for files in (todo, joining)
            )
            result.estimate = self._price.of(
                *estimate.tokens(image_sizes, set_sizes, self.spec, self.settings.max_image_size)
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
        return price_of(self._one.model) if self._one.destination else None

    def _sizes(self, files: Iterable[str]) -> dict[str, tuple[int, int]]:
        """(width, height) of the images that can be read. Of the others it is told when it is their turn."""
        sizes = {}
        for file in files:
            with suppress(BadImage):
                sizes[file] = header(self.store.path(file))
        return sizes

    def _joining(self, todo: list[str]) -> list[str]:
        """The images whose captions the set pass may change, if it is wanted and there is a set."""
        members = self._members()
        free = dict.fromkeys([*todo, *(member.file for member in members if not member.is_fixed)])
        files = free.keys() | {member.file for member in members}
        return [*free] if self.settings.consistency and len(files) > 1 else []

    def _spend(self, tokens_in: int, tokens_out: int) -> float | None:
        result, price = self.result, self._price
        result.tokens_in += tokens_in
        result.tokens_out += tokens_out
        if price is None:
            return None if self._one.destination else 0.0
        cost = price.of(tokens_in, tokens_out)
        result.cost = (result.cost or 0.0) + cost
        return cost

    def _spent(self) -> bool:
        budget = self.settings.budget
        return budget is not None and self._committed_cost >= budget

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
                    self.result.remaining += 1
                    continue
                self._keep(file, outcome, image)
                failures.append(outcome.flag if outcome.flag and not outcome.requests and image else "")
                if len(failures) == SAME_FAILURES and failures[0] and len(set(failures)) == 1:
                    self._hopeless = BadProvider(
                        f"The first {len(failures)} images all failed alike: {failures[0]}."
                    )
                bar.advance(note=dollars(self.result.cost) if self.result.cost else "")
        if self._hopeless:
            raise self._hopeless
        if self.result.remaining:
            self.reporter.line(
                f"The budget is reached: {self.result.remaining} images are left. Run again to go on."
            )

    def _ask(self, file: str) -> tuple[str, Outcome | None, str]:
        """In a thread of its own: nothing here writes."""
        if self._spent() or self._hopeless:
            return file, None, ""
        try:
            digest = inspect(self.store.path(file), verify=False).sha256
            image = prompt_image(self.store.path(file), self.settings.max_image_size)
            outcome = ask_caption(self._one, self.spec, image, self.patience)
        except BadImage as error:
            return file, Outcome(flag=error.reason), ""
        except BadProvider as error:
            self._hopeless = error
            raise
        if self._price is not None:
            with self._lock:
                self._committed_cost += self._price.of(outcome.tokens_in, outcome.tokens_out)
        return file, outcome, digest

    def _keep(self, file: str, outcome: Outcome, image: str) -> None:
        cost = self._spend(outcome.tokens_in, outcome.tokens_out)
        prompt = prompts.for_image(self.spec, plain=is_plain(self._one, self.spec))
        facts = self._facts("image", prompt, outcome.model)
        facts |= {"asked": outcome.requests, "tokens_in": outcome.tokens_in, "tokens_out": outcome.tokens_out}
        optional = {"cost": cost, "set_aside": outcome.refusal or None, "note": outcome.note or None}
        facts |= {name: value for name, value in optional.items() if value is not None}
        if not outcome.captions:
            self.store.flag(file, image, outcome.flag, facts)
            self._flagged(file, outcome.flag)
        elif self.store.put(file, image, outcome.captions, facts):
            self.result.new_captions += 1
        else:
            self._flagged(file, "was captioned by you in the meantime; the answer was dropped")

    def _facts(self, pass_name: str, prompt: prompts.Prompt, model: str) -> dict[str, Any]:
        prompt_facts = {} if self._one.takes == "nothing" else {"prompt": prompt.record}
        job = self.store.record.job.get("id")
        return {
            "pass": pass_name,
            "by": self._one.name,
            "model": model or self._one.model,
            **prompt_facts,
            "concept_type": self.spec.concept_type,
            "style": self.spec.style.name,
            "trigger": self.spec.trigger,
            "at": now(),
            **({"job": job} if job else {}),
        }

    def _flagged(self, file: str, reason: str) -> None:
        self.result.failures.append({"file": file, "reason": reason})
        self._reasons[reason] += 1
        if self._reasons[reason] <= EQUAL_LINES:
            self.reporter.line(f"{file}: {reason.rstrip('.')}.")

    def _tell_more(self) -> None:
        """What happened to more images than were named."""
        for reason, count in self._reasons.items():
            if count > EQUAL_LINES:
                more = counted(count - EQUAL_LINES, "more image")
                self.reporter.line(f"{more} like these: {reason.rstrip('.')}.")

    # the set -----------------------------------------------------------------------------------------------

    def _members(self) -> list[consistency.Member]:
        members = []
        for file in self.store.files:
            state = self.store.state(file)
            if state in ("ours", "by hand"):
                is_fixed = state == "by hand" or self.store.record.rows[file].is_consistent
                members.append(consistency.Member(file, self.store.captions(file), is_fixed))
        return members

    def _agree(self) -> None:
        members = sorted(self._members(), key=lambda member: not member.is_fixed)  # they bind the others
        free = [member for member in members if not member.is_fixed]
        if not self.settings.consistency or len(members) < 2 or not free or self._spent():
            return
        if not self._one.reads_sets:
            self.reporter.line(
                f"{self._one.model} cannot read a set, so that captions are not made to agree."
            )
            return
        record, prompt = self.store.record, prompts.for_set(self.spec)

        def load_image(file: str) -> PromptImage:
            return prompt_image(self.store.path(file), estimate.SMALL)

        with self.reporter.progress("Agreeing", len(free)) as bar:
            for result in consistency.make_consistent(
                self._one, self.spec, members, self.patience, record.words, load_image
            ):
                cost = self._spend(result.tokens_in, result.tokens_out)
                facts = self._facts("set", prompt, result.model)
                facts |= {"cost": cost / max(1, len(result.captions))} if cost is not None else {}
                for file, captions in result.captions.items():
                    row = record.rows[file]
                    self.result.revisions += self.store.put(
                        file, row.image, captions, facts | {"first": row.facts}
                    )
                record.agree(result.words)
                self.result.words |= result.words
                for file, reason in result.flags.items():
                    self.reporter.line(f"{file}: left as it was by the set pass ({reason.rstrip('.')}).")
                bar.advance(len(result.captions) + len(result.flags))
