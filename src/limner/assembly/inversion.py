"""Textual inversion: trained vectors of a new word in the text encoders, alone or beside a LoRA."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from limner.assembly.assemble import META, ModelSpec, Trainable
from limner.errors import BadRecipe
from limner.files import human
from limner.graph.unit import Unit
from limner.models.family import Family
from limner.models.loading import load
from limner.models.placeholder import Placeholder
from limner.models.registry import families
from limner.models.source import Source
from limner.nn.layers import tokens
from limner.nn.rng import Places, seed_of
from limner.recipe.optimizers import optimizer_of
from limner.recipe.schema import Recipe
from limner.recipe.train import Inversion as Settings
from limner.recipe.train import Train
from limner.reporter import counted

RATE = 2e-3
"""Learning rate of vectors: diffusers' ``examples/textual_inversion``, 5e-4 times 4 accumulated images."""


@dataclass(frozen=True)
class TextualInversion:
    """Token vectors of a word; a LoRA besides, where there is one.

    Attributes:
        settings: The recipe's.
        word: The new word.
        rate: Learning rate of the vectors at full strength.
        until: Steps after which the vectors stay as they are.
        seed: Of vectors that begin at random.
        lora: What is trained beside them.
        lora_rate: Learning rate of a text encoder's adapters, if it has some.
    """

    settings: Settings
    word: str
    rate: float = RATE
    until: int | None = None
    seed: int = 0
    lora: Trainable | None = None
    lora_rate: float = RATE
    method: str = field(default="inversion", init=False)
    freezes_base: bool = field(default=True, init=False)
    separate: bool = field(default=False, init=False)

    @property
    def sparse(self) -> bool:
        """Whether the LoRA names layers; without one no block has any that is trained."""
        return self.lora.sparse if self.lora else False

    def family(self, family: Family) -> Family:
        """As it is."""
        return family

    def placeholder(self, family: Family) -> Placeholder:
        """The word, in the encoders that get vectors. See ``Trainable``."""
        return Placeholder(self.word, self.settings.tokens, self._encoders(family))

    def _encoders(self, family: Family) -> tuple[str, ...]:
        encoders = tuple(families()[family.name].embeddings)
        if not encoders:
            able = ", ".join(name for name, facts in families().items() if facts.embeddings)
            raise BadRecipe(
                f'train.method is "inversion", and no tool reads embeddings of {family.name}. Choose a base '
                f'of {able}, or set train.method = "lora".'
            )
        if strangers := [name for name in self.settings.encoders if name not in encoders]:
            raise BadRecipe(
                f"inversion.encoders: {family.name} has no text encoder {strangers[0]!r} whose embeddings "
                f"tools read. Known: {', '.join(encoders)}."
            )
        return tuple(name for name in encoders if name in (self.settings.encoders or encoders))

    def first_layers(self, family: Family, source: Source) -> dict[str, int]:
        """What the LoRA trains, and the encoders with vectors from their first layer on."""
        return self.still_layers(family, source) | dict.fromkeys(self._encoders(family), 0)

    def still_layers(self, family: Family, source: Source) -> dict[str, int]:
        """What the LoRA trains: the vectors change no caption without the word."""
        return dict(self.lora.first_layers(family, source)) if self.lora else {}

    def require_possible(self, spec: ModelSpec) -> None:
        """Find the word and the initial words in the tokenizers. See ``Trainable``."""
        for name in self._encoders(spec.family):
            tokenizer = self._tokenizer(spec, name)
            self._initial_ids(spec, name, tokenizer)

    def _tokenizer(self, spec: ModelSpec, encoder: str) -> Any:
        name = encoder.replace("text_encoder", "tokenizer")
        tokenizer = load(spec.family, spec.source, name, dtype=torch.float32, device=torch.device("cpu"))
        return self.placeholder(spec.family).taught(name, tokenizer)

    def _initial_ids(self, spec: ModelSpec, encoder: str, tokenizer: Any) -> list[int]:
        """Ids of the initial words in a tokenizer; none where there are no words."""
        words, count = self.settings.init, self.settings.tokens
        ids = list(tokenizer(words, add_special_tokens=False).input_ids) if words else []
        if words and not ids:
            raise BadRecipe(f'inversion.init is "{words}", in which {encoder} finds no token. Write a word.')
        if len(ids) > count:
            raise BadRecipe(
                f'inversion.init is "{words}", {len(ids)} tokens in {encoder} of {spec.source.name}, '
                f"and inversion.tokens is {count}. Set inversion.tokens = {len(ids)}, or a shorter word."
            )
        return ids

    def load_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """That of the run: vectors and adapters are fp32 masters beside it."""
        return dtype

    def layers(self, spec: ModelSpec, name: str, model: nn.Module) -> Mapping[str, int]:
        """Those of the LoRA. See ``Trainable``."""
        lora_spec = self._lora_spec(spec)
        if lora_spec is None or name not in lora_spec.first_layers:
            return {}
        return lora_spec.trainable.layers(lora_spec, name, model)

    def _lora_spec(self, spec: ModelSpec) -> ModelSpec | None:
        """The same base with the LoRA alone, if there is one."""
        return replace(spec, trainable=self.lora) if self.lora else None

    def attach(self, spec: ModelSpec, models: Mapping[str, nn.Module], sample_keys: Places) -> None:
        """Put the vectors beside the table of each encoder, and the LoRA where it belongs."""
        if lora_spec := self._lora_spec(spec):  # first, as it freezes all that is there
            lora_spec.trainable.attach(lora_spec, models, sample_keys)
        for name in self._encoders(spec.family):
            tokens.put(models[name], self._table(spec, name, models[name], sample_keys))

    def _table(self, spec: ModelSpec, name: str, model: Any, sample_keys: Places) -> tokens.TokenTable:
        base = model.get_input_embeddings()
        shape = (self.settings.tokens, base.weight.shape[1])
        if base.weight.device == META:
            vectors = torch.empty(shape, dtype=torch.float32, device=META)
            return tokens.TokenTable(base, vectors, len(base.weight), sample_keys, self.until)
        tokenizer = self._tokenizer(spec, name)
        vectors = self._initial(base.weight, shape, name, self._initial_ids(spec, name, tokenizer))
        first = self.placeholder(spec.family).first(tokenizer)
        return tokens.TokenTable(base, vectors, first, sample_keys, self.until)

    def _initial(self, weight: Tensor, shape: tuple[int, int], name: str, ids: Sequence[int]) -> Tensor:
        """The vectors of the initial words, from the first again where they are fewer; or random ones."""
        table = weight.detach().float()
        if ids:
            rows = [ids[number % len(ids)] for number in range(shape[0])]
            return table[torch.tensor(rows, device=table.device)].clone()
        generator = torch.Generator().manual_seed(seed_of(self.seed, "inversion", name))
        return torch.randn(shape, generator=generator).to(table.device) * table.std()

    def named(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The vectors, then the LoRA's factors."""
        table = tokens.table(model)
        vectors = {tokens.VECTORS: table.token_vectors} if table else {}
        return vectors | (self.lora.named(model) if self.lora else {})

    def rates(self, spec: ModelSpec, name: str, model: nn.Module) -> Mapping[str, float]:
        """The LoRA's own multipliers; of vectors beside it what makes their rate of an encoder's."""
        lora_spec = self._lora_spec(spec)
        if lora_spec is None:
            return {}
        vectors = {tokens.VECTORS: self.rate / self.lora_rate} if tokens.table(model) else {}
        adapters = lora_spec.trainable.rates(lora_spec, name, model) if name in lora_spec.first_layers else {}
        return {**adapters, **vectors}

    def learning_rate(self, train: Train, *, text_encoder: bool) -> float:
        """The LoRA's where there is one; else that of the vectors."""
        return self.lora.learning_rate(train, text_encoder=text_encoder) if self.lora else self.rate

    def set_dropout(self, model: nn.Module, *, enabled: bool) -> None:
        """Switch that of the adapters; vectors have none."""
        if self.lora:
            self.lora.set_dropout(model, enabled=enabled)

    def enable(self, model: nn.Module, *, enabled: bool) -> None:
        """Switch the adapters. Vectors stay: what the base answers is asked of captions without the word."""
        if self.lora:
            self.lora.enable(model, enabled=enabled)

    def clear(self, model: nn.Module) -> None:
        """Drop products that pairs share."""
        if self.lora:
            self.lora.clear(model)

    def after_step(self, models: Mapping[str, Any]) -> list[Callable[..., None]]:
        """Lead the vectors back to the spread of their tables. See ``Trainable``."""
        tables = [table for model in models.values() if (table := tokens.table(model))]

        def settle(*_: Any) -> None:
            for table in tables:
                table.settle()

        return [settle]

    def first_lines(self, spec: ModelSpec, models: Mapping[str, Any], captions: Sequence[str]) -> list[str]:
        """The vectors, and what it costs that they are trained. See ``Trainable``."""
        placeholder = self.placeholder(spec.family)
        encoders = [models[name] for name in placeholder.encoders]
        size = sum(p.numel() * p.element_size() for model in encoders for p in model.parameters())
        live = sum(map(placeholder.stands_in, captions))
        start = f'begin as "{self.settings.init}"' if self.settings.init else "begin at random"
        end = f" and learn for {self.until} steps" if self.until is not None else ""
        count, names = counted(placeholder.count, "vector"), " and ".join(placeholder.encoders)
        return [
            f'Textual inversion: "{self.word}" is {count} in each of {names}; they {start}{end}. The '
            f"price: {human(size)} of encoders stay on the device and run forward and back for captions with "
            f"the word, {live} of {len(captions)}; what they make of others is cached."
        ]

    def shape(self) -> dict[str, Any]:
        """The word and its vectors. See ``Trainable``."""
        table = self.settings
        return {"inversion": [self.word, table.tokens, table.init, list(table.encoders), table.with_lora]}

    def show(
        self, units: Sequence[Unit], models: Mapping[str, Any], values: Mapping[str, Any], denoiser: nn.Module
    ) -> None:
        """Nothing. See ``Trainable``."""


def inversion_of(recipe: Recipe, lora: Trainable) -> TextualInversion:
    """What a recipe of textual inversion trains; ``lora``: what it describes besides.

    Raises:
        BadRecipe: It is not said which word is to be learned.
    """
    settings, train = recipe.inversion, recipe.train
    if not recipe.data.triggers:
        raise BadRecipe(
            'train.method is "inversion", and data.trigger, the word that is learned, is empty. Set it, such '
            'as data.trigger = "<mimo>".'
        )
    finds_rate = optimizer_of(train.optimizer).finds_rate
    return TextualInversion(
        settings,
        recipe.data.triggers[0],
        rate=train.learning_rate if finds_rate else settings.rate or RATE,
        until=ceil(settings.until * train.steps) if settings.until < 1 else None,
        seed=recipe.seed,
        lora=lora if settings.with_lora else None,
        lora_rate=lora.learning_rate(train, text_encoder=True),
    )
