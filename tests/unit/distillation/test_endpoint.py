"""A language model as teacher, against a server of our own that also fails, stalls and lies."""

import logging
import os
import signal
import threading
import time

import numpy as np
import pytest

from easynlp.distillation.answers import Wanted
from easynlp.distillation.endpoint import (
    EndpointTeacher,
    parse_label,
    pick_shots,
    write_endpoint,
)
from easynlp.distillation.requests import Ledger
from easynlp.distillation.settings import EndpointOptions
from easynlp.distillation.teachers import find_teacher
from easynlp.errors import ConfigError, Interrupted, RunError
from tests.unit.distillation.fake_endpoint import Server

LABELS = ("好评", "差评")
WANTED = Wanted("label", LABELS)
SECRET = "sk-very-secret-1234"


@pytest.fixture
def server():
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def teacher(server, folder, **options):
    given = {"endpoint": server.url, "endpoint_model": "m", "backoff": 0.01, "timeout": 5.0}
    return EndpointTeacher(EndpointOptions(**{**given, **options}), WANTED, [], folder)


def rows(*texts):
    return [{"text": text} for text in texts]


def labels_of(answers):
    return [None if np.isnan(a).any() else LABELS[int(a[0].argmax())] for a in answers]


def test_labels_are_read_and_failures_tried_again(server, tmp_path):
    asked = teacher(server, tmp_path)
    texts = ["好极了", "很差", "五百好", "断开好", "总坏", "胡说", "中评", "不是json"]
    said = labels_of(asked.answers(rows(*texts)))
    assert said == ["好评", "差评", "好评", "好评", None, None, None, None]
    assert asked.counts == {"answered": 4, "failed": 2, "junk": 1, "unknown label": 1}
    assert server.seen["总坏"] == 5
    assert server.seen["五百好"] == server.seen["断开好"] == 2


def test_a_reply_that_lacks_its_text_is_paid_for_all_the_same(server, tmp_path):
    """Else an endpoint that spends all on thinking would never come to the end of a budget."""
    asked = teacher(server, tmp_path, max_tokens=500, reply_tokens=10)
    with pytest.raises(ConfigError, match="none of 1 texts: --max-tokens 500 is too small"):
        asked.answers(rows("没有回答"))
    assert server.seen["没有回答"] < 5
    assert Ledger(tmp_path / "replies.jsonl", asked.options).tokens_in >= 100


@pytest.mark.parametrize(
    ("text", "label", "became"),
    [
        ("无穷", "好评", "answered"),
        ("半字", None, "junk"),
        ("括号", None, "failed"),
        ("深处", None, "junk"),
        ("列表", None, "failed"),
    ],
)
def test_an_endpoint_that_lies_is_no_traceback_and_its_reply_is_read_back(
    server, tmp_path, text, label, became
):
    for _ in range(2):
        asked = teacher(server, tmp_path, retries=0, reply_tokens=7)
        assert labels_of(asked.answers(rows("好", text))) == ["好评", label]
        assert asked.counts[became] == (2 if label else 1)
    assert server.seen[text] == (2 if became == "failed" else 1)
    spent = Ledger(tmp_path / "replies.jsonl", asked.options)
    assert 100 <= spent.tokens_in < 100_000
    assert spent.tokens_out >= 10


def test_a_reply_that_is_no_chat_completion_is_said_in_words(server, tmp_path):
    with pytest.raises(RunError, match=r"\(the reply is no chat completion"):
        teacher(server, tmp_path, retries=0).answers(rows(*(f"列表{i}" for i in range(8))))


def test_impossible_counts_in_the_cache_are_passed_over(server, tmp_path):
    path = tmp_path / "replies.jsonl"
    lines = ['{"key": "k", "reply": "r", "in": Infinity, "out": 1}', "[" * 200_000,
             '{"key": "k", "reply": "r", "in": 5, "out": -1}', "7"]  # fmt: skip
    path.write_text("\n".join(lines) + "\n", "utf-8")
    ledger = Ledger(path, teacher(server, tmp_path).options)
    assert (ledger.requests, ledger.tokens_in, ledger.replies) == (0, 0, {})


