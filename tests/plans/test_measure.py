"""Measuring for a plan, on real models."""

from __future__ import annotations

import re
from contextlib import ExitStack
from typing import Any

import jax
import numpy as np
import pytest
from support.data import diabetes, digits
from support.planning import everything, measured, network, unchanged
from support.same import same

import epochal as keras
from epochal.critical_batch import Moments, combined
from epochal.models import input_data, planning
from epochal.models.input_data import Traversal
from epochal.models.trainer import training_of
from epochal.plans import step_times, trial_noise
from epochal.plans.measure import PlanRequest, measurements
from epochal.plans.plan import BatchPlan, make_plan
from epochal.plans.step_times import StepTimes, Timed
from epochal.plans.trial_model import Prepared, TrialModel
from epochal.plans.trial_noise import Heard
from epochal.runtime.memory import Limit


def prepared(model: Any, x: Any, y: Any) -> input_data.Data:
    """The data as a plan of it takes it."""
    with ExitStack() as closing:
        return input_data.prepare(training_of(model), "fit", (x, y, None), Traversal(), closing)


# -- measuring


def test_a_plan_is_measured_on_real_data(quick):
    x, y = digits(300)
    plan = keras.plan_batch_size(network(), x, y, max_seconds=1000)
    assert set(plan.measurements.seconds) == {16, 64, 300}
    assert all(seconds > 0 for seconds in plan.measurements.seconds.values())
    assert 1 <= plan.batch_size <= 300
    assert plan.max_batch_size == 300
    estimate = plan.critical_batch_size
    assert estimate is not None
    assert 0 < estimate.low <= estimate.value <= estimate.high
    assert plan.measurements.trained == 2


def test_the_model_is_the_same_afterwards_to_the_bit_and_trains_as_if_nothing_had_been(quick):
    x, y = digits(300)
    model, other = network(), network()
    for m in (model, other):
        keras.utils.set_random_seed(3)
        m.build((None, 64))
        m.fit(x, y, batch_size=50, epochs=1, verbose=0)
    before, seconds = everything(model), model.history
    keras.plan_batch_size(model, x, y, max_seconds=1000)
    assert unchanged(everything(model), before)
    assert model.history is seconds
    assert model.optimizer.iterations == 6
    histories = []
    for m in (model, other):
        keras.utils.set_random_seed(4)
        histories.append(m.fit(x, y, batch_size=64, epochs=2, verbose=0).history)
    assert histories[0] == histories[1]
    assert same(model.get_weights(), other.get_weights())


def test_the_model_is_the_same_where_measuring_is_broken_off(quick, monkeypatch):
    x, y = digits(300)
    model = network()
    model.fit(x, y, batch_size=50, epochs=1, verbose=0)
    before = everything(model)

    def broken(*arguments: Any, state: Any) -> Any:
        assert not same(state.params, training_of(model).parts().collect()[0])  # trained, beside the model
        assert unchanged(everything(model), before)
        raise KeyboardInterrupt

    monkeypatch.setattr(trial_noise, "squares_and_products", broken)
    with pytest.raises(KeyboardInterrupt):
        keras.plan_batch_size(model, x, y, max_seconds=1000)
    assert unchanged(everything(model), before)
    model.fit(x, y, batch_size=50, epochs=1, verbose=0)  # its arrays are alive


def test_a_plan_of_micro_batches_tells_what_is_run(quick):
    x, y = digits(300)
    model = network()
    model.compile("adam", "sparse_categorical_crossentropy", micro_batch_size=16)
    plan = keras.plan_batch_size(model, x, y, max_seconds=1000)
    assert model.programs()["train"] == 3
    for m in (16, 64, 300):
        model.fit(x, y, batch_size=m, verbose=0)
    assert model.programs()["train"] == 3  # what the plan has measured is what fit runs
    assert (plan.memory(300) or 0) - (plan.memory(64) or 0) < 236 * 64 * 4  # no room for 236 more rows of x
    assert plan.micro_batch_size == min(plan.batch_size, 16)
    assert "in micro-batches of 16" in str(plan)
    assert str(BatchPlan.from_dict(plan.to_dict())) == str(plan)


def test_a_step_that_runs_out_of_memory_while_it_is_timed_does_not_fit(quick, monkeypatch):
    x, y = digits(300)
    real = StepTimes._called

    def short(self: Any, m: int, count: int) -> float:
        took = real(self, m, count)  # the state is used up
        if m > 64:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")
        return took

    monkeypatch.setattr(StepTimes, "_called", short)
    plan = keras.plan_batch_size(network(), x, y, max_seconds=1000)
    assert set(plan.measurements.seconds) == {16, 64}
    assert plan.batch_size <= plan.max_batch_size < 300
    assert "A step with 300 examples ran out of memory" in str(plan)


