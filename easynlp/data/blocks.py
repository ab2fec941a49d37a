"""Arrays that are dear to compute: block by block, each a file written whole or not at all.

What was interrupted goes on where it stopped, and processes that share the folder share the work.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from easynlp.errors import RunError

__all__ = ["Ragged", "fill_blocks", "save_array"]

Progress = Callable[[str], None]


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an array so that the file is whole or not there; others may write it beside us.

    Raises:
        RunError: If the disk is full or refuses.
    """
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        np.save(temporary, array)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror}. Nothing was changed") from error


def fill_blocks(
    paths: Sequence[Path],
    write: Callable[[int], int],
    *,
    progress: Progress | None = None,
    what: str = "rows",
) -> int:
    """Write the blocks that are not there.

    Args:
        paths: A file each; one that is there is complete.
        write: Makes the block of a number and returns how many rows it holds.
        progress: Called with a line of text after every block.
        what: Rows, for that line.

    Returns:
        Rows that were written now.
    """
    started, done = time.perf_counter(), 0
    for number, path in enumerate(paths):
        if path.is_file():
            continue
        done += write(number)
        if progress is not None:
            rate = done / (time.perf_counter() - started)
            progress(f"teacher: block {number + 1} of {len(paths)}, {rate:,.0f} {what}/s")
    return done


class Ragged(Sequence[np.ndarray]):
    """Rows of different lengths, in blocks that stay on disk until they are asked for.

    A block is two files: ``NAME.npy``, its rows one behind the other, and ``NAME.starts.npy``,
    where each begins and the last ends.

    Args:
        paths: ``NAME.npy`` of each block.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "0.npy")
        >>> Ragged.save(path, [np.zeros((1, 2)), np.ones((3, 2))], np.float16)
        >>> [row.shape for row in Ragged([path])]
        [(1, 2), (3, 2)]
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._values = [np.load(path, mmap_mode="r") for path in paths]
        self._starts = [np.load(_starts(path)) for path in paths]
        sizes = [len(starts) - 1 for starts in self._starts]
        self._firsts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    @classmethod
    def save(cls, path: Path, rows: Sequence[np.ndarray], dtype: np.dtype | type) -> None:
        """Write a block; ``NAME.npy`` last, so that one that is there is complete.

        Args:
            path: ``NAME.npy``.
            rows: At least one, alike but for their first dimension.
            dtype: What the values are kept as.
        """
        starts = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        save_array(_starts(path), starts)
        save_array(path, np.concatenate(rows).astype(dtype))

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        block = int(np.searchsorted(self._firsts, index, side="right")) - 1
        place = index - int(self._firsts[block])
        starts = self._starts[block]
        found: np.ndarray = self._values[block][starts[place] : starts[place + 1]]
        return found

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))


def _starts(path: Path) -> Path:
    return path.with_name(f"{path.stem}.starts.npy")
