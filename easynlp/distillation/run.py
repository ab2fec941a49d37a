"""``easynlp distill``: teachers -> answers kept on disk -> a student trained on them -> a run.

What the student is trained with are the methods `distill` and `distill_layers`, in a plain
`run.train`; this file only reads, writes down and puts together. Every step leaves its files, so
the same call with ``resume`` goes on where one stopped.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from easynlp.atomic import write_folder, write_json
from easynlp.config import parse_method, to_yaml
from easynlp.data.augment import augment
from easynlp.data.diagnose import example_hash, fingerprint
from easynlp.dataset import read_all, read_splits
from easynlp.distillation.answers import Wanted
from easynlp.distillation.cache import ask
from easynlp.distillation.endpoint import pick_shots, write_endpoint
from easynlp.distillation.logits import texts_of
from easynlp.distillation.settings import DistillConfig, DistillOptions, EndpointOptions
from easynlp.distillation.teachers import ModelTeacher, Teacher, find_teacher, read_names
from easynlp.errors import ConfigError, DataError, ModelError
from easynlp.fewshot.phases import copy_run, plain_reading, train_once, write_rows
from easynlp.methods import find_method
from easynlp.models.backbone import Backbone, lacks_pooler
from easynlp.models.light import LightConfig
from easynlp.options import flag
from easynlp.pipeline import Pipeline, make_meta, save_meta
from easynlp.pretraining.layer_choice import chosen_layers, keep_layers
from easynlp.tasks import find_task
from easynlp.tasks.base import Example
from easynlp.text.similar_words import read_similar
from easynlp.training.folder import check_folder, claim_folder, drop_folder
from easynlp.training.precision import pick_device

__all__ = ["distill"]

T = TypeVar("T")

log = logging.getLogger("easynlp")
RECIPE, REPORT = "distill", "distill.json"
WORTH = ("answers/**/*", "student/checkpoints/**/*", "student/*.safetensors")
"""Files of a run that took work: what teachers said, and what the student learned."""


def distill(
    config: DistillConfig,
    options: DistillOptions,
    endpoint: EndpointOptions | None = None,
    task_config: Any = None,
) -> Pipeline:
    """Train a student on labels and on what teachers say of labelled and unlabelled texts.

    Args:
        config: Of the student's training. `output` gets its run, ``distill.json`` (texts, scores of
            teacher and student), ``answers/`` and ``student/``. Steps, and evaluations where none
            are asked for, are counted over all texts.
        options: Teachers, texts and loss.
        endpoint: A language model as a further teacher, if its address is given.
        task_config: Options of the task.

    Returns:
        The student, as `easynlp.load` would return it.

    Raises:
        ConfigError: If options are wrong, labels do not agree or the output folder is taken.
        DataError: If a file or row is wrong.
        ModelError: If a model cannot be had.
        Interrupted: After saving, on SIGINT or SIGTERM; the same call with `resume` goes on.

    Example:
        >>> distill(DistillConfig(train="few.jsonl", output="runs/x", student="tiny-zh"),
        ...         DistillOptions(teacher=("runs/t",), unlabeled="pool.jsonl"))  # doctest: +SKIP
    """
    endpoint = endpoint or EndpointOptions()
    task_config = task_config if task_config is not None else find_task(config.task).Config()
    work = _Work(config, options, endpoint, task_config)
    work.check()
    claim: dict[str, Any] = {
        "overwrite": config.overwrite, "resume": config.resume, "name": RECIPE,
        "written": to_yaml(config, options, endpoint, task_config),
        "inputs": (config.student, config.train, config.dev, config.test, options.unlabeled,
                   *options.teacher),
    }  # fmt: skip
    check_folder(work.folder, **claim)
    work.read()
    claim_folder(work.folder, **claim)
    try:
        return work.run()
    except (ConfigError, DataError, ModelError):
        if not config.resume:
            drop_folder(work.folder, WORTH)
        raise


class _Work:
    """One call of `distill`: what was read, and the steps over it."""

    def __init__(
        self, config: DistillConfig, options: DistillOptions, endpoint: EndpointOptions, own: Any
    ) -> None:
        self.config, self.options, self.endpoint, self.own = config, options, endpoint, own
        self.folder = Path(config.output)
        self.report: dict[str, Any] = {}
        self.rows: dict[str, list[Example]] = {}
        self.pool: list[Example] = []
        self.teachers: tuple[str, ...] = options.teacher
        if endpoint.endpoint:
            home = self.folder / "endpoint.json"
            self.teachers = (*options.teacher, f"llm:{home}")

    def check(self) -> None:
        """Refuse options that do not go together, before anything is read."""
        options = self.options
        if not self.teachers:
            raise ConfigError("distilling needs a teacher: type --teacher DIR, or --endpoint URL")
        if self.endpoint.endpoint and "," in str(self.folder):  # it is described in a file there
            raise ConfigError(f"--output {self.folder}: with an endpoint it must hold no comma")
        if options.vote == "calibrated" and self.config.dev is None:
            raise ConfigError("--vote calibrated is fitted on dev: type --dev FILE")
        inner = options.hidden or options.attention or options.relation
        if (inner or options.student_layers) and not options.teacher:
            raise ConfigError("an endpoint has no layers to learn from: give a --teacher as well")
        if inner:
            self._check_layers()
        if options.placebo != "none" and inner:
            raise ConfigError("--placebo shuffles answers; leave --hidden, --attention, --relation")
        for spec in self.config.method:
            parse_method(spec, find_method)
        if options.augment and options.augment_model:
            Backbone.load(options.augment_model)  # looks at the folder, reads no weights yet
        if options.student_layers:
            large = self._of_teacher(lambda: Backbone.load(options.teacher[0]))
            chosen_layers(options.student_layers, large.config, "--student-layers")

    def _check_layers(self) -> None:
        """Refuse to compare layers where a side has none."""
        options = self.options
        given = [flag(n) for n in ("hidden", "attention", "relation") if getattr(options, n)]
        first = options.teacher[0]
        sides = {"teacher": self._of_teacher(lambda: Backbone.load(first))}
        if not options.student_layers:  # else it is of the teacher's shape
            sides["student"] = Backbone.load(self.config.student)
        for who, side in sides.items():
            if isinstance(side.config, LightConfig):
                raise ConfigError(
                    f"{', '.join(given)}: the {who} {side.name} has no layers to compare; leave "
                    f"them out, or take a --{who} of BERT's shape"
                )

    def read(self) -> None:
        """Read the files and make the task, so that what is wrong is told before a folder is."""
        config = self.config
        kind = find_task(config.task)
        self.rows = read_splits(config, kind.fields, ("train",))
        name = self.options.teacher[0] if self.options.student_layers else config.student
        self.task = kind.prepare(self.own, Backbone.load(name).tokenizer, self.rows["train"])
        self.rows |= read_splits(config, kind.fields, ("dev", "test"), self.task)
        self.wanted = Wanted.of(self.task)
        self.own = self.task.config
        names = read_names(self.options.teacher_labels)
        given: dict[str, Any] = {
            "names": names, "max_length": self.options.teacher_length,
            "precision": self.options.teacher_precision, "device": pick_device(config.device),
        }  # fmt: skip
        self.members: list[Teacher] = []
        for each in self.options.teacher:
            found = self._of_teacher(partial(find_teacher, each, self.wanted, **given))
            self.members.append(found)
        if self.options.unlabeled:
            self.pool = self._pool(self.options.unlabeled)

    def _of_teacher(self, find: Callable[[], T]) -> T:
        """Return what is found; where it is not there, the message names the option."""
        try:
            return find()
        except ModelError as error:
            raise ModelError(f"--teacher: {error}") from error

    def run(self) -> Pipeline:
        """Do the steps, each where the last one stopped."""
        files = self._write_files()
        if self.endpoint.endpoint:
            shots = pick_shots(self.rows["train"], self.endpoint.shots)
            path = self.folder / "endpoint.json"
            write_endpoint(path, self.endpoint, shots, self._cache() / "replies")
        self._judge("dev")
        student = self._student_start()
        rows = len(self.rows["train"]) + self.report["unlabelled"] + self.report["augmented"]
        per_epoch = -(-rows // self.config.batch_size)
        base = replace(
            self.config.plain(), model=student, output=str(self.folder / "student"),
            train=files["train"], dev=files.get("dev"), test=files.get("test"), overwrite=False,
            resume=False, method=(*self._methods(files), *self.config.method),
            steps=self.config.steps or max(1, round(self.config.epochs * per_epoch)),
            eval_every=self.config.eval_every or per_epoch, **plain_reading(),
        )  # fmt: skip
        own = replace(self.own, labels=self.wanted.labels)
        trained = train_once(base, own)
        self._judge("test")
        self.report["student"] = trained.meta.get("scores", {})
        write_json(self.folder / REPORT, self.report)
        copy_run(self.folder / "student", self.folder)
        meta = {**trained.meta, "base_model": self.config.student}
        about = {key: meta[key] for key in ("base_model", "columns", "scores", "best_step")}
        save_meta(self.folder, make_meta(trained.task, **about))
        return Pipeline.load(self.folder, backend="torch")

    def _pool(self, path: str) -> list[Example]:
        """Read the unlabelled texts, less what is in the labelled files and what is there twice."""
        known = {example_hash(each) for part in self.rows.values() for each in part}
        reading: Any = replace(self.config, label=None, entities=None)
        everything = read_all(path, self.task.fields, reading, with_targets=False)
        found: list[Example] = []
        for example in everything:
            if (key := example_hash(example)) not in known:
                known.add(key)
                found.append(texts_of(example))
        log.info("unlabelled: %d of %d rows; the rest are twice or in train, dev or test",
                 len(found), len(everything))  # fmt: skip
        return found

    def _write_files(self) -> dict[str, str]:
        """Write every split, and all texts without labels; return their paths."""
        home = self.folder / "texts"
        files = {name: str(home / f"{name}.jsonl") for name in self.rows}
        done = home / "counts.json"
        given = [getattr(self.config, name) for name in self.rows]
        given += [self.options.unlabeled, self.options.similar_words]
        inputs = {path: fingerprint(path).sha256 for path in given if path}
        # A student half of whose training had another teacher would have learned from both.
        taught = {each.name: each.fingerprint for each in self.members}
        if done.is_file():
            before = json.loads(done.read_text(encoding="utf-8"))
            changed = [path for path in inputs if before["inputs"].get(path) != inputs[path]]
            known = before.get("taught_by", taught)  # what an older version did not write down
            changed += [name for name in taught if known.get(name) != taught[name]]
            if changed:
                raise ConfigError(
                    f"cannot resume {self.folder}: {changed[0]} has changed since. Start anew with "
                    "--overwrite, or bring the file back"
                )
            self.report |= before
        else:
            for name, examples in self.rows.items():
                write_rows(Path(files[name]), examples)
            copies = self._copies() if self.options.augment else []
            write_rows(home / "unlabelled.jsonl", [*self.pool, *copies])
            self.report |= {"labelled": len(self.rows["train"]), "unlabelled": len(self.pool),
                            "augmented": len(copies), "inputs": inputs,
                            "taught_by": taught}  # fmt: skip
            write_json(done, self.report)
        if self.report["unlabelled"] + self.report["augmented"]:
            files["unlabelled"] = str(home / "unlabelled.jsonl")
        return files

    def _copies(self) -> list[Example]:
        """Return changed copies of the training rows, none of them a row we know."""
        options, fill = self.options, None
        if options.augment_model:
            from easynlp.distillation.fill_words import WordFiller

            fill = WordFiller(options.augment_model, device=pick_device(self.config.device))
        similar = read_similar(options.similar_words) if options.similar_words else None
        names = ("text", "text_b") if self.wanted.pair else ("text",)
        train = self.rows["train"]
        made = {
            name: augment([each[name] for each in train], options.augment,
                          seed=self.config.seed, similar=similar, fill=fill)
            for name in names
        }  # fmt: skip
        known = {example_hash(each) for part in self.rows.values() for each in part}
        known |= {example_hash(each) for each in self.pool}
        found: list[Example] = []
        for number, example in enumerate(train):
            # Of a pair each text in its turn, and as often the one first as the other.
            turns = [(turn, (place - number) % len(names), name, text)
                     for place, name in enumerate(names)
                     for turn, text in enumerate(made[name][number])]  # fmt: skip
            changed = [{**texts_of(example), name: text} for *_, name, text in sorted(turns)]
            for each in changed[: options.augment]:
                if (key := example_hash(each)) not in known:
                    known.add(key)
                    found.append(each)
        log.info("augmented: %d changed copies of %d rows", len(found), len(train))
        return found

    def _student_start(self) -> str:
        """Return where the student starts; cut from the teacher, if its layers are named."""
        if not self.options.student_layers:
            return self.config.student
        home = self.folder / "start"
        if not (home / "config.json").is_file():
            large = Backbone.load(self.options.teacher[0])
            layers = chosen_layers(self.options.student_layers, large.config, "--student-layers")
            model, gaps = large.with_head_and_gaps("AutoModel")
            small = keep_layers(model, layers)
            state = small.state_dict()
            if lacks_pooler(gaps):  # a random one must not pass for a trained one
                state = {k: v for k, v in state.items() if not k.startswith("pooler.")}

            def fill(target: Path) -> None:
                large.save_tokenizer(target)
                small.save_pretrained(target, state_dict=state)

            write_folder(home, fill)
        return str(home)

    def _methods(self, files: Mapping[str, str]) -> list[str]:
        """Return the specs of the methods that teach."""
        options = self.options
        given: dict[str, Any] = {
            "teacher": ",".join(self.teachers), "alpha": options.alpha,
            "temperature": options.temperature, "loss": options.soft_loss,
            "unlabeled": files.get("unlabelled", ""), "teacher_labels": options.teacher_labels,
            "teacher_length": options.teacher_length, "precision": options.teacher_precision,
            "vote": options.vote, "dev": files["dev"] if options.vote == "calibrated" else "",
            "cache": str(self._cache()), "dtype": options.cache_dtype,
            "placebo": str(options.placebo != "none").lower(),
        }  # fmt: skip
        specs = [_spec("distill", given)]
        weights = {n: getattr(options, n) for n in ("hidden", "attention", "relation")}
        if any(weights.values()):
            inner = {"teacher": options.teacher[0], **weights, "layers": options.layers,
                     "max_length": options.teacher_length}  # fmt: skip
            specs.append(_spec("distill_layers", inner))
        return specs

    def _cache(self) -> Path:
        return Path(self.options.cache) if self.options.cache else self.folder / "answers"

    def _judge(self, split: str) -> None:
        """Score each teacher that has a model on a labelled split, for comparison only."""
        if split not in self.rows:
            return
        scores = self.report.setdefault("teachers", {})
        for member in self.members:
            found = self._score(member, self.rows[split])
            vars(member).pop("pipeline", None)  # its weights are read again when they are needed
            if found is not None:
                scores.setdefault(member.name, {})[split] = found
                log.info("teacher %s, %s: %s", member.name, split,
                         "  ".join(f"{k} {v:.4f}" for k, v in found.items()))  # fmt: skip

    def _score(self, member: Teacher, examples: Sequence[Example]) -> dict[str, float] | None:
        """Return a teacher's scores; of an endpoint and a tagger that is no run there are none."""
        if not isinstance(member, ModelTeacher):  # asking costs, and some texts get no answer
            return None
        if self.wanted.kind == "tags":
            if not member.is_run:
                return None
            return member.pipeline.evaluate(examples)
        answers = ask(member, examples, self._cache(), self.options.cache_dtype)
        given = np.stack([np.asarray(each, np.float32) for each in answers])
        logits = given[:, 0] if self.wanted.kind == "label" else given[..., 1] - given[..., 0]
        found: dict[str, float] = self.task.score(self.task.decode(logits, {}, examples), examples)
        return found


def _spec(name: str, options: Mapping[str, Any]) -> str:
    """Write a method and its options as ``--method`` takes them."""
    return f"{name}:" + ",".join(f"{key}={value}" for key, value in options.items() if value != "")