def test_a_new_optimizer_has_made_no_step_afterwards(quick):
    model = network()
    keras.plan_batch_size(model, *digits(300), max_seconds=1000)
    assert model.optimizer.iterations == 0


def test_a_limit_below_a_step_of_one_example_is_told(quick):
    with pytest.raises(ValueError, match=r"A step with one example needs .* and there are 100 B"):
        keras.plan_batch_size(network(), *digits(300), memory_limit=100)


@pytest.mark.slow  # many programs
def test_under_a_limit_the_largest_size_fits_and_the_next_sixteenth_does_not(quick):
    x, y = digits()
    model = network(units=256)
    plan = keras.plan_batch_size(model, x, y, memory_limit="3MB", max_seconds=1000)
    most = plan.max_batch_size
    assert 64 < most < len(x)
    assert plan.batch_size <= most
    predicted = {m: size for m, size in plan.measurements.bytes.items() if size <= 3_000_000}
    assert max(predicted) > 15 / 16 * most  # verified by compiling
    assert any(m <= 17 / 16 * most + 1 for m, size in plan.measurements.bytes.items() if size > 3_000_000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_sizes": [0]}, "Expected batch_sizes"),
        ({"batch_sizes": "full"}, "Expected batch_sizes"),
        ({"batch_sizes": []}, "Expected batch_sizes"),
        ({"max_seconds": 0}, "Expected max_seconds"),
        ({"max_seconds": "long"}, "Expected max_seconds"),
        ({"memory_limit": "much"}, "Expected memory_limit"),
    ],
)
def test_arguments_out_of_range_are_refused_before_anything_is_measured(arguments, message):
    with pytest.raises(ValueError, match=message):
        keras.plan_batch_size(network(), *digits(50), **arguments)


