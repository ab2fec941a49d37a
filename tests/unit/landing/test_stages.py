import json
import os
import signal
import subprocess
import sys
import time

import pytest

from easynlp.errors import ConfigError, GateError, Interrupted, RunError
from easynlp.landing.stages import Outcome, Stage, run_stages


class Recorder:
    """Stages that write a file and remember that they ran."""

    def __init__(self):
        self.ran = []

    def stage(self, name, *, text="x", dev=None, fails=None, **more):
        def work(room):
            self.ran.append(name)
            if fails is not None:
                raise fails
            (room.folder / "out").mkdir(exist_ok=True)
            (room.folder / "out" / "a.txt").write_text(text)
            return Outcome({"said": text}, "out" if dev is not None else "", dev)

        return Stage(name, f"makes {text}", work, ("out",), **more)


def statuses(road):
    return {each.stage: each.status for each in road.verdicts}


def test_a_stage_runs_again_only_if_what_it_reads_changed(tmp_path):
    outside = tmp_path / "rows.txt"
    outside.write_text("1")
    home = tmp_path / "road"
    seen = Recorder()

    def road(text="x", lr=1, other=0):
        return [
            seen.stage("a", text=text, files=(str(outside),), options={"lr": lr}),
            seen.stage("b", needs=("a",)),
            seen.stage("c", options={"other": other}),
        ]

    run_stages(road(), home)
    assert seen.ran == ["a", "b", "c"]
    assert set(statuses(run_stages(road(), home)).values()) == {"reused"}
    run_stages(road(lr=2), home)  # what it hands on is the same, so b stays
    assert seen.ran == ["a", "b", "c", "a"]
    run_stages(road(text="y", lr=3), home)
    assert seen.ran[4:] == ["a", "b"]
    outside.write_text("2")
    found = run_stages(road(text="y", lr=3, other=1), home)
    assert seen.ran[6:] == ["a", "c"]
    assert statuses(found) == {"a": "done", "b": "reused", "c": "done"}
    (home / "b" / "out" / "a.txt").write_text("tampered with")
    assert statuses(run_stages(road(text="y", lr=3, other=1), home))["b"] == "done"


def test_a_stage_that_hurts_is_dropped_and_the_model_before_goes_on(tmp_path):
    seen, got = Recorder(), []

    def look(room):
        got.append((room.kept.stage, room.kept.folder, room.kept.dev))
        (room.folder / "out").write_text("seen")
        return Outcome()

    stages = [
        seen.stage("first", dev=0.90),
        seen.stage("worse", dev=0.895, better=True),
        seen.stage("smaller", dev=0.893),
        seen.stage("ruined", dev=0.80),
        Stage("look", "looks", look, ("out",), takes_model=True),
    ]
    road = run_stages(stages, tmp_path, max_drop=1.0)
    assert statuses(road) == {
        "first": "done", "worse": "dropped", "smaller": "done", "ruined": "dropped", "look": "done",
    }  # fmt: skip
    assert got == [("smaller", tmp_path / "smaller" / "out", 0.893)]
    why = {each.stage: each.why for each in road.verdicts}
    assert "9.3 points below that of smaller (89.3)" in why["ruined"]
    # Another limit takes other decisions from the same records; only who reads the model runs.
    before = list(seen.ran)
    road = run_stages(stages, tmp_path, max_drop=0.5)
    assert statuses(road)["smaller"] == "dropped"
    assert seen.ran == before
    assert got[1][0] == "first"


@pytest.mark.parametrize(("rows", "kept"), [(0, "first"), (200, "first"), (32, "smaller")])
def test_one_dev_row_may_always_be_lost(tmp_path, rows, kept):
    seen = Recorder()
    stages = [seen.stage("first", dev=0.75), seen.stage("smaller", dev=0.72)]
    road = run_stages(stages, tmp_path, max_drop=0.5, rows=lambda done: rows)
    assert road.kept is not None
    assert road.kept.stage == kept


def test_a_stage_that_must_gain_is_dropped_where_it_does_not(tmp_path):
    seen = Recorder()

    def road(dev):
        return [seen.stage("first", dev=0.9),
                seen.stage("more", dev=dev, gains=True, options={"dev": dev})]  # fmt: skip

    assert run_stages(road(0.9), tmp_path).kept.stage == "first"
    assert "no better than that of first" in run_stages(road(0.9), tmp_path).verdicts[1].why
    assert run_stages(road(0.89), tmp_path).kept.stage == "first"
    assert run_stages(road(0.91), tmp_path).kept.stage == "more"


