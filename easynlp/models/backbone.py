"""Pre-trained encoders by name: built in, a local folder, Hugging Face or ModelScope.

Only safetensors weights are read. A pickled checkpoint is refused: unpickling runs code.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel

import easynlp.models.light
import easynlp.models.narrow_bert
import easynlp.models.ngram_bert  # noqa: F401 - all tell transformers of their architectures
from easynlp.errors import MissingExtra, ModelError, did_you_mean
from easynlp.models.catalogue import aliases, canonical
from easynlp.models.compact import COMPACT_KEY, is_compact, read_compact
from easynlp.models.dropout import set_dropout
from easynlp.models.students import STUDENTS, read_student
from easynlp.text.hashed_ngrams import FILE as HASHED_FILE
from easynlp.text.hashed_ngrams import HashedNgrams
from easynlp.text.tokenizer import Tokenizer

__all__ = ["BUILT_IN", "Backbone", "lacks_pooler", "set_dropout"]

log = logging.getLogger("easynlp")
BUILT_IN = Path(__file__).with_name("builtin")
"""Folder of the models that come with the package, one folder each."""

_TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                    "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "merges.txt",
                    "vocab.json")  # fmt: skip
_POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
_CONVERTER = "SFconvertbot"
_WANTED = ["*.json", "*.safetensors", "vocab.txt", "*.model", "merges.txt"]


@dataclass(frozen=True)
class Backbone:
    """A pre-trained (or freshly shaped) encoder, before a task puts its head on.

    Attributes:
        name: What the user called it.
        config: The transformers configuration.
        tokenizer: Our tokenizer, read from the same folder.
        folder: Where its weights are; None starts from random weights.
        home: Where its tokenizer's files are, if anywhere.
    """

    name: str
    config: PretrainedConfig
    tokenizer: Tokenizer
    folder: Path | None = None
    home: Path | None = None

    @classmethod
    def load(cls, name: str) -> Backbone:
        """Find a model by name and read its configuration and tokenizer.

        Args:
            name: A built-in name (``tiny-zh``), a local folder, a Hugging Face id
                (``hfl/rbt3``), one of EasyNLP's old names (``bert-base-chinese``, see
                `easynlp.models.catalogue`), ``modelscope:org/name``, or ``random:NAME`` for the
                shape and tokenizer of NAME with random weights. Or a small model that starts from
                random weights, with sizes: ``bilstm:units=64`` (`easynlp.models.students`).

        Raises:
            ModelError: If nothing of that name can be had, the folder is damaged or its weights
                are pickled.

        Example:
            >>> Backbone.load("tiny-zh").config.model_type      # doctest: +SKIP
            'bert'
        """
        random = name.startswith("random:")
        if (student := read_student(name.removeprefix("random:"))) is not None:
            shape, tokenizer = student.make()
            return cls(name, shape, tokenizer)
        wanted = _by_its_own_name(name.removeprefix("random:"))
        folder = _find(wanted)
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
        except Exception as error:
            raise ModelError(f"{folder}/config.json cannot be used: {error}") from error
        weights = folder
        if not random:
            if _is_hub_id(wanted) and not any(folder.glob("*.safetensors")):
                weights = _converted(wanted, _offline()) or folder
            check_weights(weights)
            is_compact(weights, config)  # refuses a folder that says one thing and holds another
        return cls(name, config, _tokenizer(folder), None if random else weights, folder)

    def with_head(self, architecture: str, **overrides: Any) -> PreTrainedModel:
        """Return the model of an auto class in fp32: pre-trained body, new head.

        Args:
            architecture: A transformers auto class, e.g. ``AutoModelForSequenceClassification``.
            **overrides: Configuration values (``num_labels``, ``id2label`` …).

        Raises:
            ModelError: If the weights are damaged or the architecture has no such head.
        """
        return self.with_head_and_gaps(architecture, **overrides)[0]

    def with_head_and_gaps(
        self, architecture: str, **overrides: Any
    ) -> tuple[PreTrainedModel, list[str]]:
        """Return what `with_head` returns, and the parameters that the weights do not hold.

        Those are freshly initialised; with random weights that is all of them.

        Args:
            architecture: See `with_head`.
            **overrides: See `with_head`.

        Raises:
            ModelError: See `with_head`.
        """
        auto = getattr(transformers, architecture)
        config = copy.deepcopy(self.config)
        compact = self.folder is not None and is_compact(self.folder, config)
        if hasattr(config, COMPACT_KEY):
            # The model must not say of itself that its weights are in int8, random ones neither.
            delattr(config, COMPACT_KEY)
        for key, value in overrides.items():
            setattr(config, key, value)
        if type(config) not in auto._model_mapping:
            raise ModelError(
                f"{self.name} is {config.model_type}, and there is no {architecture} of that"
            )
        # At these sizes eager attention is faster than SDPA on a CPU, slower on a GPU.
        attention = "sdpa" if torch.cuda.is_available() else "eager"
        with _quiet():
            try:
                if self.folder is None:
                    config.dtype = torch.float32
                    model = auto.from_config(config, attn_implementation=attention)
                    return model, sorted(name for name, _ in model.named_parameters())
                how: dict[str, Any] = {"config": config, "dtype": torch.float32,
                       "attn_implementation": attention, "output_loading_info": True}  # fmt: skip
                if compact:
                    kind = auto._model_mapping[type(config)]
                    state = read_compact(self.folder)
                    model, found = kind.from_pretrained(None, state_dict=state, **how)
                else:
                    model, found = auto.from_pretrained(
                        self.folder, use_safetensors=True, local_files_only=True, **how
                    )
            except Exception as error:
                raise ModelError(f"cannot make {architecture} of {self.name}: {error}") from error
        return model, sorted(found["missing_keys"])

    def sentence_pooling(self) -> str | None:
        """Return how a sentence-transformers folder makes a sentence's vector.

        That is ``mean``, ``cls`` or another word; None if the folder is none or does not say.

        Raises:
            ModelError: If its files are damaged.
        """
        modules = (self.home or Path()) / "modules.json"
        if self.home is None or not modules.is_file():
            return None
        try:
            for module in json.loads(modules.read_text(encoding="utf-8")):
                if str(module["type"]).endswith(".Pooling"):
                    path = self.home / module["path"] / "config.json"
                    said = json.loads(path.read_text(encoding="utf-8"))
                    if "pooling_mode" in said:
                        return str(said["pooling_mode"])
                    on = [name for name, value in said.items() if value is True]
                    return next((_POOLINGS[name] for name in on if name in _POOLINGS), "other")
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelError(f"{modules} does not say how {self.name} pools: {error}") from error
        return None

    def with_dropout(self, rate: float) -> Backbone:
        """Return the same encoder with all its dropouts set to a rate."""
        config = copy.deepcopy(self.config)
        set_dropout(config, rate)
        return replace(self, config=config)

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer into a model folder so that we and stock transformers read it."""
        self.tokenizer.save(folder)
        if isinstance(self.tokenizer, HashedNgrams):  # stock transformers has nothing like it
            return
        if self.home is not None:
            for name in _TOKENIZER_FILES:
                if (self.home / name).is_file():
                    shutil.copyfile(self.home / name, folder / name)
        settings = folder / "tokenizer_config.json"
        if not settings.is_file():  # then AutoTokenizer needs to be told what tokenizer.json is
            names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]",
                     "sep_token": "[SEP]", "mask_token": "[MASK]"}  # fmt: skip
            known = {k: v for k, v in names.items() if self.tokenizer.id_of(v) is not None}
            settings.write_text(
                json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **known}, indent=1),
                encoding="utf-8",
            )


