"""Runs of challenge instances: what is timed, counted, verified and recorded."""

from __future__ import annotations

import json

import challenge_stand_ins
import jsonschema
import numpy as np
import pytest

from spdnn import challenge_network, engine, machine, prepare, record, verify
from spdnn.challenge import Inputs, Instance, run_instance
from spdnn.data import challenge_features, digits
from spdnn.errors import InputError
from spdnn.features import Features
from spdnn.io import load_categories, save_categories
from spdnn.radixnet import CHALLENGE_NONZEROS

LAYERS = 14


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    """300 synthetic digits with a frame around them; some stay alive, some die."""
    images, labels = digits(300)
    pixels = np.pad(images > 100, ((0, 0), (2, 2), (2, 2))).reshape(300, 1024)
    return Inputs(Features.from_bool(pixels, labels=labels), "digits", 0.1)


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    for name, place in challenge_stand_ins.ENGINES.items():
        monkeypatch.setitem(engine.BUILT_IN, name, place)


@pytest.fixture(scope="module")
def truth(inputs) -> np.ndarray:
    plan = prepare(challenge_network(1024, LAYERS), rows=300, engine="scipy", dtype="float64")
    return plan.run(inputs.features).categories


def run(inputs, engine="scipy", **options):
    return run_instance(Instance(1024, LAYERS), inputs, engine=engine, **{"repeat": 1, **options})


def is_valid(kept) -> bool:
    return jsonschema.Draft202012Validator(record.schema()).is_valid(json.loads(json.dumps(kept)))


def test_a_right_run_passes(inputs, truth):
    result = run(inputs, repeat=3)
    assert 0 < len(truth) < 300
    assert result.passed
    assert np.array_equal(result.categories, truth)
    assert len(result.seconds_each) == 3
    assert result.warmed_up
    assert result.seconds == sorted(result.seconds_each)[1]
    assert result.edges_per_second == 300 * 32 * 1024 * LAYERS / result.seconds


def test_live_rows_are_those_with_values_left(inputs):
    result = run(inputs)
    assert len(result.profile) == LAYERS
    for depth in (1, 3, LAYERS):
        plan = prepare(challenge_network(1024, depth), rows=300, engine="scipy", dtype="float64")
        left = plan.run(inputs.features, values=True).to_dense().any(axis=1).sum()
        assert result.profile[depth - 1].live == left
    entering = [300, *(layer.live for layer in result.profile)][:LAYERS]
    assert result.live_edges == sum(entering) * 32 * 1024
    assert result.live_edges < 300 * result.instance.edges


def test_wrong_categories_fail_and_are_named(inputs, truth):
    result = run(inputs, "forgetful")
    others = np.setdiff1d(np.arange(1, 301), truth)
    assert not result.passed
    assert result.verification.missing == (truth[0],)
    assert result.verification.extra == (others[0],)
    assert f"1 missing row: {truth[0]}" in result.verification.problems
    assert f"1 extra row: {others[0]}" in result.verification.problems


def test_float16_is_held_against_a_run_in_float32(inputs, truth, monkeypatch):
    half = engine.Options(dtype="float16")
    result = run(inputs, "rounding", options=half)
    others = np.setdiff1d(np.arange(1, 301), truth)
    assert not result.passed
    assert (result.verification.missing, result.verification.extra) == ((truth[0],), (others[0],))
    assert result.verification.method.startswith("float32 run, held against float64 reference on 256 of 300 rows")
    kept = record.record_of(result)
    assert is_valid(kept)
    assert (kept["dtype"], kept["categories_missing"], kept["categories_extra"]) == ("float16", 1, 1)
    monkeypatch.setattr(challenge_stand_ins.RoundingEngine, "changes", False)
    kept = record.record_of(run(inputs, "rounding", options=half))
    assert kept["verified"]
    assert (kept["categories_missing"], kept["categories_extra"]) == (0, 0)


