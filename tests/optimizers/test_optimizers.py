"""Optimizers: the same weights as Keras on JAX after the same gradients, and what the training machine relies on."""

import inspect

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest

from epochal import optimizers
from epochal.optimizers import lookup, schedules
from epochal.registry.serialize import deserialize, serialize

NAMES = ["dense/kernel", "dense/bias", "conv/kernel", "embedding/embeddings"]
SHAPES = [(6, 4), (4,), (2, 2, 3, 2), (5, 3)]
STEPS = 12
FAST = {"xla_backend_optimization_level": 0}  # compiles in half the time


def draw(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=s) * scale).astype(np.float32) for s in SHAPES]


START = draw(0)
GRADIENTS = [draw(i + 1, scale=3.0) for i in range(STEPS)]


def of_keras(optimizer, change=None):
    variables = []
    for name, value in zip(NAMES, START, strict=True):
        layer, own = name.split("/")
        with keras.name_scope(layer):
            variables.append(keras.Variable(value, name=own))
    for i, gradients in enumerate(GRADIENTS):
        if change is not None and i == STEPS // 2:
            optimizer.learning_rate = change
        optimizer.apply([jnp.asarray(g) for g in gradients], variables)
    return [v.value for v in variables]


def of_ours(optimizer, change=None):
    """As the training machine does it: compiled once, the state donated."""
    optimizer.bind(NAMES)
    params = [jnp.asarray(p) for p in START]
    optimizer.state = optimizer.init(params)
    program = jax.jit(optimizer.update, donate_argnums=(1, 2))
    compiled = program.lower(GRADIENTS[0], optimizer.state, params).compile(FAST)
    for i, gradients in enumerate(GRADIENTS):
        if change is not None and i == STEPS // 2:
            optimizer.learning_rate = change
        params, optimizer.state = compiled(gradients, optimizer.state, params)
    assert optimizer.iterations == STEPS
    return params


def assert_same(ours, theirs, rtol=1e-6):
    for name, a, b in zip(NAMES, ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol, err_msg=name)


CASES = [
    ("SGD", {}),
    ("SGD", {"learning_rate": 0.1, "momentum": 0.9}),
    ("SGD", {"learning_rate": 0.1, "momentum": 0.8, "nesterov": True}),
    ("Adam", {}),
    ("Adam", {"learning_rate": 0.1, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 0.01}),
    ("Adam", {"amsgrad": True, "beta_2": 0.5}),
    ("AdamW", {}),
    ("AdamW", {"learning_rate": 0.1, "weight_decay": 0.1}),
    ("RMSprop", {}),
    ("RMSprop", {"learning_rate": 0.1, "rho": 0.7, "momentum": 0.9, "epsilon": 0.01}),
    ("RMSprop", {"centered": True, "momentum": 0.5}),
    ("Adagrad", {}),
    ("Adagrad", {"learning_rate": 0.5, "initial_accumulator_value": 0.3, "epsilon": 0.1}),
    ("Adadelta", {}),
    ("Adadelta", {"learning_rate": 1.0, "rho": 0.8, "epsilon": 0.01}),
    ("Adamax", {}),
    ("Adamax", {"learning_rate": 0.1, "beta_1": 0.8, "beta_2": 0.7, "epsilon": 0.01}),
    ("Nadam", {}),
    ("Nadam", {"learning_rate": 0.1, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 0.01}),
    ("Ftrl", {}),
    (
        "Ftrl",
        {
            "learning_rate": 0.1,
            "learning_rate_power": -0.7,
            "initial_accumulator_value": 0.5,
            "l1_regularization_strength": 0.5,
            "l2_regularization_strength": 0.2,
            "l2_shrinkage_regularization_strength": 0.3,
            "beta": 0.4,
        },
    ),
    ("Lion", {}),
    ("Lion", {"learning_rate": 0.1, "beta_1": 0.5, "beta_2": 0.6, "weight_decay": 0.1}),
    ("Adafactor", {}),
    ("Adafactor", {"learning_rate": 0.5, "beta_2_decay": -0.5, "clip_threshold": 0.5, "epsilon_2": 0.01}),
    ("Lamb", {}),
    ("Lamb", {"learning_rate": 0.1, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 0.01, "weight_decay": 0.1}),
    ("Muon", {}),
    ("Muon", {"learning_rate": 0.1, "nesterov": False, "rms_rate": None, "ns_steps": 3, "adam_weight_decay": None}),
    ("Muon", {"exclude_embeddings": False, "exclude_layers": ["dens."], "adam_lr_ratio": 0.1, "weight_decay": None}),
    # what all share
    ("SGD", {"learning_rate": 0.1, "clipnorm": 1.5}),
    ("SGD", {"learning_rate": 0.1, "clipvalue": 0.5}),
    ("SGD", {"learning_rate": 0.1, "global_clipnorm": 2.0, "momentum": 0.9}),
    ("SGD", {"learning_rate": 0.1, "weight_decay": 0.1, "momentum": 0.9}),
    ("SGD", {"learning_rate": 0.1, "use_ema": True, "ema_momentum": 0.7, "ema_overwrite_frequency": 3}),
    ("Adam", {"use_ema": True, "ema_momentum": 0.7, "ema_overwrite_frequency": 1, "weight_decay": 0.1}),
]
IDS = [f"{n}-{'-'.join(a) or 'defaults'}" for n, a in CASES]


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=IDS)
def test_weights_are_those_of_keras(name, arguments):
    # Muon's iteration multiplies rounding differences by its large coefficients.
    rtol = 1e-4 if name == "Muon" else 1e-6
    change = None if "use_ema" in arguments else 0.03
    ours = of_ours(getattr(optimizers, name)(**arguments), change)
    assert_same(ours, of_keras(getattr(keras.optimizers, name)(**arguments), change), rtol)


