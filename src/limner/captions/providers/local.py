"""Vision-language models on this machine, through transformers: nothing leaves it, and nothing is downloaded.

Models with a chat template (Qwen-VL, SmolVLM, Idefics, LLaVA and their kin) are told what to write.
Florence-2 knows one task prompt, and captioners of BLIP's kind take none: their captions are as they are.
"""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from limner.captions.client import Declined, Provider, Reply, Request, Takes
from limner.captions.providers import Options
from limner.errors import BadProvider
from limner.files import real_path

MODEL = "Qwen/Qwen3-VL-2B-Instruct"
FLORENCE = "<DETAILED_CAPTION>"
"""Florence-2's task for a few sentences (Xiao 2023, arXiv 2311.06242, table 12)."""
LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError, TypeError)
"""What transformers raises for folders that hold no whole model."""


def provider(options: Options) -> Provider:
    """A model in a folder, or in the hub's cache on this machine.

    Raises:
        BadProvider: It is not there, not whole, or no model of images and text.
    """
    return Local(options)


class Local:
    """One model, one question at a time."""

    parallel = 1
    destination = ""

    def __init__(self, options: Options) -> None:
        """Load it, in bf16 on a GPU and in fp32 elsewhere."""
        self.name = "local"
        path = options.model or MODEL
        # Of a folder only its name is recorded: captions are shared, the paths of a machine are not.
        self.model = real_path(Path(path)).name if Path(path).is_dir() else path
        torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
        from limner.models.auto_class import class_in
        from limner.models.loading import pretrained

        self._torch = torch
        self._device = _device(torch, options.device)
        dtype = torch.bfloat16 if self._device.type == "cuda" else torch.float32
        loading = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._processor = _processor(transformers, path, loading)
            cls = class_in(transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, path)
            model, _ = pretrained(cls, path, dtype)
        except ImportError as error:
            raise BadProvider(
                f"{self.model} needs a package that is missing: {_first(error)}. "
                "Run: pip install 'limner[local]'"
            ) from error
        except LOAD_ERRORS as error:
            raise BadProvider(_absent(path, error)) from error
        self._model = model.to(self._device).eval()
        self._task = FLORENCE if model.config.model_type == "florence2" else ""
        self.chats = bool(getattr(self._processor, "chat_template", None)) and not self._task
        self.takes: Takes = "text" if self.chats else "nothing"
        self.reads_sets = self.chats

    def close(self) -> None:
        """See ``Provider``."""
        del self._model

    def ask(self, request: Request) -> Reply:
        """See ``Provider``. Greedy, so that the same image gets the same answer."""
        images = [image.image for image in request.images]
        inputs = self._chat(request) if self.chats else self._bare(images)
        inputs = inputs.to(self._device, self._model.dtype)
        limit = min(request.tokens, 4096 if request.schema else 512)
        generation = {"max_new_tokens": limit, "do_sample": False, "num_beams": 1}
        try:
            with self._torch.inference_mode():
                tokens = self._model.generate(**inputs, **generation)[0]
        except self._torch.OutOfMemoryError:
            raise Declined(
                "the model ran out of memory; try --max-image-size 512, or a smaller --model"
            ) from None
        prompt_length = int(inputs["input_ids"].shape[1]) if "input_ids" in inputs else 0
        new = tokens if self._model.config.is_encoder_decoder else tokens[prompt_length:]
        text = self._processor.decode(new, skip_special_tokens=True).strip()
        return Reply(
            text=text,
            model=self.model,
            tokens_in=prompt_length,
            tokens_out=len(new),
            cut=len(new) >= limit,
        )

    def _chat(self, request: Request) -> Any:
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image", "image": part.image}
            for part in request.parts()
        ]
        # In one turn: the templates of several small models have no room for a system's words.
        content.insert(0, {"type": "text", "text": request.system})
        return self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )

    def _bare(self, images: list[Any]) -> Any:
        words = {"text": self._task} if self._task else {}
        return self._processor(images=images, return_tensors="pt", **words)


def _processor(transformers: Any, path: str, loading: dict[str, Any]) -> Any:
    """What makes tokens of words and pixels; without the reader of videos if only that lacks torchvision."""
    try:
        return transformers.AutoProcessor.from_pretrained(path, **loading)
    except ImportError as error:
        if "torchvision" not in str(error).lower():
            raise
        auto = importlib.import_module("transformers.models.auto.processing_auto")
        kind = auto.PROCESSOR_MAPPING[type(transformers.AutoConfig.from_pretrained(path, **loading))]
        if "video_processor" not in kind.get_attributes():
            raise
    loaders = {"image_processor": transformers.AutoImageProcessor, "tokenizer": transformers.AutoTokenizer}
    parts = [
        loaders[name].from_pretrained(path, **loading) if name in loaders else None
        for name in kind.get_attributes()
    ]

    class Still(kind):
        def check_argument_for_proper_class(self, name: str, part: Any) -> Any:
            return None if part is None else super().check_argument_for_proper_class(name, part)

    processor = Still.from_args_and_dict(parts, kind.get_processor_dict(path, local_files_only=True)[0])
    processor.video_processor = SimpleNamespace(
        num_frames=None, fps=None
    )  # SmolVLM's asks it, of pictures too
    return processor


def _device(torch: Any, choice: str) -> Any:
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if choice == "auto":
        return torch.device(next(name for name, present in available.items() if present))
    if not available.get(choice):
        raise BadProvider(f"--device is {choice}, and there is none here. Try --device cpu.")
    return torch.device(choice)


def _first(error: Exception) -> str:
    return " ".join(str(error).split())[:160].rstrip(".")


def _absent(path: str, error: Exception) -> str:
    reason = _first(error).partition(". ")[0]  # the rest is advice for who calls the library
    if Path(path).is_dir():
        return f"{path} holds no whole vision-language model: {reason}. Download it again, or name another."
    return (
        f"The model {path} is not on this machine, or not whole: {reason}. "
        f"Run: hf download {path}, or name a folder with --model."
    )