def test_sureness_is_the_probability_of_the_label(server, tmp_path):
    (answer,) = teacher(server, tmp_path, sureness=0.8).answers(rows("好"))
    assert np.exp(answer[0]) == pytest.approx([0.8, 0.2])


def test_retry_after_is_waited_for(server, tmp_path):
    assert labels_of(teacher(server, tmp_path).answers(rows("太多好"))) == ["好评"]
    first, second = server.times["太多好"]
    assert second - first >= 0.3


def test_a_stalled_reply_is_given_up_in_time(server, tmp_path):
    started = time.monotonic()
    assert labels_of(teacher(server, tmp_path, timeout=0.3).answers(rows("停住好"))) == ["好评"]
    assert time.monotonic() - started < 1.8


def test_headers_that_drip_are_given_up_in_time(server, tmp_path):
    started = time.monotonic()
    assert labels_of(teacher(server, tmp_path, timeout=0.3).answers(rows("慢头好"))) == ["好评"]
    assert time.monotonic() - started < 1.8


@pytest.mark.parametrize("text", ["打断一好", "打断二好"])
def test_a_signal_ends_it_after_the_requests_begun(server, tmp_path, text):
    before = signal.getsignal(signal.SIGINT)
    texts = rows("好", text, *(f"好{i}" for i in range(50)))
    asked = teacher(server, tmp_path, workers=1)
    with pytest.raises(Interrupted, match=r"2 of 52 texts are answered.*--resume"):
        asked.answers(texts)
    assert sum(server.seen.values()) == 2
    assert len(Ledger(tmp_path / "replies.jsonl", asked.options).replies) == 2
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("text", "options"),
    [("等着", {}), ("总坏", {"backoff": 200.0}), ("好", {"requests_per_minute": 0.1})],
)
def test_a_signal_ends_a_pause(server, tmp_path, text, options):
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    started = time.monotonic()
    asked = teacher(server, tmp_path, **options)
    with pytest.raises(Interrupted):
        asked.answers(rows(text, f"{text}二"))
    assert time.monotonic() - started < 5
    spent = Ledger(tmp_path / "replies.jsonl", asked.options)
    assert spent.requests == sum(server.seen.values())


def test_a_second_signal_ends_it_at_once(server, tmp_path):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Timer(0.2, twice).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        teacher(server, tmp_path).answers(rows("停住好"))
    assert time.monotonic() - started < 1.5
    assert all(each.daemon for each in threading.enumerate() if "(run)" in each.name)


def test_nothing_is_paid_for_twice(server, tmp_path):
    texts = rows("好极了", "很差", "胡说")
    first = teacher(server, tmp_path).answers(texts)
    again = teacher(server, tmp_path)
    assert all(np.array_equal(a, b, equal_nan=True)
               for a, b in zip(first, again.answers(texts), strict=True))  # fmt: skip
    assert sum(server.seen.values()) == 3
    other = EndpointTeacher(again.options, Wanted("label", ("好评", "差评", "中评")), [], tmp_path)
    other.answers(texts[:1])
    assert server.seen["好极了"] == 2  # other labels are another question


def test_a_line_cut_short_by_a_kill_is_asked_again(server, tmp_path):
    teacher(server, tmp_path, workers=1).answers(rows("好一", "好二"))
    path = tmp_path / "replies.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    again = teacher(server, tmp_path)
    assert labels_of(again.answers(rows("好一", "好二", "好三"))) == ["好评"] * 3
    assert server.seen == {"好一": 1, "好二": 2, "好三": 1}
    assert len(Ledger(path, again.options).replies) == 3