def test_a_stage_that_is_not_wanted_and_one_with_a_note(tmp_path):
    seen = Recorder()

    def note(room):
        (room.folder / "out").write_text("")
        return Outcome({"note": "there was no need"})

    stages = [seen.stage("a", off="it is off"), seen.stage("b", needs=("a",)),
              Stage("c", "", note, ("out",))]  # fmt: skip
    road = run_stages(stages, tmp_path)
    assert [each.why for each in road.verdicts] == ["it is off", "there is no a",
                                                    "there was no need"]  # fmt: skip
    assert seen.ran == []


def test_what_a_gate_refuses_is_dropped_and_not_tried_again(tmp_path):
    seen = Recorder()
    stages = [
        seen.stage("first", dev=0.9),
        seen.stage("refused", fails=GateError("the export disagrees\nmore")),
        seen.stage("after", needs=("refused",)),
    ]
    for _ in range(2):
        road = run_stages(stages, tmp_path)
        assert statuses(road)["refused"] == "dropped"
        assert road.verdicts[1].why == "the export disagrees"
        assert statuses(road)["after"] == "skipped"
        assert road.kept.stage == "first"
    assert seen.ran == ["first", "refused"]


def test_skipping(tmp_path):
    seen = Recorder()
    stages = [
        seen.stage("a", vital=True),
        seen.stage("b"),
        seen.stage("c", needs=("b",)),
        seen.stage("d", uses=("b",)),
    ]
    road = run_stages(stages, tmp_path, skip=("b",))
    assert statuses(road) == {"a": "done", "b": "skipped", "c": "skipped", "d": "done"}
    assert "there is no b" in road.verdicts[2].why
    with pytest.raises(ConfigError, match='Did you mean "b"'):
        run_stages(stages, tmp_path, skip=("bb",))
    with pytest.raises(ConfigError, match="cannot be skipped"):
        run_stages(stages, tmp_path, skip=("a",))


def test_a_stage_must_make_what_it_hands_on(tmp_path):
    stage = Stage("lazy", "does nothing", lambda room: Outcome(), ("out",))
    with pytest.raises(RunError, match="did not make out"):
        run_stages([stage], tmp_path)
    assert not (tmp_path / "lazy" / "stage.json").exists()


def test_work_cut_off_is_taken_up_and_work_of_other_options_is_not(tmp_path):
    found = []

    def road(option, stop):
        def work(room):
            found.append((room.folder / "half").exists())
            (room.folder / "half").write_text("half")
            if stop:
                raise KeyboardInterrupt
            (room.folder / "out").write_text("whole")
            return Outcome()

        return [Stage("long", "takes long", work, ("out",), options={"option": option})]

    with pytest.raises(Interrupted, match="stopped in the stage long"):
        run_stages(road(1, True), tmp_path)
    with pytest.raises(Interrupted):
        run_stages(road(1, True), tmp_path)
    run_stages(road(1, False), tmp_path)
    with pytest.raises(Interrupted):
        run_stages(road(2, True), tmp_path)
    assert found == [False, True, True, False]


def test_a_finished_stage_whose_files_were_damaged_starts_from_nothing(tmp_path):
    def work(room):
        if not (room.folder / "run").exists():  # as a training that is complete is only loaded
            (room.folder / "run").write_text("whole")
        return Outcome()

    stages = [Stage("learn", "", work, ("run",))]
    run_stages(stages, tmp_path)
    (tmp_path / "learn" / "run").write_text("wh")
    assert statuses(run_stages(stages, tmp_path)) == {"learn": "done"}
    assert (tmp_path / "learn" / "run").read_text() == "whole"


KILLED = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
from easynlp.landing.stages import Outcome, Stage, run_stages
def quick(room):
    (room.folder / "out").write_text("1"); print("quick", flush=True); return Outcome()
def slow(room):
    print("slow", flush=True); time.sleep(float(sys.argv[2]))
    (room.folder / "out").write_text("2"); return Outcome()
stages = [Stage("quick", "", quick, ("out",)), Stage("slow", "", slow, ("out",), needs=("quick",))]
run_stages(stages, Path(sys.argv[1]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_road_goes_on_where_it_was(tmp_path, number):
    def start(seconds):
        return subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path), str(seconds)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=dict(os.environ),
        )  # fmt: skip

    first = start(60)
    assert [first.stdout.readline().strip() for _ in range(2)] == ["quick", "slow"]
    time.sleep(0.05)
    first.send_signal(number)
    assert first.wait(30) != 0
    assert not (tmp_path / "slow" / "stage.json").exists()
    second = start(0)
    assert second.communicate(timeout=60)[0].split() == ["slow"]
    assert json.loads((tmp_path / "slow" / "stage.json").read_text())["outputs"]