SCHEDULES = [
    ("ExponentialDecay", (0.1, 5, 0.5), {}),
    ("ExponentialDecay", (0.1, 5, 0.5), {"staircase": True}),
    ("InverseTimeDecay", (0.1, 5, 0.5), {}),
    ("InverseTimeDecay", (0.1, 5, 0.5), {"staircase": True}),
    ("PiecewiseConstantDecay", ([3, 7], [0.1, 0.05, 0.01]), {}),
    ("PolynomialDecay", (0.1, 10), {}),
    ("PolynomialDecay", (0.1, 7), {"end_learning_rate": 0.01, "power": 2.0, "cycle": True}),
    ("CosineDecay", (0.1, 10), {"alpha": 0.1}),
    ("CosineDecay", (0.0, 10), {"warmup_target": 0.1, "warmup_steps": 5}),
    ("CosineDecayRestarts", (0.1, 4), {}),
    ("CosineDecayRestarts", (0.1, 4), {"t_mul": 1.0, "m_mul": 0.5, "alpha": 0.1}),
    ("CosineDecayRestarts", (0.1, 5), {"t_mul": 1.5, "m_mul": 0.9}),
]


@pytest.mark.parametrize(("name", "positional", "named"), SCHEDULES)
def test_schedules_are_those_of_keras(name, positional, named):
    ours = getattr(schedules, name)(*positional, **named)
    theirs = getattr(keras.optimizers.schedules, name)(*positional, **named)
    steps = jnp.arange(40)
    wanted = jax.jit(lambda steps: jax.lax.map(theirs, steps))(steps)
    np.testing.assert_allclose(jax.jit(lambda steps: jax.lax.map(ours, steps))(steps), wanted, rtol=1e-5, atol=1e-7)
    again = deserialize(serialize(ours))
    assert again.get_config() == ours.get_config()
    assert ours(3).dtype == jnp.float32


def test_bad_schedules():
    with pytest.raises(ValueError, match="decay_steps > 0"):
        schedules.CosineDecay(0.1, 0)
    with pytest.raises(ValueError, match="one more value"):
        schedules.PiecewiseConstantDecay([1], [0.1])
    with pytest.raises(ValueError, match="increasing"):
        schedules.PiecewiseConstantDecay([2, 1], [0.1, 0.2, 0.3])


@pytest.mark.parametrize("name", ["SGD", "Adafactor"])
def test_a_schedule_rules_the_rate(name):
    schedule, theirs = schedules.CosineDecay(0.1, 8), keras.optimizers.schedules.CosineDecay(0.1, 8)
    optimizer = getattr(optimizers, name)(schedule)
    assert optimizer.learning_rate == pytest.approx(0.1)
    assert_same(of_ours(optimizer), of_keras(getattr(keras.optimizers, name)(theirs)))
    assert optimizer.learning_rate == pytest.approx(0, abs=1e-6)
    with pytest.raises(TypeError, match="follows a schedule"):
        optimizer.learning_rate = 0.1


