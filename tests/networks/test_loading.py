"""Network configurations are executed as weaver executes them; mistakes in them are told in one line."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from weaver_tasks.base.errors import NetworkError
from weaver_tasks.networks.loading import load_network

INFO = """
def info(data_config):
    return {"input_names": list(data_config.input_names), "input_shapes": {}, "output_names": ["out"], "dynamic_axes": {}}
"""
BARE = (
    """
import torch
def get_model(data_config, **kwargs):
    model = torch.nn.Linear(2, 3)
    model.kwargs = kwargs
    return model, info(data_config)
"""
    + INFO
)


def write(folder: Path, text: str) -> Path:
    path = folder / "net.py"
    path.write_text(text)
    return path


def test_the_demo_network(repository: Path, data_configuration: SimpleNamespace, batch: tuple[Tensor, ...]) -> None:
    network = load_network(repository / "config/networks/pfn.py", data_configuration, {"F_sizes": (16,)})
    assert network.model(*batch).shape == (64, 10)
    assert isinstance(network.loss, torch.nn.CrossEntropyLoss)
    assert network.train_fn is network.evaluate_fn is network.init_opt is None
    inference = load_network(repository / "config/networks/pfn.py", data_configuration, for_inference=True).model(*batch)
    assert torch.allclose(inference.sum(dim=1), torch.ones(64))


def test_options_and_injected_ones_reach_get_model(tmp_path: Path, data_configuration: SimpleNamespace) -> None:
    path = write(tmp_path, BARE)
    plain = load_network(path, data_configuration, {"depth": 3})
    assert plain.model.kwargs == {"depth": 3}
    assert plain.loss is None
    everything = load_network(path, data_configuration, {"depth": 3}, use_amp=True, compile_model=True, for_inference=True)
    assert everything.model.kwargs == everything.options == {"depth": 3, "use_amp": True, "compile_model": True, "for_inference": True}


@pytest.mark.parametrize(
    "text",
    [
        BARE.replace("**kwargs", "depth=1").replace("= kwargs", "= {'depth': depth}"),
        BARE.replace("Linear(2, 3)", "Linear(2, 3, **{k: kwargs[k] for k in {*kwargs} - {'depth'}})").replace("= kwargs", "= {'depth': 3}"),
        BARE.replace("def get_model", "class Net(torch.nn.Linear):\n    def __init__(self, depth): super().__init__(2, 3)\n\ndef get_model")
        .replace("torch.nn.Linear(2, 3)", "Net(**kwargs)")
        .replace("= kwargs", "= kwargs"),
        BARE.replace("Linear(2, 3)", "Linear(2, 3); dict(for_inference=False, use_amp=False, compile_model=False, **kwargs)"),
        BARE.replace("    model =", "    if set(kwargs) - {'depth'}: raise ValueError(f'unknown options {sorted(kwargs)}')\n    model ="),
    ],
)
def test_what_no_user_has_given_is_left_out_where_nothing_takes_it(tmp_path: Path, data_configuration: SimpleNamespace, text: str) -> None:
    path = write(tmp_path, text + "\ndef get_loss(data_config, depth): return None\n")
    network = load_network(path, data_configuration, {"depth": 3}, use_amp=True, compile_model=True, for_inference=True)
    assert network.options == {"depth": 3}
    with pytest.raises(NetworkError, match="'width'"):
        load_network(path, data_configuration, {"depth": 3, "width": 3}, for_inference=True)


def test_axes_that_an_input_does_not_have_are_left_out(tmp_path: Path, data_configuration: SimpleNamespace) -> None:
    shapes = {"flat": (-1, 4, None), "number": (-1, 1, None), "list": (-1, 4, 16), "axes": (-1, 3, None)}
    given = {name: {0: "N", 2: "n", -1: "m"} for name in shapes} | {"axes": [0, 2], "softmax": {0: "N", 2: "n"}}
    text = BARE.replace('"dynamic_axes": {', f'"dynamic_axes": {given}, "_": {{')
    assert text != BARE
    network = load_network(write(tmp_path, text), SimpleNamespace(input_names=[], input_shapes=shapes))
    assert network.info["dynamic_axes"] == {
        "flat": {0: "N", 1: "m"},
        "number": {0: "m"},
        "list": {0: "N", 2: "m"},
        "axes": [0],
        "softmax": {0: "N", 2: "n"},
    }


def test_loss_loops_and_optimizer_are_taken_where_defined(tmp_path: Path, data_configuration: SimpleNamespace) -> None:
    path = write(
        tmp_path,
        BARE
        + """