def lacks_pooler(gaps: Sequence[str]) -> bool:
    """Return whether a pooler is among the parameters that the weights do not hold.

    Args:
        gaps: See `Backbone.with_head_and_gaps`.

    Example:
        >>> lacks_pooler(["bert.pooler.dense.weight", "classifier.weight"])
        True
    """
    return any("pooler." in name for name in gaps)


def check_weights(folder: Path) -> None:
    """Refuse a model folder whose weights are missing, pickled or not safetensors.

    Raises:
        ModelError: With the file and what to do about it.
    """
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        pickled = sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
        if pickled:
            raise ModelError(
                f"{pickled[0]} is a pickled checkpoint, which can run code when read, so it is "
                "refused. Convert it once, where you trust it: model.save_pretrained(FOLDER)"
            )
        raise ModelError(f"{folder} holds no *.safetensors weights")
    for path in found:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = int.from_bytes(file.read(8), "little")
            try:
                if head > min(size, 100 << 20):
                    raise ValueError("its header is longer than the file")
                header = json.loads(file.read(head))
                ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
                if 8 + head + max(ends, default=0) != size:
                    raise ValueError("the file is cut short or has been added to")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ModelError(f"{path} is not a whole safetensors file: {error}") from error


def _tokenizer(folder: Path) -> Tokenizer:
    if any((folder / name).is_file() for name in ("tokenizer.json", HASHED_FILE)):
        return Tokenizer.load(folder)
    try:  # older folders: vocab.txt or a sentencepiece model
        slow = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return Tokenizer(slow.backend_tokenizer)
    except Exception as error:
        if (folder / "vocab.txt").is_file():
            from transformers import BertTokenizer

            return Tokenizer(BertTokenizer.from_pretrained(folder).backend_tokenizer)
        raise ModelError(f"{folder} has no tokenizer that can be read: {error}") from error


