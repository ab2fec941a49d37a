"""Requests to an endpoint that costs money and fails: budget, rate, retries, and what was paid."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from easynlp.distillation.bounded_http import opener
from easynlp.distillation.settings import EndpointOptions
from easynlp.errors import RunError

__all__ = ["Client", "Ledger", "OutOfBudget", "Refused", "Stopped", "TextRefused"]

MOST_BYTES = 1 << 20
"""Of a reply; more is a failure."""
LONGEST_WAIT = 300.0
"""Seconds: most that a Retry-After is believed."""
MOST_TOKENS = 10**9
"""Of a request; who says more is not believed."""
OF_THE_TEXT = (400, 413, 422)
"""Statuses that refuse one text: a content filter, a text too long."""


class OutOfBudget(Exception):
    """The next request might cost more than may be spent; the message names the option."""


class Refused(Exception):
    """The endpoint will not take such requests at all: a wrong key, path or model."""


class TextRefused(Exception):
    """The endpoint will not take this text; others it may."""


class Stopped(Exception):
    """No further request is to be begun."""


class _NoReply(ValueError):
    """What came back is not what was asked for; the message says so in words."""


class Ledger:
    """What was replied and what it cost, in a file of JSON lines that is only added to.

    A line that was cut short by a kill is passed over.

    Args:
        path: The file; what it holds counts towards the budget.
        options: Budget and prices.

    Attributes:
        replies: What was replied, by key.
        refused: What was refused for good and why, by key.
        doubted: What was refused while `trusted` was not yet set; not written.
        trusted: Whether the endpoint has ever replied to such requests. Before that a refusal may
            be of the model's name or the key, whatever its status says.
    """

    def __init__(self, path: Path, options: EndpointOptions) -> None:
        self.options, self.replies = options, dict[str, str]()
        self.refused, self.doubted = dict[str, str](), dict[str, str]()
        self.trusted = False
        self.requests = self.tokens_in = self.tokens_out = 0
        self._reserved: list[tuple[int, int]] = []
        self._lock = threading.Lock()
        whole = True
        if path.is_file():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines(True):
                whole = line.endswith("\n")
                with contextlib.suppress(*_ODD):
                    self._add(json.loads(line))
        try:
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror}") from error
        if not whole:
            self._file.write("\n")

    @property
    def cost(self) -> float:
        """Money spent, at the options' prices."""
        return self._price(self.tokens_in, self.tokens_out)

    def reserve(self, tokens_in: int, tokens_out: int) -> tuple[int, int]:
        """Set a request's most tokens aside before it is made.

        Raises:
            OutOfBudget: If it might cost more than is left.
        """
        options, mine = self.options, (tokens_in, tokens_out)
        with self._lock:
            held = [*self._reserved, mine]
            more_in, more_out = (self.tokens_in + sum(n for n, _ in held),
                                 self.tokens_out + sum(n for _, n in held))  # fmt: skip
            if self.requests + len(held) > options.max_requests:
                raise OutOfBudget(f"--max-requests {options.max_requests} is used up")
            if options.max_tokens and more_in + more_out > options.max_tokens:
                raise OutOfBudget(
                    f"--max-tokens {options.max_tokens} is too small: {self.tokens_in:,} + "
                    f"{self.tokens_out:,} are spent, a request may take {sum(mine):,}"
                )
            if options.max_cost and self._price(more_in, more_out) > options.max_cost:
                raise OutOfBudget(
                    f"--max-cost {options.max_cost:g} is too small: {self.cost:.4g} is spent, a "
                    f"request may cost {self._price(*mine):.4g}"
                )
            self._reserved.append(mine)
        return mine

    def release(self, mine: tuple[int, int]) -> None:
        """Give back what was set aside for a request that is not made."""
        with self._lock:
            self._reserved.remove(mine)

    def settle(
        self, mine: tuple[int, int], used: tuple[int, int], key: str = "", reply: str | None = None
    ) -> None:
        """Write down what a request cost in truth, and its reply if there was one."""
        line = {"key": key, "reply": reply, "in": used[0], "out": used[1]}
        with self._lock:
            self._reserved.remove(mine)
            self._add(line)
            self._write(line)
            if reply is not None:
                self.trusted = True
                while self.doubted:
                    self._refuse(*self.doubted.popitem())

    def refuse(self, key: str, why: str) -> None:
        """Note that a text is refused, so that it is not asked again; see `doubted`."""
        with self._lock:
            if self.trusted:
                self._refuse(key, why)
            else:
                self.doubted[key] = why

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def __str__(self) -> str:
        tokens = f"{self.requests} requests, {self.tokens_in:,} + {self.tokens_out:,} tokens"
        return f"{tokens}, cost {self.cost:.4f}" if self.options.price_in else tokens

    def _price(self, tokens_in: int, tokens_out: int) -> float:
        options = self.options
        return (tokens_in * options.price_in + tokens_out * options.price_out) / 1e6

    def _refuse(self, key: str, why: str) -> None:
        self.refused[key] = why
        self._write({"key": key, "refused": why})

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()

    def _add(self, line: Mapping[str, Any]) -> None:
        if "refused" in line:  # its request has a line of its own
            self.refused[str(line["key"])] = str(line["refused"])
            return
        tokens_in, tokens_out = _tokens(line["in"]), _tokens(line["out"])
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out
        self.requests += 1
        if line["reply"] is not None:
            self.replies[str(line["key"])] = str(line["reply"])


