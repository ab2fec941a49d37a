"""A small release of two tasks that the harness takes for the real one, and a contender to spy."""

import json

from easynlp.benchmarks import encodings, fewclue, harness, released
from easynlp.benchmarks.contender import Learned
from easynlp.benchmarks.fewclue import OFFICIAL, Suite
from easynlp.benchmarks.harness import bench_fewclue
from easynlp.benchmarks.settings import FewclueOptions

GOOD = ["房间很干净，下次还来", "早餐丰富，位置方便", "老板热情，性价比高", "景色优美，孩子很喜欢"]
BAD = ["服务态度太差了，再也不来", "隔音不好，一夜没睡", "空调坏了也没人管", "又贵又脏，不推荐"]
TEST = [
    ("包装精美物流迅速值得购买", "Positive"), ("屏幕清晰手感舒服非常满意", "Positive"),
    ("味道鲜美分量十足还会回购", "Positive"), ("电池鼓包客服不理再不光顾", "Negative"),
    ("褪色严重线头很多后悔下单", "Negative"), ("假货一件申请退款没有下文", "Negative"),
]  # fmt: skip
BUDGET = {"lrs": (1e-3,), "min_steps": 2, "max_steps": 2, "evaluations": 1}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


def labelled(pairs):
    return [{"text": text, "label": label} for text, label in pairs]


def release(root, monkeypatch, **near):
    """Take the files as they are for the released ones, but for the overlaps given."""
    known = released.describe(root)
    for name, count in near.items():
        known[f"fewclue_eprstmt/{name}"]["near_test"] = count
    monkeypatch.setattr(released, "released", lambda: known)


def make(home, monkeypatch):
    """Two tasks with five splits: one of texts with unlabelled ones, one of idiom questions."""
    rows = [(text, "Positive") for text in GOOD] + [(text, "Negative") for text in BAD]
    folder = home / "bench" / "fewclue_eprstmt"
    for number in (*OFFICIAL, "few_all"):
        write(folder / f"train_{number}.jsonl", labelled((t + number, y) for t, y in rows))
        write(
            folder / f"dev_{number}.jsonl", labelled((t + "啊" + number, y) for t, y in rows[2:6])
        )
    write(folder / "test_public.jsonl", labelled(TEST))
    write(folder / "unlabeled.jsonl", [{"text": text + "。"} for text in GOOD + BAD])
    chid = home / "bench" / "fewclue_chid"
    for name in (*(f"{part}_{n}" for part in ("train", "dev") for n in OFFICIAL), "test_public"):
        write(chid / f"{name}.jsonl", [
            {"text": f"{name}第{i}天他#idiom#地走了{'很远' * i}", "answer": i % 3,
             "candidates": ["高高兴兴", "匆匆忙忙", "慢慢吞吞"]} for i in range(6)
        ])  # fmt: skip
    monkeypatch.setitem(fewclue.FEWCLUE, "eprstmt", Suite("fewclue_eprstmt", 6, 2))
    monkeypatch.setitem(
        fewclue.FEWCLUE, "chid", Suite("fewclue_chid", 6, 3, encodings.idiom, paired=True)
    )
    release(home / "bench", monkeypatch)
    return home / "bench"


def options(root, **more):
    given = {
        "contenders": ("majority", "floor"), "tasks": ("eprstmt",), "draws": 200,
        "data_root": str(root), "output": str(root.parent / "out"), "seeds": (13, 42), **BUDGET,
    }  # fmt: skip
    return FewclueOptions(**{**given, **more})


class Spy:
    """A contender whose bad manners are given as a function of the split."""

    seeded = unlabelled = False
    name = "spy"

    def __init__(self, manners=None, predict=None):
        self.manners, self.predict, self.seen = manners, predict, []

    def takes(self, task):
        return True

    def identity(self):
        return "spy"

    def learn(self, split, seed, say):
        if self.manners:
            self.manners(split)

        def predict(examples):
            self.seen.append(examples)
            return [{"label": "Positive"} for _ in examples]

        return Learned(self.predict or predict, 0.5)


def run_with(spy, root, monkeypatch, **more):
    monkeypatch.setattr(harness, "find", lambda name, budget, model: spy)
    return bench_fewclue(options(root, contenders=("spy",), **more))