@pytest.mark.parametrize(
    "cap",
    [
        {"max_requests": 3},
        {"max_tokens": 3 * 110 + 700},
        {"max_cost": (3 * 110 + 700) / 1e6, "price_in": 1.0, "price_out": 1.0},
    ],
)
def test_the_budget_is_never_passed_and_counts_what_was_spent_before(server, tmp_path, cap):
    texts = rows(*(f"好{i}" for i in range(9)))
    asked = teacher(server, tmp_path, workers=3, **cap)
    said = labels_of(asked.answers(texts))
    answered = len([each for each in said if each])
    assert 1 <= answered < 9
    assert asked.counts == {"answered": answered, "over budget": 9 - answered}
    spent = Ledger(tmp_path / "replies.jsonl", asked.options)
    assert spent.requests == answered == sum(server.seen.values())
    if "max_requests" in cap:
        assert answered == 3
    else:
        assert spent.tokens_in + spent.tokens_out <= 3 * 110 + 700
    more = teacher(server, tmp_path, workers=1, **cap)
    more.answers(texts)
    if "max_requests" in cap:
        assert sum(server.seen.values()) == 3


@pytest.mark.parametrize(
    ("cap", "said"),
    [
        ({"max_cost": 1e-6, "price_in": 1.0}, "--max-cost 1e-06 is too small"),
        ({"max_tokens": 5}, "--max-tokens 5 is too small"),
    ],
)
def test_a_budget_too_small_for_any_answer_is_named(server, tmp_path, cap, said):
    with pytest.raises(ConfigError, match=f"none of 2 texts: {said}"):
        teacher(server, tmp_path, **cap).answers(rows("好", "差"))
    assert not server.seen


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"endpoint": "file:///etc/passwd"}, "begins with http:// or https:// is wanted"),
        ({"endpoint_model": ""}, "type --endpoint-model NAME"),
        ({"max_cost": 5.0}, "--max-cost needs prices"),
    ],
)
def test_options_that_cannot_work_are_refused_before_anything_is_made(given, message):
    with pytest.raises(ConfigError, match=message):
        EndpointOptions(**({"endpoint": "http://host/v1", "endpoint_model": "m"} | given))


def test_the_cost_is_said(server, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="easynlp"):
        teacher(server, tmp_path, price_in=2.0, price_out=10.0).answers(rows("好", "差"))
    assert "2 answered; 2 requests, 200 + 20 tokens, cost 0.0006" in caplog.text


