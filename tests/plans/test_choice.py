"""Which batch size to take: the choice from measurements, against closed forms."""

from __future__ import annotations

import json
import math

import pytest
from matplotlib.image import imread
from support.planning import SIZES, measured, noise

from epochal.plans import choice
from epochal.plans.plan import BatchPlan, make_plan
from epochal.runtime.memory import Limit


def test_best_size_is_the_geometric_mean_of_the_machine_s_and_the_problem_s():
    plan = make_plan(measured())  # a digits MLP: a / b = 245, B = 39
    assert plan.half_throughput_batch == pytest.approx(245)
    assert plan.optimum == pytest.approx(math.sqrt(245 * 39))  # 97.8
    assert plan.batch_size == 64  # 4 % above the least time; 32 is 28 %


@pytest.mark.parametrize("critical", [5, 39, 300, 4000])
@pytest.mark.parametrize("ratio", [10, 245, 3000])
def test_a_choice_costs_at_most_a_tenth_more_than_the_best_of_all_sizes_and_is_the_smallest_such_power_of_two(
    ratio, critical
):
    found = measured(a=ratio * 1e-6, critical=critical)

    def cost(m: int) -> float:
        return (1 + critical / m) * (ratio + m)

    least = min(map(cost, range(1, found.n)))
    m = make_plan(found).batch_size
    assert cost(m) <= 1.1 * least
    assert all(cost(2**k) > 1.09 * least for k in range(m.bit_length() - 1))  # short last batches count as less


def test_expected_seconds_are_the_formula_s_relative_to_the_recommended():
    plan = make_plan(measured())

    def t(m: float) -> float:
        return (1 + 39 / m) * (245 + m)

    for m in (16, 256, 1000):  # n is a multiple of none of them: average sizes count
        assert plan.expected_seconds_to_target(m) == pytest.approx(t(m) / t(plan.batch_size), rel=0.01)
    assert plan.expected_seconds_to_target(plan.batch_size) == 1


def test_seconds_of_an_epoch_beside_its_steps_count_like_seconds_per_example():
    n = 2048
    plan = make_plan(measured(n=n, epoch_seconds=3e-6 * n))
    assert plan.optimum == pytest.approx(math.sqrt(245e-6 / 4e-6 * 39))


def test_a_short_last_batch_costs_a_whole_step():
    plan = make_plan(measured(n=1025, critical=1e6))
    assert plan.expected_seconds_to_target(1024) > 1.4 * plan.expected_seconds_to_target(1025)


def test_memory_caps_the_size_and_the_largest_one_fits():
    limit = 1_000_000 + 1000 * 50
    plan = make_plan(measured(limit=Limit(limit, "the test")))
    assert plan.max_batch_size == 50
    assert plan.batch_size <= 50
    assert plan.memory(50) == limit
    assert (plan.memory(51) or 0) > limit
    row = next(r for r in plan.rows() if r["batch_size"] == 256)
    assert not row["fits"]
    assert "does not fit" in plan.table()


def test_a_noise_above_all_examples_makes_full_batches_where_steps_cost_nearly_the_same():
    plan = make_plan(measured(a=1.0, b=1e-9, critical=1e9, n=5000))
    assert plan.batch_size == plan.max_batch_size == 5000


def test_unresolved_noise_counts_with_its_lower_end_and_the_plan_says_so():
    plan = make_plan(measured(critical=None, noise=noise(math.inf, low=500.0, high=math.inf)))
    assert plan.optimum == pytest.approx(math.sqrt(245 * 500))
    assert any("at least 500" in sentence for sentence in plan.why)


def test_only_sizes_asked_for_are_chosen_from():
    plan = make_plan(measured(batch_sizes=(8, 300)))
    assert plan.batch_size == 300
    assert {8, 300} <= {row["batch_size"] for row in plan.rows()}


def test_where_no_line_fits_the_measured_table_counts_and_nothing_beyond_it():
    # a CNN whose throughput is best at 16: seconds grow faster than the batch from there on
    seconds = {4: 4e-3, 16: 8e-3, 64: 80e-3, 256: 700e-3}
    plan = make_plan(measured(seconds=seconds, critical=1e5))
    assert plan.batch_size == 16
    assert "straight line" in plan.why[1]
    assert make_plan(measured(seconds={4: 1e-2, 16: 1e-2, 64: 1.1e-2, 256: 2e-1}, critical=1e9)).batch_size <= 256


def test_of_two_measured_sizes_nothing_far_beside_them_is_concluded():
    # a line through zero would make single examples best, a flat one all of them
    assert make_plan(measured(seconds={16: 1e-3, 128: 8e-3})).batch_size == 8
    assert make_plan(measured(seconds={16: 1e-3, 128: 1e-3}, critical=1e9)).batch_size == 128


def test_of_one_measured_size_half_is_taken_to_be_the_step_s_own_and_the_choice_stays_near():
    plan = make_plan(measured(seconds={32: 64e-6}, n=3200, epoch_seconds=3200 * 1e-6, critical=50))
    assert plan.optimum == pytest.approx(math.sqrt(32e-6 / (1e-6 + 1e-6) * 50))
    assert make_plan(measured(seconds={32: 1e-3}, critical=1e9)).batch_size == 128
    assert make_plan(measured(seconds={32: 1e-3}, critical=1e-3)).batch_size == 8


def test_a_line_through_measured_times_is_found_again_and_never_slopes_down():
    found = choice.line({m: 3.0 + 0.5 * m for m in SIZES})
    assert (found.a, found.b, found.error) == pytest.approx((3.0, 0.5, 0.0), abs=1e-9)
    falling = choice.line({1: 2.0, 100: 1.0})
    assert falling.a > 0
    assert falling.b == 0
    through = choice.line({10: 1.0, 1000: 200.0})
    assert through.a == 0
    assert through.b > 0


def test_between_measured_sizes_values_are_straight_on_log_scales():
    assert choice.between({10: 1.0, 1000: 100.0}, 100) == pytest.approx(10.0)
    assert choice.between({10: 1.0, 1000: 100.0}, 5) == 1.0
    assert choice.between({10: 1.0, 1000: 1.5}, 2000) == pytest.approx(3.0)


def test_table_always_has_the_sizes_people_ask_for_and_marks_one():
    plan = make_plan(measured(n=5000))
    sizes = [row["batch_size"] for row in plan.rows()]
    assert sizes == sorted({32, 64, 128, 256, 5000, plan.batch_size})
    marked = [line for line in plan.table().splitlines() if "recommended" in line]
    assert len(marked) == 1
    assert marked[0].split()[0] == str(plan.batch_size)
    assert "5000 (full)" in plan.table()
    assert plan.table() in str(plan)


def test_reasons_name_machine_problem_and_memory_and_what_would_change_the_answer():
    why = " ".join(make_plan(measured()).why)
    for part in ("Machine:", "Problem:", "Memory:", "m* = 98", "over the first 100 updates", "would change"):
        assert part in why


def test_a_plan_is_json_and_comes_back_from_it():
    plan = make_plan(measured(noise=noise(math.inf, low=7.0, high=math.inf), notes=("A note.",)))
    again = BatchPlan.from_dict(json.loads(json.dumps(plan.to_dict(), allow_nan=False)))
    assert again.to_dict() == plan.to_dict()
    assert str(again) == str(plan)


def test_a_picture_is_written(tmp_path):
    figure = make_plan(measured(limit=Limit(1_500_000, "the test"))).plot(tmp_path / "plan.png")
    assert len(figure.axes) == 3
    assert imread(tmp_path / "plan.png").std() > 0.01
