import json
import math
from pathlib import Path

import pytest

from transfer.study import detail_sections, details
from transfer.study.compare import compare
from transfer.study.learning import curve, speed


def add_pair(study, seed, transfer, scratch, **changes):
    study.add("transfer", seed, validation=transfer, **changes)
    study.add("scratch", seed, validation=scratch, **changes)


def test_a_curve_is_read_from_the_sparse_rows(study):
    add_pair(study, 0, [0.6, 0.8], [0.5, 0.7])
    run = compare(study.records).rows[0].sides[0].run
    found = curve(run, "accuracy")
    assert (found.steps.tolist(), found.values.tolist()) == ([7, 14], [0.6, 0.8])
    assert curve(run, "f1") is None


def test_a_run_without_the_file_has_no_curve(study):
    study.add("transfer")
    study.add("scratch")
    comparison = compare(study.records)
    assert curve(comparison.rows[0].sides[0].run, "accuracy") is None
    assert speed(comparison.gains[0][1], "accuracy", True) is None


def test_jumpstart_steps_and_final_value(study):
    add_pair(study, 0, [0.7, 0.8, 0.9], [0.5, 0.6, 0.75, 0.7])
    add_pair(study, 1, [0.6, 0.65], [0.5, 0.8])
    add_pair(study, 2, [0.8], [0.5, 0.5, 0.7])
    found = speed(compare(study.records).gains[0][1], "accuracy", True)
    assert found.jumpstart.mean == pytest.approx((0.2 + 0.1 + 0.3) / 3)
    assert found.final.mean == pytest.approx((0.15 - 0.15 + 0.1) / 3)
    # Seed 0 passes 0.75 at its second validation, seed 1 never 0.8, seed 2 passes 0.7 at once.
    assert (found.steps, found.num_reached, found.num_seeds) == (14, 2, 3)
    assert found.scratch_steps == 21


def test_steps_that_most_seeds_never_make_are_infinite(study):
    add_pair(study, 0, [0.6], [0.5, 0.8])
    add_pair(study, 1, [0.6, 0.9], [0.5, 0.8])
    assert speed(compare(study.records).gains[0][1], "accuracy", True).steps == math.inf


def test_a_loss_is_better_when_it_is_smaller(study):
    add_pair(study, 0, [0.6, 0.8], [0.5, 0.7])
    path = Path(study.records[0]["_folder"]) / "metrics.csv"
    path.write_text(path.read_text().replace(",0.4\n", ",0.2\n"))
    found = speed(compare(study.records, metric="loss").gains[0][1], "loss", False)
    assert found.jumpstart.mean == pytest.approx(0.2)


def test_the_source_is_paid_for_once(study):
    source = study.add(None, 0, None, fingerprint="5" * 40, run_id="pretrain-" + "5" * 10)
    parent = [{"run_id": source["run_id"], "fingerprint": source["fingerprint"]}]
    for seed in (0, 1):
        study.add("transfer", seed, parents=parent)
        study.add("scratch", seed)
    found = details.build(compare(study.records))
    ((cost, uses),) = found.sources
    assert (cost.wall_s, cost.num_runs, uses) == (10.0, 1, 2)
    arms = {cost.label: cost for cost in found.costs}
    assert (arms["scratch"].wall_s, arms["scratch"].train_s, arms["scratch"].examples_per_s) == (10.5, 8.5, 50.0)
    assert (cost.train_flops, cost.model_flops_utilisation, cost.peak_bytes) == (3e12, 0.25, 7e8)
    assert [row[-3:] for row in detail_sections.costs(found).table.rows] == [["3", "25.0 %", "0.70 GB"]] * 3


def test_a_source_of_another_experiment_is_found_beside_it(study):
    source = study.add(None, 0, None, experiment="elsewhere", fingerprint="6" * 40, run_id="pretrain-" + "6" * 10)
    parent = [{"run_id": source["run_id"], "fingerprint": source["fingerprint"]}]
    study.add("transfer", parents=parent)
    study.add("scratch")
    found = details.build(compare([r for r in study.records if r["experiment"] != "elsewhere"]))
    assert [uses for _, uses in found.sources] == [1]
    assert json.loads((Path(source["_folder"]) / "record.json").read_text())["run_id"] in found.sources[0][0].label