def test_float16_without_room_for_float32_is_not_verified(inputs, monkeypatch):
    prepare_any = challenge_stand_ins.RoundingEngine._prepare

    def no_room(self, network, rows, options):
        if options.dtype == "float32":
            raise MemoryError("too large")
        return prepare_any(self, network, rows, options)

    monkeypatch.setattr(challenge_stand_ins.RoundingEngine, "_prepare", no_room)
    result = run(inputs, "rounding", options=engine.Options(dtype="float16"))
    assert result.seconds
    assert result.verification.problems == ("no float32 run to hold it against: too large",)


def test_float16_is_held_against_a_file_where_there_is_one(inputs, truth, tmp_path):
    file = save_categories(truth, tmp_path / "right.tsv")
    result = run(inputs, "rounding", options=engine.Options(dtype="float16"), categories_file=file)
    assert result.verification.method == "file right.tsv"
    assert (result.verification.missing[0], len(result.verification.extra)) == (truth[0], 1)


def test_wrong_values_fail_though_the_categories_are_right(inputs):
    result = run(inputs, "imprecise")
    assert not result.passed
    assert len(result.verification.problems) == 1
    assert "final values" in result.verification.problems[0]


def test_runs_that_disagree_fail(inputs):
    result = run(inputs, "erratic", repeat=2)
    assert result.verification.problems == ("run 1 found other categories than the last",)


def test_a_categories_file_is_compared_in_full(inputs, truth, tmp_path):
    file = save_categories(truth, tmp_path / "right.tsv")
    right = run(inputs, categories_file=file)
    assert right.passed
    assert right.verification.method == "file right.tsv"

    others = np.setdiff1d(np.arange(1, 301), truth)
    save_categories(np.sort(np.append(truth[2:], others[:20])), file)
    wrong = run(inputs, categories_file=file).verification
    assert wrong.extra == tuple(truth[:2])
    assert wrong.missing == tuple(others[:20])
    assert f"2 extra rows: {truth[0]}, {truth[1]}" in wrong.problems
    assert any(problem.startswith("20 missing rows: ") and problem.endswith(", …") for problem in wrong.problems)


def test_ids_past_the_last_row_of_a_file_are_left_out(inputs, truth, tmp_path):
    file = save_categories(np.append(truth, 301), tmp_path / "longer.tsv")
    assert run(inputs, categories_file=file).passed


