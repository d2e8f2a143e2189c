"""The first checkpoint: reproducible, complete, loadable by weaver's users, and begun from loaded weights."""

import json

import pytest
import torch

import stage_run
from weaver_tasks.base.errors import ConfigError, NetworkError
from weaver_tasks.weaver_compat import imports


@pytest.fixture
def run(tmp_path, staged):
    return lambda name="run", **kinds: stage_run.StageRun(tmp_path / name, staged=staged, **kinds)


def load(run, name):
    return torch.load(run.checkpoint(name), weights_only=True)


def test_the_same_seed_gives_the_same_network(run):
    one, same, other = run("one"), run("same"), run("other")
    other.settings["seed"] = 2
    for each in (one, same, other):
        each.call("init_model")
    states = [load(each, "init_state") for each in (one, same, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])
    assert one.checkpoint("init_state").read_bytes() == same.checkpoint("init_state").read_bytes()
    digests = [each.read("init_model.json")["digest"] for each in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]
    assert one.read("init_model.json")["parameters"] == sum(value.numel() for name, value in states[0].items() if "norm." not in name) + 8


def test_begins_from_loaded_weights_frozen_below_the_head(run):
    """Fine-tuning: the head anew, the body loaded and frozen, through the whole epoch."""
    source = run("source")
    source.call("init_model")
    source.call("train_epoch", epochs=[0])
    trained = load(source, "net_epoch-0_state")
    tuned = run("tuned", network=stage_run.NETWORK.replace("torch.nn.Linear(24, outputs)", "torch.nn.Linear(24, outputs, bias=True)"))
    tuned.settings["seed"] = 9
    tuned.settings["network"] = {
        "load_weights": str(source.checkpoint("net_epoch-0_state")),
        "exclude_weights": [r"jet\.3\."],
        "freeze_weights": [r"norm\.", r"particle\.", r"jet\.0"],
    }
    tuned.call("init_model")
    first = load(tuned, "init_state")
    assert torch.equal(first["particle.0.weight"], trained["particle.0.weight"])
    assert not torch.equal(first["jet.3.weight"], trained["jet.3.weight"])
    assert tuned.read("init_model.json")["trainable_parameters"] == 24 * 3 + 3
    tuned.call("train_epoch", epochs=[0])
    after = load(tuned, "net_epoch-0_state")
    assert torch.equal(after["particle.0.weight"], trained["particle.0.weight"])
    assert not torch.equal(after["jet.3.weight"], first["jet.3.weight"])


def test_other_weights_start_another_chain(run):
    source = run("source")
    source.call("init_model")
    plain = source.read("init_model.json")["digest"]
    source.settings["network"] = {"load_weights": str(source.checkpoint("init_state"))}
    source.call("init_model")
    assert source.read("init_model.json")["digest"] != plain


def test_options_reach_the_network_and_unknown_ones_are_named(run):
    training = run()
    training.settings["network"] = {"options": {"dropout": 0.5}}
    training.call("init_model")
    strict = run("strict", network=stage_run.NETWORK.replace(", **kwargs", ""))
    strict.settings["network"] = {"options": {"dropuot": 0.5}}
    with pytest.raises(NetworkError, match=r"takes no option 'dropuot'.*Did you mean: dropout"):
        strict.call("init_model")


def test_the_record_says_what_was_made(run):
    training = run()
    training.call("init_model")
    record = training.record("init_model")
    assert set(record["outputs"]) == {str(training.checkpoint(f"init_{part}")) for part in ("state", "optimizer")} | {
        str(training.metrics / "init_model.json")
    }
    json.dumps(record)


def test_weaver_loads_our_checkpoint_and_we_load_weavers(run, tmp_path):
    """The bare state_dict of ParticleNet, strictly, into weaver-core's own model and back."""
    imports.restore()  # some test before may have put our stand-ins in its place
    weaver = pytest.importorskip("weaver.nn.model.ParticleNet")
    own = pytest.importorskip("weaver_tasks.networks.particle_net_tagger")
    from weaver_tasks.training import checkpoint

    options = {"pf_features_dims": 4, "sv_features_dims": 3, "num_classes": 3}
    ours, theirs = own.ParticleNetTagger(**options), weaver.ParticleNetTagger(**options)
    checkpoint.save_state(tmp_path / "net_epoch-0_state.pt", ours)
    theirs.load_state_dict(torch.load(tmp_path / "net_epoch-0_state.pt", weights_only=True))
    saved = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    assert all(torch.equal(tensor, saved[name]) for name, tensor in ours.state_dict().items())
    torch.save(saved, tmp_path / "weaver_state.pt")
    other = own.ParticleNetTagger(**options)
    assert not all(torch.equal(tensor, saved[name]) for name, tensor in other.state_dict().items())
    checkpoint.load_state(other, tmp_path / "weaver_state.pt")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in other.state_dict().items())


@pytest.mark.filterwarnings("ignore")  # torch's compiler's own
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mod": "default"}, r"training\.compile: torch\.compile refuses .*unexpected keyword argument 'mod'"),
        ({"mode": "fast"}, r"training\.compile: .*mode=fast"),
        ({"backend": "indctor"}, r"training\.compile: .*indctor"),
        ({"dynamic": "maybe"}, r"training\.compile: .*bool"),
        ({"fullgraph": "maybe"}, r"training\.compile: fullgraph is 'maybe'\. Give true or false"),
    ],
)
def test_wrong_options_of_the_compiler_are_known_before_the_first_epoch(run, options, message):
    wrong = run("wrong")
    wrong.settings["training"]["compile"] = options
    with pytest.raises(ConfigError, match=message):
        wrong.call("init_model")
