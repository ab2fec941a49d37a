"""Contenders that stand for several: Fuzzy-PET's arms and placebo arms."""

import pytest

from easynlp.benchmarks.arms import arms_of, expand, fuzzy_spread, is_fuzzy_arm
from easynlp.benchmarks.contender import Budget
from easynlp.benchmarks.contenders import find
from easynlp.benchmarks.fewclue_page import fewclue_page, fewclue_table, fuzzy_table
from easynlp.benchmarks.harness import bench_fewclue
from easynlp.benchmarks.names import placebo_of
from easynlp.errors import ConfigError
from easynlp.methods import METHODS
from tests.unit.benchmarks.release import options


def test_fuzzy_pet_is_every_set_and_every_triple():
    names = expand(["floor", "fuzzy-pet:loss=vocabulary@m"])
    assert names[0] == "floor"
    assert len(names) == 21
    assert names[1] == "method:pet:prompt=fuzzy-set-1:loss=vocabulary@m"
    assert names[-1] == "method:pet:prompt=fuzzy-triple-10:loss=vocabulary@m"
    assert all(map(is_fuzzy_arm, names[1:]))
    with pytest.raises(ConfigError, match="prompts are given"):
        expand(["fuzzy-pet:prompt=efl"])


def test_placebos_stand_behind_what_they_are_of():
    arm = "committee:placebo=random-pseudo-labels:quota=9@m"
    assert expand([arm, "chance", "committee:quota=9@m"]) == ["chance", "committee:quota=9@m", arm]
    alone = "method:pet:placebo=random-labels"  # without its method it is a contender as others
    assert expand([alone, "floor"]) == [alone, "floor"]


NEED_TEACHER = ("distill", "distill_layers")
"""Methods with a required option, and a placebo command of their own."""


def test_a_head_that_leans_towards_names_has_an_arm_that_shuffles_them(tiny_folder):
    for name in ("probe:names=labels", "lp-ft:names=efl"):
        (arm,) = arms_of(f"{name}@{tiny_folder}")
        assert arm == f"{name}:placebo=shuffled-names@{tiny_folder}"
        assert find(arm, Budget()).name == arm
        assert arms_of(arm) == []


def test_a_probe_that_learns_on_has_an_arm_for_its_guesses_and_each_arm_has_every_seed(tiny_folder):
    arms = arms_of(f"probe:names=efl:pool=9@{tiny_folder}")
    assert [placebo_of(arm)[1] for arm in arms] == ["shuffled-names", "random-pseudo-labels"]
    assert arms_of(f"probe:pool=0@{tiny_folder}") == []
    # What is dealt out by chance is drawn by the seed: one seed would be one draw.
    assert all(find(arm, Budget()).seeded for arm in arms)
    assert not find(f"probe:names=efl:pool=9@{tiny_folder}", Budget()).seeded


def test_every_method_has_placebo_arms_that_can_be_run(tiny_folder):
    ours = ["ipet", "self-training:quota=9", "committee", "zero-shot", "method:pet:steps=0"]
    alone = [method for method in METHODS if method not in NEED_TEACHER]
    for name in (*(f"method:{method}" for method in alone), *ours):
        arms = arms_of(f"{name}@{tiny_folder}")
        assert arms or "steps" in name
        for arm in arms:
            assert find(arm, Budget()).name == arm
            assert arms_of(arm) == []
    for task in ("prompt_classify", "entailment"):
        kinds = [placebo_of(arm)[1] for arm in arms_of(f"method:{task}@m")]
        assert kinds == ["random-labels", "shuffled-words"]
    assert arms_of("floor") == arms_of("finetune@m") == arms_of("knn@m") == []


def cells(name, values):
    return [{"contender": name, "task": "eprstmt", "split": str(i), "seed": 1, "accuracy": value}
            for i, value in enumerate(values)]  # fmt: skip


def test_the_spread_is_over_sets_and_triples_of_their_means_over_splits():
    found = [
        *cells("method:pet:prompt=fuzzy-set-1@m", (0.5, 0.6)),
        *cells("method:pet:prompt=fuzzy-set-2@m", (0.7, 0.8)),
        *cells("method:pet:prompt=fuzzy-triple-1@m", (0.7, 0.72)),
        *cells("method:pet:prompt=fuzzy-triple-2@m", (0.75, 0.75)),
        *cells("method:pet:prompt=fuzzy-set-1:steps=0@m", (0.9, 0.9)),  # no other to spread over
    ]
    (row,) = fuzzy_spread(found)
    assert (row["contender"], row["task"]) == ("fuzzy-pet@m", "eprstmt")
    assert row["single"]["sd"] == pytest.approx(0.2 / 2**0.5)
    assert row["triples"]["sd"] == pytest.approx(0.04 / 2**0.5)
    assert row["ratio"] == pytest.approx(0.2)
    assert row["worst_gain"] == pytest.approx(0.16)
    assert row["reached"]


def test_a_page_shows_spread_and_placebos_and_no_arm_as_a_contender(root, tiny_folder):
    names = ("floor", "method:r_drop", "fuzzy-pet:steps=0")
    tiny = {"model": str(tiny_folder), "splits": ("0", "1"), "seeds": (13,), "max_length": 32}
    with pytest.raises(ConfigError, match="does not know the label word"):
        bench_fewclue(options(root, contenders=names, output=str(root / "out"), **tiny))
    report = bench_fewclue(options(root, contenders=names[:2], placebos=True, **tiny))
    arms = [f"method:pet:prompt=fuzzy-{kind}-{n}@m" for kind in ("set", "triple") for n in (1, 2)]
    extra = [{**row, "contender": arm} for row in report["scores"][:1] for arm in arms]
    spread = [cell for i, arm in enumerate(arms) for cell in cells(arm, (0.5, 0.5 + i / 10))]
    report = {**report, "scores": [*report["scores"], *extra], "fuzzy": fuzzy_spread(spread)}
    page = fewclue_page(report, "x")
    assert "| ↳ placebo random-labels |" in page
    assert "## What methods have over their placebos" in page
    assert "| method:r_drop | random-labels |" in page
    assert "| fuzzy-pet@m | eprstmt |" in page
    assert "fuzzy-set-1" not in page
    assert report["against"] == "method:r_drop"
    assert fewclue_table(report).row_count == 3
    assert fuzzy_table(report).row_count == 2
    assert fuzzy_table({**report, "fuzzy": []}) is None