class Client:
    """Asks an endpoint, again where it fails.

    Args:
        options: Address, patience and rate.
        ledger: Where costs are written.
        stop: When it is set, pauses end and no request is begun.

    Attributes:
        last_failure: What went wrong last, for people.
    """

    def __init__(
        self, options: EndpointOptions, ledger: Ledger, stop: threading.Event | None = None
    ) -> None:
        self.options, self.ledger, self.stop = options, ledger, stop or threading.Event()
        self.last_failure = ""
        self._url = options.endpoint.rstrip("/") + "/chat/completions"
        self._opener = opener()
        self._lock, self._next = threading.Lock(), 0.0

    def ask(self, key: str, messages: Sequence[Mapping[str, str]]) -> str | None:
        """Return the reply to messages, or None if there is none after all tries.

        Args:
            key: What the reply is kept by.
            messages: A chat.

        Raises:
            OutOfBudget: If it might cost more than is left.
            Refused: If the endpoint does not take such requests.
            TextRefused: If it does not take this one.
            Stopped: If there is no reply yet and no further request may be begun.
        """
        body = json.dumps(
            {"model": self.options.endpoint_model, "messages": list(messages), "temperature": 0,
             "max_tokens": self.options.reply_tokens}
        ).encode()  # fmt: skip
        # A tokenizer of bytes makes no more tokens than there are bytes; most make far fewer.
        most = (sum(len(each["content"].encode("utf-8", "surrogatepass")) + 8 for each in messages),
                self.options.reply_tokens)  # fmt: skip
        for turn in range(self.options.retries + 1):
            mine = self.ledger.reserve(*most)
            if self._wait_for_turn():
                self.ledger.release(mine)
                raise Stopped
            used, reply, wait = (0, 0), None, self.options.backoff * 2**turn
            try:
                said = self._send(body)
                if isinstance(said, dict) and "usage" in said:  # paid for, whatever else it lacks
                    used = _usage(said, most)
                reply = _content(said)
                used = _usage(said, most)
                return reply
            except urllib.error.HTTPError as error:
                self._note(f"HTTP {error.code}")
                if error.code not in (408, 409, 425, 429) and error.code < 500:
                    kind = TextRefused if error.code in OF_THE_TEXT else Refused
                    raise kind(self._hide(f"HTTP {error.code}: {_detail(error)}")) from None
                wait = max(wait, _retry_after(error.headers.get("Retry-After")))
            except _NoReply as error:
                self._note(str(error))
            except (OSError, http.client.HTTPException, ValueError) as error:
                # It may have been computed and be paid for, though we did not get it.
                used = most if isinstance(error, TimeoutError) else used
                self._note(f"{type(error).__name__}: {error}")
            finally:
                self.ledger.settle(mine, used, key, reply)
            if turn < self.options.retries and self.stop.wait(wait):
                raise Stopped
        return None

    def _send(self, body: bytes) -> Any:
        headers = {"Content-Type": "application/json"}
        if secret := os.environ.get(self.options.endpoint_key):
            headers["Authorization"] = f"Bearer {secret}"
        request = urllib.request.Request(self._url, body, headers, method="POST")
        with self._opener.open(request, timeout=self.options.timeout) as response:
            parts, size = [], 0
            while part := response.read1(65536):
                parts.append(part)
                size += len(part)
                if size > MOST_BYTES:
                    raise _NoReply("the reply is too long")
        try:
            return json.loads(b"".join(parts))
        except (ValueError, RecursionError):
            raise _NoReply("the reply is no JSON that can be read") from None

    def _wait_for_turn(self) -> bool:
        """Keep to the rate; return whether it was stopped meanwhile."""
        if not self.options.requests_per_minute:
            return self.stop.is_set()
        with self._lock:
            now = time.monotonic()
            at = max(now, self._next)
            self._next = at + 60.0 / self.options.requests_per_minute
        return self.stop.wait(at - now)

    def _note(self, said: str) -> None:
        self.last_failure = self._hide(said)

    def _hide(self, said: str) -> str:
        secret = os.environ.get(self.options.endpoint_key)
        return said.replace(secret, "***") if secret else said


_ODD = (ValueError, KeyError, TypeError, OverflowError, RecursionError)
"""What reading a JSON line of unknown contents can raise."""


def _tokens(value: Any) -> int:
    """Return a count of tokens; less than nothing or beyond measure is an error."""
    count = int(value)
    if not 0 <= count <= MOST_TOKENS:
        raise ValueError(value)
    return count


def _content(said: Any) -> str:
    """Return what a chat completion says.

    Half a surrogate pair, of a character that was cut, becomes a question mark: it could neither
    be written nor shown.

    Raises:
        _NoReply: If it is none.
    """
    try:
        content = said["choices"][0]["message"]["content"]
    except (LookupError, TypeError):
        raise _NoReply(
            "the reply is no chat completion: it has no choices[0].message.content"
        ) from None
    return content.encode("utf-8", "replace").decode() if isinstance(content, str) else ""


def _usage(said: Mapping[str, Any], most: tuple[int, int]) -> tuple[int, int]:
    """Return the tokens a reply says it cost; what was set aside, if it does not say."""
    try:
        usage = said["usage"]
        return _tokens(usage["prompt_tokens"]), _tokens(usage["completion_tokens"])
    except _ODD:
        return most


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(400).decode("utf-8", "replace").strip() or str(error.reason)
    except (OSError, http.client.HTTPException):
        return str(error.reason)


def _retry_after(value: str | None) -> float:
    """Return the seconds a Retry-After header asks for, 0 if it says nothing sensible."""
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError):
            return 0.0
    return min(max(0.0, seconds), LONGEST_WAIT) if seconds == seconds else 0.0