def test_functions_rule_the_rate():
    by_step = of_ours(optimizers.SGD(optax.cosine_decay_schedule(0.1, 8)))
    assert_same(by_step, of_ours(optimizers.SGD(schedules.CosineDecay(0.1, 8))))
    asked = []

    def from_outside():  # asked anew at every step
        asked.append(0)
        return 0.1 / len(asked)

    optimizer = optimizers.SGD(from_outside)
    optimizer.bind(NAMES)
    optimizer.state = optimizer.init(START)
    asked.clear()
    params, update = START, jax.jit(optimizer.update)
    for gradients in GRADIENTS:
        params, optimizer.state = update(gradients, optimizer.state, params)
        jax.block_until_ready(params)
    assert len(asked) == STEPS
    assert_same(params, of_ours(optimizers.SGD(schedules.InverseTimeDecay(0.1, 1, 1))))
    with pytest.raises(TypeError, match="follows a schedule"):
        optimizer.learning_rate = 0.1


def test_the_rate_can_be_read_and_set():
    optimizer = optimizers.Adam(0.1)
    assert optimizer.learning_rate == optimizer.lr == 0.1
    optimizer.lr = 0.2
    optimizer.state = optimizer.init(START)
    assert optimizer.learning_rate == 0.2
    revision = optimizer.revision
    optimizer.learning_rate = np.float32(0.3)
    assert float(optimizer.state.learning_rate) == np.float32(0.3)
    assert optimizer.learning_rate == pytest.approx(0.3)
    assert optimizer.get_config()["learning_rate"] == optimizer.learning_rate
    assert optimizer.revision == revision
    optimizer.learning_rate = schedules.CosineDecay(0.5, 10)
    assert optimizer.learning_rate == 0.5
    assert optimizer.revision > revision  # the rule for the rate is in the program


@pytest.mark.parametrize("bad", [-0.1, "0.1", None, float("nan"), float("inf"), True, [0.1], lambda a, b: a])
def test_bad_rates(bad):
    with pytest.raises(ValueError, match="learning_rate"):
        optimizers.SGD(bad)
    if not callable(bad):
        optimizer = optimizers.SGD()
        with pytest.raises(ValueError, match="learning_rate"):
            optimizer.learning_rate = bad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clipnorm": 1.0, "clipvalue": 1.0}, "one of clipnorm"),
        ({"clipnorm": 0.0}, "number > 0 for clipnorm"),
        ({"global_clipnorm": "1"}, "number > 0 for global_clipnorm"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"use_ema": True, "ema_momentum": 1.5}, "ema_momentum"),
        ({"use_ema": True, "ema_overwrite_frequency": 0}, "ema_overwrite_frequency"),
        ({"loss_scale_factor": 2.0}, "loss_scale_factor is not supported"),
        ({"gradient_accumulation_steps": 2}, "micro_batch_size"),
        ({"momentum": 1.5}, "momentum between 0 and 1"),
    ],
)
def test_bad_options(arguments, message):
    with pytest.raises(ValueError, match=message):
        optimizers.SGD(**arguments)


def test_bad_options_of_rules():
    with pytest.raises(ValueError, match="AdamW"):
        optimizers.AdamW(weight_decay=None)
    with pytest.raises(ValueError, match="beta_1"):
        optimizers.Lion(beta_1=0.0)
    with pytest.raises(ValueError, match="learning_rate_power"):
        optimizers.Ftrl(learning_rate_power=0.5)
    with pytest.raises(ValueError, match="l1_regularization_strength"):
        optimizers.Ftrl(l1_regularization_strength=-1.0)


def test_unknown_arguments():
    with pytest.raises(TypeError, match=r"no argument 'momentun'.*'momentum'"):
        optimizers.SGD(momentun=0.9)
    with pytest.raises(TypeError, match=r"InverseTimeDecay\(learning_rate, 1, 0.01\)"):
        optimizers.Adam(decay=0.01)
    with pytest.raises(TypeError, match="Use learning_rate"):
        optimizers.Adam(lr=0.01)


