"""Several models in one server: each with its own queue, batches and threads."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from easynlp.deployment.protocol import ApiError
from easynlp.deployment.service import Service, unavailable
from easynlp.deployment.settings import ServeOptions
from easynlp.deployment.telemetry import Telemetry
from easynlp.errors import ConfigError
from easynlp.pipeline import Pipeline

__all__ = ["Fleet", "named_runs", "ready"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

log = logging.getLogger("easynlp")


def named_runs(runs: str | tuple[str, ...]) -> dict[str, str]:
    """Return the run folders of a server by name; the first is the default.

    Args:
        runs: ``NAME=FOLDER``, or a folder, which is called after itself.

    Raises:
        ConfigError: If there is none, a name is taken twice or would not do in an address.

    Example:
        >>> named_runs(("runs/hotel/onnx", "b=runs/books"))
        {'hotel': 'runs/hotel/onnx', 'b': 'runs/books'}
    """
    found: dict[str, str] = {}
    for each in (runs,) if isinstance(runs, str) else runs:
        name, equals, folder = each.partition("=")
        if not equals or Path(each).is_dir():
            folder, home = each, Path(each).resolve()
            name = home.parent.name if home.name == "onnx" else home.name
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "model"
        if not NAME.fullmatch(name):
            raise ConfigError(
                f'"{name}" cannot be the name of a model: letters, digits, ., _ and - are wanted, '
                "at most 64. Type NAME=FOLDER"
            )
        if name in found:
            raise ConfigError(
                f'two models are called "{name}"; give them names: {name}={found[name]} '
                f"{name}2={folder}"
            )
        found[name] = folder
    if not found:
        raise ConfigError("which run is to be served? E.g. easynlp serve runs/x")
    return found


class Fleet:
    """The models of one server; ready when all are.

    Args:
        options: What to load and how to batch; limits are the same for all.
        loads: Makers of pipelines by name, in place of the run folders.
    """

    def __init__(
        self, options: ServeOptions, loads: Mapping[str, Callable[[], Pipeline]] | None = None
    ) -> None:
        self.options = options
        self.telemetry = Telemetry()
        self.services = {
            name: Service(options, name, folder, self.telemetry, (loads or {}).get(name))
            for name, folder in named_runs(options.run).items()
        }
        self.default = next(iter(self.services.values()))
        self.telemetry.ready.set_function(lambda: self.state == "ready")
        self.on_failure: Callable[[], None] = lambda: None
        self._loading: asyncio.Task[None] | None = None

    def __iter__(self) -> Iterator[Service]:
        return iter(self.services.values())

    @property
    def state(self) -> str:
        """Return ``failed`` or ``draining`` if any model is, ``ready`` if all are, or loading."""
        states = {each.state for each in self}
        for state in ("failed", "draining", "loading"):
            if state in states:
                return state
        return "ready"

    @property
    def error(self) -> Exception | None:
        """Return why a model could not be loaded."""
        return next((each.error for each in self if each.error is not None), None)

    def find(self, name: str) -> Service:
        """Return a model by name.

        Raises:
            ApiError: If there is none.
        """
        service = self.services.get(name)
        if service is None:
            raise ApiError(
                404, "unknown_model",
                f'there is no model "{name[:64]}"; served: {", ".join(self.services)}',
                allowed={"models": list(self.services)},
            )  # fmt: skip
        return service

    def start(self) -> None:
        """Begin to load, one model after another; call inside the event loop."""
        for each in self:
            each.batcher.start()
        self._loading = asyncio.get_running_loop().create_task(self._load())

    def drain(self) -> None:
        """Say that this server is about to stop; requests are still answered."""
        for each in self:
            each.drain()

    async def stop(self) -> None:
        """Answer what was asked, then stop."""
        self.drain()
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        await asyncio.gather(*(each.batcher.close() for each in self))

    async def _load(self) -> None:
        for each in self:
            await each.load()
            if each.error is not None:
                self.on_failure()
                return
            memory = "" if each.memory is None else f", {each.memory / 1e6:.0f} MB of memory"
            log.info("%s: %s%s", each.name, each.pipeline.model.backend, memory)
        # What is loaded stays: the collector need not walk it in the middle of a request.
        gc.collect()
        gc.freeze()


def ready(service: Service) -> Service:
    """Return a service that can answer.

    Raises:
        ApiError: If it is being loaded.
    """
    if service.state in ("loading", "failed"):
        raise unavailable("loading", "the model is being loaded")
    return service