def test_a_refusal_ends_it_and_the_key_is_shown_nowhere(server, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MY_KEY", SECRET)
    asked = teacher(server, tmp_path, endpoint_key="MY_KEY", workers=1)
    with caplog.at_level(logging.DEBUG), pytest.raises(ConfigError, match="HTTP 401") as error:
        asked.answers(rows("好", "密钥", "好好"))
    assert server.keys == {f"Bearer {SECRET}"}
    write_endpoint(tmp_path / "endpoint.json", asked.options, [])
    written = "".join(path.read_text("utf-8") for path in tmp_path.iterdir())
    for shown in (str(error.value), caplog.text, written, repr(asked), asked.fingerprint):
        assert SECRET not in shown
    assert "***" in str(error.value)


def test_a_refused_text_is_left_out_and_not_asked_again(server, tmp_path, caplog):
    for _ in range(2):
        asked = teacher(server, tmp_path, workers=1)
        with caplog.at_level(logging.INFO, logger="easynlp"):
            said = labels_of(asked.answers(rows("禁词好", "好", "过长", "差")))
        assert said == [None, "好评", None, "差评"]
        assert asked.counts == {"answered": 2, "refused": 2}
        assert "2 refused" in caplog.text
        assert "refused 2 texts, the first with HTTP 400: content filter" in caplog.text
    assert sum(server.seen.values()) == 4
    assert Ledger(tmp_path / "replies.jsonl", asked.options).requests == 4


@pytest.mark.parametrize(("count", "most"), [(30, 8), (3, 3)])
def test_an_endpoint_that_refuses_all_from_the_first_is_given_up(server, tmp_path, count, most):
    """Such a refusal may be of the key or the model's name, so it is not kept."""
    texts = rows(*(f"禁词{i}" for i in range(count)))
    for turn in (1, 2):
        with pytest.raises(ConfigError, match="HTTP 400: content filter"):
            teacher(server, tmp_path, workers=1).answers(texts)
        assert sum(server.seen.values()) == turn * most


def test_a_refused_key_ends_all_requests(server, tmp_path):
    with pytest.raises(ConfigError, match="HTTP 401"):
        teacher(server, tmp_path, workers=1).answers(rows(*(f"密钥{i}" for i in range(9))))
    assert sum(server.seen.values()) == 1


def test_a_redirect_is_not_followed(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", SECRET)
    with pytest.raises(ConfigError, match="HTTP 302"):
        teacher(server, tmp_path, endpoint_key="MY_KEY").answers(rows("转走"))
    assert sum(server.seen.values()) == 1


def test_an_endpoint_that_is_down_is_an_error_that_keeps_what_there_is(server, tmp_path):
    asked = teacher(server, tmp_path, retries=0, workers=1)
    with pytest.raises(RunError, match=r"does not answer \(HTTP 503\). 1 answers are kept"):
        asked.answers(rows("好", *(f"总坏{i}" for i in range(20))))
    assert sum(server.seen.values()) == 9
    gone = EndpointOptions(
        endpoint="http://127.0.0.1:9/v1", endpoint_model="m", retries=0, workers=1
    )
    with pytest.raises(RunError, match="does not answer"):
        EndpointTeacher(gone, WANTED, [], tmp_path).answers(rows(*map(str, range(10))))


def test_requests_keep_to_the_rate(server, tmp_path):
    teacher(server, tmp_path, requests_per_minute=600.0).answers(rows("好1", "好2", "好3"))
    times = sorted(time for each in server.times.values() for time in each)
    assert times[-1] - times[0] >= 0.15


def test_the_prompt_shows_labels_and_examples(server, tmp_path):
    shots = pick_shots([{"text": "不错", "label": "好评"}, {"text": "真烂", "label": "差评"}], 2)
    path = tmp_path / "endpoint.json"
    options = EndpointOptions(endpoint=server.url, endpoint_model="m", instruction="酒店评论。")
    write_endpoint(path, options, shots)
    found = find_teacher(f"llm:{path}", WANTED)
    assert found.fickle
    found.answers(rows("好"))
    messages = server.bodies[0]["messages"]
    assert "酒店评论。" in messages[0]["content"]
    assert "好评、差评" in messages[0]["content"]
    assert messages[2] == {"role": "assistant", "content": "标签：好评"}
    assert messages[-1]["content"] == "文本：好"
    assert server.bodies[0]["temperature"] == 0


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("好评", "好评"),
        (" 好评\n", "好评"),
        ("标签：好评", "好评"),
        ("因为……\nLabel: 差评", "差评"),
        ('{"label": "差评", "reason": "好评很少"}', "差评"),
        ("<think>标签：差评</think>\n标签：好评。", "好评"),
        ("标签：好评\n不过也可能是差评", None),
        ("好评，差评", None),
        ("标签：好评还是差评", None),
        ("<think>标签：好评", None),
        ("<think>一</think>\n<think><think>二</think>标签：好评", "好评"),
        ("{not json", None),
        ('{"label":' * 100_000, None),
        ('{"label": ["好评"]}', None),
        ('["好评"]', None),
        ("", None),
    ],
)
def test_labels_are_read_strictly(reply, label):
    assert parse_label(reply, LABELS)[0] == label


def test_thoughts_without_an_end_take_no_time():
    started = time.monotonic()
    assert parse_label("<think>" * 20_000, LABELS) == (None, "junk")
    assert time.monotonic() - started < 0.5


@pytest.mark.parametrize(
    ("options", "wanted", "said"),
    [
        ({"endpoint": "file:///etc/passwd"}, WANTED, "http:// or https:// is wanted"),
        ({"endpoint_model": ""}, WANTED, "--endpoint-model NAME"),
        ({}, Wanted("tags", ("PER",)), "one label a text"),
    ],
)
def test_wrong_options(tmp_path, options, wanted, said):
    given = {"endpoint": "http://x/v1", "endpoint_model": "m", **options}
    with pytest.raises(ConfigError, match=said):
        EndpointTeacher(EndpointOptions(**given), wanted, [], tmp_path)
    with pytest.raises(ConfigError, match="does not describe an endpoint"):
        EndpointTeacher.read(tmp_path / "none.json", wanted)