@pytest.mark.parametrize("name", sorted(lookup.NAMES))
def test_A1_defaults_are_those_of_keras(name):
    ours = lookup.NAMES[name]
    theirs = inspect.signature(getattr(keras.optimizers, ours.__name__).__init__).parameters
    wanted = {k: p.default for k, p in theirs.items() if k not in ("self", "kwargs", "name")}
    wanted |= {"exclude_layers": []} if name == "muon" else {}
    config = ours().get_config()
    assert config.pop("name") == name
    assert config == wanted


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=IDS)
def test_written_down_and_read(name, arguments):
    optimizer = getattr(optimizers, name)(**arguments)
    optimizer.learning_rate = 0.25
    again = deserialize(serialize(optimizer))
    assert type(again) is type(optimizer)
    assert again.get_config() == optimizer.get_config()
    assert again.learning_rate == 0.25


def test_weight_decay_leaves_out_what_is_asked():
    def decayed(optimizer, variables=None):
        optimizer.bind(NAMES, variables)
        state = optimizer.init(START)
        params, _ = optimizer.update([jnp.zeros_like(p) for p in START], state, START)
        return [not np.array_equal(a, b) for a, b in zip(params, START, strict=True)]

    assert decayed(optimizers.AdamW()) == [True] * 4
    optimizer = optimizers.AdamW()
    optimizer.exclude_from_weight_decay(var_names=["bias", "^conv/"])
    assert decayed(optimizer) == [True, False, False, True]
    variables = [object() for _ in NAMES]
    optimizer = optimizers.AdamW()
    optimizer.exclude_from_weight_decay(var_list=variables[:1])
    assert decayed(optimizer, variables) == [False, True, True, True]
    optimizer.state = optimizer.init(START)
    with pytest.raises(ValueError, match="before the first fit"):
        optimizer.exclude_from_weight_decay(var_names=["bias"])


def test_names_are_needed_only_where_they_count():
    state = optimizers.Adam().init(START)
    assert len(state.slots) == 4
    optimizer = optimizers.Adam(weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    with pytest.raises(ValueError, match=r"call bind\(names\)"):
        optimizer.update(GRADIENTS[0], optimizer.init(START), START)
    with pytest.raises(ValueError, match=r"call bind\(names\)"):
        optimizers.Muon().init(START)
    optimizer.bind(NAMES[:2])
    with pytest.raises(ValueError, match="Expected 2 parameters"):
        optimizer.init(START)


def test_averages():
    optimizer = optimizers.SGD(use_ema=True, ema_momentum=0.9)
    of_ours(optimizer)
    theirs = keras.optimizers.SGD(use_ema=True, ema_momentum=0.9)
    variables = [keras.Variable(v) for v in START]
    for gradients in GRADIENTS:
        theirs.apply(gradients, variables)
    theirs.finalize_variable_values(variables)
    assert_same(optimizer.averages(optimizer.state), [v.value for v in variables])
    assert optimizers.SGD().averages(optimizer.state) is None


@pytest.mark.parametrize("make", [optimizers.Adam, lambda: optimizers.OptaxOptimizer(optax.adam(1e-3))])
def test_carry_keeps_what_belongs_to_a_parameter(make):
    optimizer = make()
    of_ours(optimizer)
    optimizer.bind([NAMES[2], "new", NAMES[0]])
    params = [START[2], START[1], START[0]]
    carried = optimizer.carry(optimizer.state, NAMES, params)
    assert int(carried.iterations) == STEPS

    def arrays(state, i):
        leaves = jax.tree.leaves(state.slots, is_leaf=lambda n: isinstance(n, list))
        return [np.asarray(a) for n in leaves if isinstance(n, list) for a in jax.tree.leaves(n[i])]

    for new, old in [(0, 2), (2, 0)]:
        for a, b in zip(arrays(carried, new), arrays(optimizer.state, old), strict=True):
            np.testing.assert_array_equal(a, b)
    for fresh in arrays(carried, 1):
        np.testing.assert_array_equal(fresh, np.zeros_like(START[1]))
    optimizer.update([jnp.ones_like(p) for p in params], carried, params)


@pytest.mark.parametrize("name", sorted(lookup.NAMES))
def test_types_stay_in_a_compiled_loop(name):
    optimizer = lookup.NAMES[name](use_ema=True, clipnorm=1.0)
    optimizer.bind(["a/kernel", "b/kernel"])
    params = [jnp.ones((3, 4), jnp.bfloat16), jnp.ones(3)]
    state = optimizer.init(params)

    def body(_, carry):
        params, state = carry
        return optimizer.update(params, state, params)

    # A loop refuses a body that changes the type of anything it carries.
    after, last = jax.eval_shape(lambda *carry: jax.lax.fori_loop(0, 3, body, carry), params, state)
    assert [p.dtype for p in after] == [p.dtype for p in params]
    assert jax.tree.map(lambda a: (a.shape, a.dtype), last) == jax.tree.map(lambda a: (a.shape, a.dtype), state)


def test_settings_changed_later_need_a_new_program():
    optimizer = optimizers.SGD(momentum=0.9)
    before = optimizer.revision
    optimizer.state = optimizer.init(START)
    assert optimizer.revision == before
    optimizer.momentum = 0.5
    assert optimizer.revision > before
    assert optimizer.get_config()["momentum"] == 0.5


class Half(optimizers.Optimizer):
    """A rule of a user's own."""

    def __init__(self, learning_rate=0.5, **options):
        super().__init__(learning_rate, **options)

    def step(self, grad, slots, param, rate, t):
        return param - rate * grad, slots


def test_a_rule_of_ones_own():
    assert_same(of_ours(Half(clipnorm=1.0)), of_ours(optimizers.SGD(0.5, clipnorm=1.0)))


@pytest.mark.parametrize("name", ["adam", "Adam", "ADAM", "sgd", "SGD", "rmsprop", "RMSprop", "adamw", "lamb", "muon"])
def test_get_by_name(name):
    assert type(optimizers.get(name)).__name__.lower() == name.lower()


def test_get():
    made = optimizers.Adam()
    assert optimizers.get(made) is made
    assert isinstance(optimizers.get(optimizers.Nadam), optimizers.Nadam)
    assert isinstance(optimizers.get(optax.adam(1e-3)), optimizers.OptaxOptimizer)
    assert optimizers.get(serialize(optimizers.SGD(0.3))).learning_rate == 0.3
    theirs = keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.3, 10), momentum=0.9)
    read = optimizers.get(keras.optimizers.serialize(theirs))
    assert read.momentum == 0.9
    assert isinstance(read.get_config()["learning_rate"], schedules.CosineDecay)
    with pytest.raises(ValueError, match=r"Unknown optimizer 'adm'. Did you mean .*'adam'"):
        optimizers.get("adm")
    for bad in (3, None, {"a": 1}, serialize(schedules.CosineDecay(0.1, 1))):
        with pytest.raises(ValueError, match=r"Expected the name|Cannot read"):
            optimizers.get(bad)


