"""What a Docker image of a served model is built from: no torch, no network but for wheels.

The context is complete but for the packages of the base install, which are pinned to the versions
here. The image runs as a user without rights, tells Docker whether it is alive, and ends well on
SIGTERM, as ``easynlp serve`` does.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
from importlib import metadata
from pathlib import Path

import easynlp
from easynlp.errors import ConfigError

__all__ = ["pinned", "write_context"]

DOCKERFILE = """\
# Build here:  docker build -t {name} .
# Run:         docker run --rm -p 8000:8000 -e EASYNLP_API_KEY=... {name}
FROM python:{python}-slim

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/app TOKENIZERS_PARALLELISM=false
COPY requirements.txt /tmp/requirements.txt
RUN pip install --no-cache-dir --no-deps -r /tmp/requirements.txt \\
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin easynlp
COPY easynlp /app/easynlp
COPY model /app/model

WORKDIR /app
USER 10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=3s --start-period=30s --retries=3 \\
    CMD ["python", "-c", {probe}]
ENTRYPOINT ["python", "-m", "easynlp", "serve", "{name}=/app/model", "--host", "0.0.0.0", \
"--port", "8000"]
"""
PROBE = "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"


def write_context(folder: Path, name: str) -> None:
    """Write ``Dockerfile``, pinned ``requirements.txt`` and our own source beside ``model/``.

    Args:
        folder: Holds the export in ``model/``.
        name: Of the image and the served model.

    Raises:
        ConfigError: If the versions installed here cannot be told.
    """
    (folder / "requirements.txt").write_text("\n".join(pinned()) + "\n", encoding="utf-8")
    text = DOCKERFILE.format(
        name=name.lower(), python=platform.python_version(), probe=json.dumps(PROBE)
    )
    (folder / "Dockerfile").write_text(text, encoding="utf-8")
    (folder / ".dockerignore").write_text("export.json\n", encoding="utf-8")
    source = Path(easynlp.__file__).parent
    for file in source.rglob("*.py"):
        target = folder / "easynlp" / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def pinned(package: str = "easynlp") -> list[str]:
    """Return the packages a base install needs, with theirs, each at the version here.

    Raises:
        ConfigError: If the package is not installed.
    """
    waiting, found = [package], dict[str, str]()
    while waiting:
        name = waiting.pop()
        for wanted in _wanted(name):
            try:
                version = metadata.version(wanted)
            except metadata.PackageNotFoundError:  # for another system or Python
                continue
            if wanted not in found:
                found[wanted] = version
                waiting.append(wanted)
    if not found:
        raise ConfigError(
            f"which packages {package} needs is not known, since it is not installed. Type: "
            "pip install ."
        )
    return sorted(f"{name}=={version}" for name, version in found.items())


def _wanted(package: str) -> list[str]:
    try:
        lines = metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return []
    names = []
    for line in lines:
        requirement, _, marker = line.partition(";")
        if "extra ==" not in marker and (match := re.match(r"[A-Za-z0-9._-]+", requirement)):
            names.append(re.sub(r"[-_.]+", "-", match.group()).lower())
    return names