def test_batches_and_stateful_models_are_refused():
    x, y = digits(64)
    with pytest.raises(ValueError, match="pass arrays"):
        keras.plan_batch_size(network(), (batch for batch in [(x, y)]))
    model = keras.Sequential([keras.layers.LSTM(4, stateful=True), keras.layers.Dense(10)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="stateful"):
        keras.plan_batch_size(model, x.reshape(64, 8, 8), np.zeros((64, 10), np.float32))
    with pytest.raises(RuntimeError, match="compile"):
        keras.plan_batch_size(keras.Sequential([keras.layers.Dense(1)]), x, y)


def test_a_regression_and_an_eager_model_are_measured(quick):
    x, y = diabetes(100)
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    assert keras.plan_batch_size(model, x, y, max_seconds=1000).measurements.bytes
    model.compile("sgd", "mse", run_eagerly=True)
    plan = keras.plan_batch_size(model, x, y, batch_sizes=(50, "full"), max_seconds=1000)
    assert plan.memory(50) is None
    assert plan.batch_size in (50, 100)


# -- the trial training


def test_a_step_s_own_seconds_are_what_more_steps_add_to_a_call():
    calls = {
        (16, 10): 5.0 + 10 * 2,
        (16, 5): 5.0 + 5 * 2,
        (64, 4): 5.0 + 4 * 3,
        (64, 2): 5.0 + 2 * 3,
        (300, 1): 5.0 + 7,
    }
    assert step_times._own_seconds(calls) == pytest.approx({16: 2, 64: 3, 300: 7})
    assert step_times._own_seconds({(300, 1): 4.0}) == {300: 4.0}


@pytest.mark.parametrize(
    ("tick", "epochs", "sizes", "said"),
    [
        (1e-3, 3, {64}, "kept short, since 3 epochs in batches of 64 would take .* than another size takes to compile"),
        (1.0, 3, {16, 64}, "kept short, since 3 epochs in batches of 64 would take"),
        (1e-3, 10**9, {16, 64, 300}, ""),
    ],
)
def test_a_plan_for_a_short_training_measures_less_and_says_so(quick, tick, epochs, sizes, said):
    ticks = iter(range(10**9))
    request = PlanRequest(max_seconds=1000, epochs=epochs)
    plan = planning.plan_of(prepared(network(), *digits(300)), request, clock=lambda: next(ticks) * tick)
    assert set(plan.measurements.seconds) == sizes
    assert plan.critical_batch_size is not None
    assert plan.batch_size <= {1: 4 * 64, 2: 64, 3: 300}[len(sizes)]  # nothing is said far beside few sizes
    assert not said or re.search(said, " ".join(plan.why))
    assert said or "kept short" not in " ".join(plan.why)


@pytest.mark.parametrize(
    ("given", "judged"),
    [
        ({"fraction": 0}, (0, 0.0)),
        ({"fraction": 0.2, "passes": 0.5}, (60, 0.5)),
        ({"fraction": 0, "validation_data": (np.zeros((70, 64)), np.zeros(70))}, (70, 1.0)),
        ({"fraction": 0, "validation_data": iter([(np.zeros((70, 64)), np.zeros(70))])}, (0, 0.0)),  # nobody knows
    ],
)
def test_validation_counts_among_an_epoch_s_seconds(monkeypatch, given, judged):
    x, y = digits(300)
    asked: list[PlanRequest] = []
    monkeypatch.setattr(planning, "plan_of", lambda _, request: asked.append(request) or make_plan(measured()))
    planning.plan_for_fit(network(), (x, y, None), None, epochs=5, **given)
    assert [request.validation for request in asked] == [judged]
    timed = Timed({30: 3e-3, 300: 6e-3}, 1.0, {}, Limit(10**9, "the test"))
    found = measurements(300, timed, Heard(), judged)
    rows, passes = judged
    assert found.epoch_seconds == pytest.approx(1 + passes * (1 + rows / 3 * 6e-3 / 300))
    assert ("validation on" in make_plan(found).why[1]) == (rows > 0)


def test_a_copy_is_trained_as_fit_would_in_one_go_or_several(quick):
    x, y = digits(300)
    model = network()
    training, data = training_of(model), prepared(model, x, y)
    programs = training.steps(data.first, training.ready_to("fit"))
    training.start_optimizer(programs.parts)
    tried = TrialModel(Prepared(programs, data.first, data.first.n), 5)
    tried.compile(64)
    once, twice = tried.copies(), tried.copies()
    tried.advance(64, once, 0, 8)  # 5 make an epoch
    tried.advance(64, twice, 0, 3)
    tried.advance(64, twice, 3, 8)
    assert same(once.read().params, twice.read().params)
    assert not np.array_equal(once.read().params[0], training.parts().collect()[0][0])


def test_the_noise_is_the_mean_over_the_steps_without_noise_that_updates_are_worth():
    # gradients that shrink by 1000 while their noise scale grows from 2 to 640: looks after 2, 4 and 8 updates
    found = [Moments(g, g * b, (0.0, 0.0, 0.0), 1024, 64) for g, b in [(1.0, 2.0), (0.1, 64.0), (1e-3, 640.0)]]
    weights = trial_noise._ideal_steps(dict(zip((2, 4, 8), found, strict=True)), m=64)
    updates = np.array([3.0, 3.0, 2.0])
    worth = updates / (1 + np.array([2.0, 64.0, 640.0]) / 64)
    expected = worth @ [2.0, 64.0, 640.0] / worth.sum()
    assert combined(found, weights=weights).value == pytest.approx(expected)
    # so that S(m) is the same for the size that was trained with: all updates, 1 + B / m for each step without noise
    assert worth.sum() * (1 + expected / 64) == pytest.approx(updates.sum())


def test_a_training_that_has_come_to_its_end_does_not_decide_what_the_noise_is():
    # all n = 40 examples at once: at the end the mean gradient is zero, and |G|² without bias is -tr Σ / n
    begun, ended = Moments(1.0, 20.0, (0.0, 0.0, 0.0), 40, 40), Moments(-0.1 / 40, 0.1, (0.0, 0.0, 0.0), 40, 40)
    weights = trial_noise._ideal_steps({2: begun, 4: ended}, m=40)
    e = np.array([1 / (1 + 20 / 40), -1.0])  # of each of 3 updates, and of 1
    expected = (3 * 20 * e[0] + 40) / (3 * e[0] + e[1])
    assert combined([begun, ended], weights=weights).value == pytest.approx(expected)
    still = Moments(0.0, 0.0, (0.0, 0.0, 0.0), 40, 40)  # no gradient at all: it tells nothing
    assert trial_noise._ideal_steps({2: begun, 4: still}, m=40)[1] == 0
    assert trial_noise._ideal_steps({2: still, 4: still}, m=40) == [3.0, 1.0]


def test_updates_between_two_looks_count_half_for_each():
    looks = [1, 2, 4, 8]
    weights = trial_noise._updates(looks)
    assert sum(weights) == 8
    values = np.array(looks, float)  # a straight line is integrated exactly, but for what is before the first look
    assert np.dot(weights[1:], values[1:]) + (weights[0] - 1) * values[0] == pytest.approx((8**2 - 1) / 2)