def test_the_sample_is_drawn_with_the_seed():
    positive = np.arange(0, 1000, 2)
    one, again, other = (verify._sample(1000, positive, seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert len(np.unique(one)) == verify.SAMPLED_ROWS
    assert np.isin(one, positive).sum() == verify.SAMPLED_ROWS // 2


@pytest.mark.parametrize(
    ("rows", "positive", "expected"), [(10, 3, 10), (1000, 3, 256), (1000, 998, 256), (300, 0, 256)]
)
def test_the_sample_is_as_large_as_it_can_be(rows, positive, expected):
    sample = verify._sample(rows, np.arange(positive), 0)
    assert len(np.unique(sample)) == len(sample) == expected


def test_too_large_is_a_result_with_a_reason(inputs):
    result = run(inputs, "huge")
    kept = record.record_of(result)
    assert not result.passed
    assert result.reason == "Expected 8 EiB of memory, got less."
    assert (kept["seconds"], kept["categories"], kept["verified"]) == (None, None, False)
    assert (kept["categories_missing"], kept["categories_extra"]) == (None, None)
    assert is_valid(kept)


def test_the_time_limit_stops_repeats(inputs):
    result = run(inputs, repeat=5, time_limit=0.0)
    assert len(result.seconds_each) == 1
    assert not result.warmed_up
    assert result.profile == ()
    assert result.passed
    assert is_valid(record.record_of(result))


def test_switches_the_engine_lacks_are_recorded_as_off(inputs):
    kept = record.record_of(run(inputs, options=engine.Options(merge=False)))
    assert (kept["compact"], kept["merge"], kept["fold"]) == (True, False, False)


@pytest.mark.parametrize(("neurons", "layers"), [(1000, 120), (1024, 0)])
def test_sizes_the_challenge_does_not_have_are_refused(neurons, layers):
    with pytest.raises(InputError, match="Expected"):
        Instance(neurons, layers)


def test_no_repeats_and_no_rows_are_refused(inputs):
    with pytest.raises(InputError, match="at least 1 repeat"):
        run(inputs, repeat=0)
    with pytest.raises(InputError, match="at least 1 row"):
        run(Inputs(inputs.features[:0], "digits", 0.0))


# -- records -----------------------------------------------------------------------------------------------
def test_a_record_fulfils_the_schema(inputs, truth):
    jsonschema.Draft202012Validator.check_schema(record.schema())
    kept = record.record_of(run(inputs), command=["spdnn", "challenge"])
    assert is_valid(kept)
    assert list(kept) == list(record.schema()["properties"])
    assert kept["categories"] == len(truth)
    assert kept["seconds_each"] == [kept["seconds"]]
    assert len(kept["live_rows"]) == len(kept["distinct_rows"]) == LAYERS
    assert kept["distinct_rows"][-1] <= kept["live_rows"][-2]
    assert kept["command"] == "spdnn challenge"


@pytest.mark.parametrize(
    "change", [{"seconds": None}, {"seconds": -1.0}, {"rows": "300"}, {"more": 1}, {"date": "today"}, {"reason": "why"}]
)
def test_the_schema_refuses_records_that_are_none(inputs, change):
    assert not is_valid(record.record_of(run(inputs)) | change)


def test_records_are_kept_under_names_that_tell_them_apart(inputs, tmp_path):
    plain = run(inputs)
    other = run(inputs, options=engine.Options(merge=False, dtype="float64", threads=1))
    assert record.file_name(plain) == f"1024-{LAYERS}-scipy-digits-300rows.json"
    assert record.file_name(other) == f"1024-{LAYERS}-scipy-no-merge-float64-digits-300rows-1threads.json"
    path = record.write(plain, folder=tmp_path, machine_name="here")
    record.write(plain, folder=tmp_path, machine_name="here")
    assert path == tmp_path / "here" / record.file_name(plain)
    assert is_valid(json.loads(path.read_text()))
    assert list(path.parent.iterdir()) == [path]
    assert record.write(plain, folder=tmp_path).parent.name == machine.machine_name()


# -- the official workload -------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def official(mnist_dir) -> Features:
    return challenge_features(1024, source="mnist")


def test_official_inputs_have_official_answers(official, mnist_dir, monkeypatch):
    known = verify.official_of(official, "mnist", 1024, 120)
    assert known.count == 1812
    assert known.file == mnist_dir / "graphchallenge" / "neuron1024-l120-categories.tsv"
    assert verify.official_of(official, "mnist", 1024, 480).file is None
    assert verify.official_of(official, "mnist", 1024, 121) is None
    assert verify.official_of(official[:100], "mnist", 1024, 120) is None
    assert verify.official_of(official, "digits", 1024, 120) is None
    monkeypatch.setitem(CHALLENGE_NONZEROS, 1024, 1)
    with pytest.raises(InputError, match="non-zero"):
        verify.official_of(official, "mnist", 1024, 120)


def test_the_official_file_and_number_decide(official, mnist_dir):
    known = verify.official_of(official, "mnist", 1024, 120)
    ids = load_categories(known.file) - 1
    network = challenge_network(1024, 120)
    plan = prepare(network, rows=300, engine="scipy")

    def check(found, official_answer):
        return verify.verify(network, official, [found], plan, tolerance=1e-4, official=official_answer)

    counted = verify.Official(known.count, None)
    assert check(ids, known).method.startswith("official file")
    assert check(ids, known).passed
    assert check(ids, counted).passed
    assert check(ids[1:], known).missing == (ids[0] + 1,)
    swapped = np.union1d(ids[1:], [0 if ids[0] else 1])
    assert check(swapped, known).extra == (1 if ids[0] else 2,)
    fewer = check(ids[1:], counted)
    assert not fewer.passed
    assert "found 1811 categories instead of 1812" in fewer.problems