def _by_its_own_name(name: str) -> str:
    """Return the hub's name for an old or short name, unless a folder is called that."""
    if (BUILT_IN / name).is_dir() or Path(name).expanduser().is_dir():
        return name
    own = canonical(name)
    if own != name:
        log.info("%s: taken to mean %s", name, own)
    return own


def _find(name: str) -> Path:
    """Return the folder of a model name, fetching it if need be and allowed."""
    if (BUILT_IN / name / "config.json").is_file() and "/" not in name:
        return BUILT_IN / name
    if not name.strip():
        raise ModelError("the model's name is empty: give a built-in name, a folder or a hub id")
    local = Path(name).expanduser()
    if local.is_dir():
        if not (local / "config.json").is_file():
            raise ModelError(f"{name} is a folder without config.json: not a model")
        return local
    if name.startswith("modelscope:"):
        return _from_modelscope(name.removeprefix("modelscope:"))
    built_in = sorted(p.name for p in BUILT_IN.iterdir() if p.is_dir()) if BUILT_IN.is_dir() else []
    built_in += STUDENTS
    if not _is_hub_id(name):
        raise ModelError(
            f'no model "{name}": neither a built-in one ({", ".join(built_in)}), nor a local '
            f"folder, nor a hub id such as hfl/rbt3.{did_you_mean(name, [*built_in, *aliases()])} "
            "Well-known ones: easynlp models"
        )
    return _from_hub(name)


def _is_hub_id(name: str) -> bool:
    return (
        name.count("/") == 1
        and not name.startswith((".", "/", "~", "modelscope:"))
        and not Path(name).exists()
    )


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    offline = _offline()
    try:
        folder = Path(snapshot_download(name, allow_patterns=_WANTED, local_files_only=offline))
    except LocalEntryNotFoundError as error:
        why = "HF_HUB_OFFLINE is set" if offline else "the hub cannot be reached"
        raise ModelError(
            f'there is no folder "{name}", and no such model in the local Hugging Face cache; '
            f"{why}. Use a local folder, the built-in tiny-zh, or fetch it where there is a "
            "network: hf download " + name
        ) from error
    except Exception as error:
        raise ModelError(f'model "{name}" cannot be fetched from Hugging Face: {error}') from error
    return folder


def _converted(name: str, offline: bool) -> Path | None:
    """Return the weights the hub's own converter offers for a repository of pickles.

    Its bot opens a pull request with safetensors made from the pickle; anyone else's pull
    request is not looked at, and only its weights are taken.
    """
    from huggingface_hub import HfApi, snapshot_download

    if offline:
        return None
    try:
        for each in HfApi().get_repo_discussions(name):
            if each.is_pull_request and each.author == _CONVERTER:
                revision = each.git_reference or f"refs/pr/{each.num}"
                found = Path(
                    snapshot_download(name, allow_patterns=["*.safetensors"], revision=revision)
                )
                if any(found.glob("*.safetensors")):
                    log.info("%s: weights of the hub's own conversion, %s", name, revision)
                    return found
    except Exception as error:
        log.warning("%s: the hub's conversion cannot be had: %s", name, error)
    return None


def _from_modelscope(name: str) -> Path:
    try:
        from modelscope_hub import HubApi
    except ImportError as error:
        raise MissingExtra(f"fetching {name} from ModelScope", "modelscope") from error
    try:
        folder = HubApi().download_repo(
            name, "model", allow_patterns=_WANTED, local_files_only=_offline()
        )
    except Exception as error:
        raise ModelError(
            f'model "{name}" cannot be had from ModelScope: {error}. Without a network use '
            "a local folder or the built-in tiny-zh"
        ) from error
    return Path(folder)


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


class _quiet:
    """Silence transformers' notes on new heads: a new head is what was asked for."""

    def __enter__(self) -> None:
        self._level = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]

    def __exit__(self, *_: object) -> None:
        transformers.logging.set_verbosity(self._level)