def test_optax_transformations():
    optimizer = optimizers.get(optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)))
    assert_same(of_ours(optimizer), of_ours(optimizers.SGD(0.1, global_clipnorm=1.0)))
    with pytest.raises(AttributeError, match="inject_hyperparams"):
        _ = optimizer.learning_rate
    with pytest.raises(AttributeError, match="inject_hyperparams"):
        optimizer.learning_rate = 0.1


def test_injected_rates():
    def chained(rate):
        return optax.chain(optax.clip(0.5), optax.inject_hyperparams(optax.sgd)(learning_rate=rate))

    optimizer = optimizers.get(chained(0.1))
    assert optimizer.learning_rate == pytest.approx(0.1)
    optimizer.learning_rate = 0.2
    assert optimizer.lr == 0.2
    assert_same(of_ours(optimizer, change=0.03), of_ours(optimizers.SGD(0.2, clipvalue=0.5), change=0.03))
    assert optimizer.learning_rate == pytest.approx(0.03)
    assert float(optimizer.state.learning_rate) == pytest.approx(0.03)
    ruled = optimizers.get(chained(optax.cosine_decay_schedule(0.1, 8)))
    assert_same(of_ours(ruled), of_ours(optimizers.SGD(schedules.CosineDecay(0.1, 8), clipvalue=0.5)))
    with pytest.raises(TypeError, match="schedule"):
        ruled.learning_rate = 0.1


def test_transformations_that_ask_for_the_loss():
    optimizer = optimizers.get(optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(factor=0.5, patience=1)))
    state, params = optimizer.init(START), START
    for gradients in GRADIENTS:
        params, state = optimizer.update(gradients, state, params, value=jnp.float32(1.0))
    assert float(jax.tree.leaves(optax.tree_utils.tree_get(state.slots, "scale"))[0]) < 1