def get_loss(data_config, **kwargs): return "loss"
def get_train_fn(data_config, **kwargs): return "train"
def get_evaluate_fn(data_config, **kwargs): return "evaluate"
def init_opt(args, model, **options): return "optimizer", "scheduler"
""",
    )
    network = load_network(path, data_configuration)
    assert (network.loss, network.train_fn, network.evaluate_fn) == ("loss", "train", "evaluate")
    assert network.init_opt is not None
    assert network.init_opt(None, None) == ("optimizer", "scheduler")


def test_sibling_modules_are_importable(tmp_path: Path, data_configuration: SimpleNamespace) -> None:
    (tmp_path / "sibling_of_net.py").write_text("WIDTH = 7\n")
    path = write(tmp_path, "from sibling_of_net import WIDTH\n" + BARE.replace("Linear(2, 3)", "Linear(2, WIDTH)"))
    assert load_network(path, data_configuration).model.out_features == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BARE.replace("get_model", "getmodel"), r"net\.py: no function get_model.* Did you mean: getmodel"),
        (BARE.replace("return model, info", "return info"), r"get_model returned dict\. Return \(model"),
        (BARE.replace('"output_names"', '"outputnames"'), r"lacks 'output_names'\. Did you mean: outputnames"),
        (BARE.replace("list(data_config.input_names)", '["pf_x"]'), r"\['pf_x'\], but the data configuration's input groups are"),
        (BARE.replace("**kwargs", "dept=1").replace("= kwargs", "= dept"), r"takes no option 'depth'.* Did you mean: dept"),
        (BARE.replace("Linear(2, 3)", "Linear(2, 3, **kwargs)"), r"option 'depth' \(network\.options\) is not taken"),
        (BARE + "\ndef get_train_fn(data_config, **kwargs): return 1\n", r"defines get_train_fn alone"),
        ("def f(:\n", r"net\.py, line 1: not valid Python"),
        (BARE + "\ndef get_loss(data_config, **kwargs): return 'ce'\n", r"net\.py: get_loss returned str\. Return a module or function"),
        (BARE + "\nget_loss = 3\n", r"net\.py: get_loss is int\. Define it as a function"),
        (BARE + "\ndef get_loss(): pass\n", r"net\.py: get_loss takes no option 'depth'"),
        (BARE.replace("import torch", "import torchh"), r"net\.py: No module named 'torchh'\. Install it, or correct the import"),
        ("1 / 0\n", r"net\.py, line 1, in <module>: importing it failed \(ZeroDivisionError: division by zero\)"),
        ("import sys\nsys.exit(3)\n", r"net\.py, line 2, in <module>: importing it failed \(SystemExit: 3\)"),
        (BARE.replace("Linear(2, 3)", "Linear(2, 1 // 0)"), r"net\.py, line 4, in get_model: get_model failed \(ZeroDivisionError"),
        (BARE.replace("Linear(2, 3)", "Linear(2, -3)"), r"net\.py, line 4, in get_model: get_model failed \(RuntimeError: .*negative"),
        (
            BARE + "\ndef get_loss(data_config, **kwargs): return data_config.nothing\n",
            r"in get_loss: get_loss failed \(AttributeError: .*'nothing'",
        ),
    ],
)
def test_mistakes_are_told(tmp_path: Path, data_configuration: SimpleNamespace, text: str, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        load_network(write(tmp_path, text), data_configuration, {"depth": 3})


def test_a_missing_file_is_told(tmp_path: Path, data_configuration: SimpleNamespace) -> None:
    with pytest.raises(NetworkError, match=r"none\.py: no such file"):
        load_network(tmp_path / "none.py", data_configuration)


def test_an_error_of_the_users_code_has_its_traceback_as_cause(tmp_path: Path, data_configuration: SimpleNamespace) -> None:
    with pytest.raises(NetworkError) as told:
        load_network(write(tmp_path, BARE.replace("Linear(2, 3)", "Linear(2, 1 // 0)")), data_configuration)
    assert isinstance(told.value.__cause__, ZeroDivisionError)
