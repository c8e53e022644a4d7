"""The networks of the command line: the default one, and one of the user's own."""

import numpy as np
import pytest
from support.command_line import FIXED, read_json, read_rows

from epochal.cli import networks
from epochal.cli.program import main
from epochal.tables import Target

# -- the network


@pytest.mark.parametrize(
    ("shape", "image", "task"),
    [
        ((5,), False, "classification"),
        ((8, 8), True, "classification"),
        ((12, 16, 3), True, "regression"),
        ((40, 8), False, "classification"),  # a sequence
        ((4, 4), False, "regression"),
        ((8, 8, 16), False, "classification"),
    ],
)
def test_default_network_for_shapes(shape, image, task):
    target = Target("y", task, "number", (0, 1, 2) if task == "classification" else (), 50.0, 1e-6)
    network = networks.default_network(shape, target, 300)
    assert networks.is_image(shape) == image
    assert any("convolution" in layer.name for layer in network.layers) == image
    out = network.predict(np.zeros((2, *shape), np.float32), verbose=0)
    assert out.shape == (2, target.outputs)
    if task == "classification":
        np.testing.assert_allclose(out.sum(axis=1), 1, rtol=1e-5)
    else:
        np.testing.assert_allclose(out, 50, rtol=1e-4)  # in the target's units


# -- a network of one's own


OWN = """
import epochal
from epochal import layers

def plain(input_shape, units):
    return epochal.Sequential([layers.Dense(8, activation="relu", input_shape=input_shape), layers.Dense(units)])

def sigmoid(input_shape):
    return epochal.Sequential([layers.Dense(1, activation="sigmoid", input_shape=input_shape)])

def compiled(input_shape, n_classes, task="?", **more):
    assert task == "classification" and more["n_train"] == 120
    model = epochal.Sequential([layers.Dense(n_classes, activation="softmax", input_shape=input_shape)])
    model.compile(epochal.optimizers.SGD(0.05), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model

def unwritten(input_shape, units):
    activation = lambda x: x
    stack = [layers.Dense(8, activation=activation, input_shape=input_shape), layers.Dense(units, activation="softmax")]
    return epochal.Sequential(stack)

def asks(colour): ...
def none(): return 3
def fails(): return 1 / 0
def wrong(input_shape): return epochal.Sequential([layers.Dense(7, input_shape=input_shape)])
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(OWN)
    return tmp_path


def test_own_network_uncompiled_regression_gets_the_target_s_units(own, place):
    command = ["fit", str(place / "houses.csv"), "--model", "nets.py:plain", "--epochs", "30", "--run-dir", "r", *FIXED]
    assert main([*command, "--learning-rate", "0.03", "--verbose", "0"]) == 0
    assert read_json(own / "r" / "summary.json")["metrics"]["val_r2_score"] > 0.5


def test_own_network_compiled_is_left_as_it_is(own):
    assert main(["fit", "iris", "--model", "nets.py:compiled", "--epochs", "5", "--run-dir", "r", *FIXED]) == 0
    summary = read_json(own / "r" / "summary.json")
    assert (summary["optimizer"], summary["learning_rate"]) == ("SGD", pytest.approx(0.05))


def test_own_network_with_one_output_for_two_classes(own):
    command = ["fit", "breast_cancer", "--model", "nets.py:sigmoid", "--epochs", "8", "--learning-rate", "0.02", *FIXED]
    assert main([*command, "--run-dir", "r", "--verbose", "0"]) == 0
    assert read_json(own / "r" / "summary.json")["metrics"]["val_accuracy"] > 0.9
    assert main(["predict", "r", "breast_cancer", "-o", "p.csv"]) == 0
    row = read_rows(own / "p.csv")[0]
    assert float(row["probability_benign"]) + float(row["probability_malignant"]) == pytest.approx(1)


def test_a_model_that_cannot_be_written_loses_nothing_else(own, capsys):
    command = [
        "fit",
        "iris",
        "--model",
        "nets.py:unwritten",
        "--epochs",
        "2",
        "--run-dir",
        "r",
        "--verbose",
        "0",
        *FIXED,
    ]
    assert main(command) == 0
    assert "weights.safetensors" in capsys.readouterr().out
    assert {p.name for p in (own / "r").iterdir()} >= {"weights.safetensors", "summary.json", "history.csv"}


def test_a_run_that_diverges_says_so(own, capsys):
    command = [
        "fit",
        "diabetes",
        "--learning-rate",
        "1e30",
        "--epochs",
        "3",
        "--run-dir",
        "r",
        "--verbose",
        "0",
        *FIXED,
    ]
    assert main(command) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "smaller --learning-rate" in said
    assert f"epochal replay {own / 'r'} --epoch 1 --batch 1" in said or "epochal replay r --epoch 1 --batch 1" in said
    assert read_json(own / "r" / "summary.json")["status"] == "diverged"
    assert main(["replay", "r", "--epoch", "1", "--batch", "3"]) == 0  # its backup is still there
    shown = " ".join(capsys.readouterr().out.split())
    assert "not finite nothing" not in shown
    assert "norm nan" in shown


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nets.py", "FILE.py:function"),
        ("nots.py:plain", "no file 'nots.py'"),
        ("nets.py:plan", "did you mean 'plain'"),
        ("nets.py:asks", "takes 'colour'; it can ask for input_shape"),
        ("nets.py:none", "returned int"),
        ("nets.py:fails", "line 24: ZeroDivisionError"),
        ("nets.py:wrong", "expected (3,) for 3 classes"),
    ],
)
def test_own_network_errors(own, capsys, spec, said):
    assert main(["fit", "iris", "--model", spec, "--run-dir", "r"]) == 2
    assert said in capsys.readouterr().err
    assert not (own / "r").exists()


def test_a_network_of_logits_gets_a_softmax(tmp_path, capsys):
    (tmp_path / "net.py").write_text(
        "from epochal import Sequential, layers\n"
        "def build(input_shape, n_outputs):\n"
        "    return Sequential([layers.Flatten(), layers.Dense(n_outputs)])\n"
    )
    folder = tmp_path / "run"
    command = ["fit", "iris", "--model", f"{tmp_path / 'net.py'}:build", "--run-dir", str(folder), "--epochs", "60"]
    assert main([*command, "--learning-rate", "0.05"]) == 0
    assert "a softmax is added" in capsys.readouterr().out
    assert read_json(folder / "summary.json")["metrics"]["val_accuracy"] > 0.8
