"""This project's networks beside weaver-core's: the same weights, the same inputs, in turns.

    python benchmarks/networks.py --networks particle_net particle_transformer --rounds 5 --json networks.json

Inputs are like those of JetClass: 17 features, four-vectors, a mask, padded to 128, with 10 to 100 real particles. A training step is
forward, backward and an optimizer step; trimming is off for both (--trim: on for both). Medians over the rounds are compared.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weaver_tasks.base.files import read_json, write_json
from weaver_tasks.base.record import package_versions

FEATURES, CLASSES = 17, 10
_SCALES = [(8, 1), (4, 1), (2, 1), (1, 1)]
NETWORKS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "particle_net": (
        "particle_net",
        "ParticleNet",
        "ParticleNet",
        {
            "conv_params": [(16, (64, 64, 64)), (16, (128, 128, 128)), (16, (256, 256, 256))],
            "fc_params": [(256, 0.1)],
            "use_fusion": False,
        },
    ),
    "particle_transformer": (
        "particle_transformer",
        "ParticleTransformer",
        "ParticleTransformer",
        {"use_pre_activation_pair": False, "cls_block_params": {"dropout": 0, "attn_dropout": 0, "activation_dropout": 0}},
    ),
    "particle_next": ("particle_next", "ParticleNeXt", "ParticleNeXt", {"layer_params": [(32, 128, _SCALES, 64), (32, 128, _SCALES, 64)]}),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=["particle_net", "particle_transformer"])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--length", type=int, default=128, help="padded length")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile both")
    parser.add_argument("--trim", action="store_true", help="trim as in training, both with the same random numbers")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--peak", nargs=2, metavar=("NETWORK", "WHOSE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        name, whose = arguments.peak
        write_json(arguments.json, {"peak": peak_memory(name, whose, arguments)})
        return
    metrics: dict[str, Any] = {}
    print(f"{'network':<22} {'train jets/s':>24} {'inference jets/s':>24} {'peak memory MB':>20}")
    for name in arguments.networks:
        metrics[name] = measure(name, arguments)
        print(_line(name, metrics[name]), flush=True)
    if arguments.json:
        settings = {key: value for key, value in vars(arguments).items() if key not in ("json", "peak")}
        write_json(arguments.json, {**metrics, "settings": settings, "packages": package_versions()})


def build(name: str, whose: str, arguments: argparse.Namespace) -> nn.Module:
    """The network of `whose` (own or weaver), with weights from the same seed."""
    own_module, peer_module, cls, options = NETWORKS[name]
    module = f"weaver_tasks.networks.{own_module}" if whose == "own" else f"weaver.nn.model.{peer_module}"
    keywords = {"num_classes": CLASSES, "trim": arguments.trim, **options}
    torch.manual_seed(0)
    return getattr(__import__(module, fromlist=[cls]), cls)(FEATURES, **keywords).to(arguments.device)


def batch(arguments: argparse.Namespace) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    counts = torch.randint(10, 101, (arguments.batch_size, 1, 1), generator=generator)
    mask = (torch.arange(arguments.length) < counts).float()
    momenta = torch.randn(arguments.batch_size, 3, arguments.length, generator=generator) * 20
    vectors = torch.cat((momenta, momenta.norm(dim=1, keepdim=True) * 1.01), dim=1) * mask
    inputs = {
        "points": torch.randn(arguments.batch_size, 2, arguments.length, generator=generator) * 0.3 * mask,
        "features": torch.randn(arguments.batch_size, FEATURES, arguments.length, generator=generator) * mask,
        "vectors": vectors,
        "mask": mask,
        "label": torch.randint(0, CLASSES, (arguments.batch_size,), generator=generator),
    }
    return {name: tensor.to(arguments.device) for name, tensor in inputs.items()}


def forward(name: str, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    groups = {"particle_net": ["points", "features", "mask"], "particle_transformer": ["features", "vectors", "mask"]}
    return model(*(inputs[group].clone() for group in groups.get(name, ["points", "features", "vectors", "mask"])))


def training_step(name: str, model: nn.Module, inputs: dict[str, Tensor], arguments: argparse.Namespace) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        model.train()
        torch.manual_seed(2)
        with torch.autocast(arguments.device, torch.bfloat16, enabled=arguments.amp):
            loss = nn.functional.cross_entropy(forward(name, model, inputs), inputs["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def inference_step(name: str, model: nn.Module, inputs: dict[str, Tensor], arguments: argparse.Namespace) -> Callable[[], None]:
    @torch.no_grad()
    def step() -> None:
        model.eval()
        with torch.autocast(arguments.device, torch.bfloat16, enabled=arguments.amp):
            forward(name, model, inputs)

    return step


def measure(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    inputs = batch(arguments)
    models = {whose: build(name, whose, arguments) for whose in ("own", "weaver")}
    models["own"].load_state_dict(models["weaver"].state_dict())
    if arguments.compile:
        models = {whose: torch.compile(model) for whose, model in models.items()}  # type: ignore[misc]
    metrics: dict[str, float] = {}
    for what, make in (("train", training_step), ("inference", inference_step)):
        steps = {whose: make(name, model, inputs, arguments) for whose, model in models.items()}
        seconds: dict[str, list[float]] = {whose: [] for whose in steps}
        for turn in range(arguments.rounds + 1):  # the first one warms up
            for whose, step in steps.items():
                taken = _timed(step, arguments.device)
                if turn:
                    seconds[whose].append(taken)
        medians = {whose: statistics.median(taken) for whose, taken in seconds.items()}
        for whose, median in medians.items():
            metrics[f"{what}_jets_per_second_{whose}"] = arguments.batch_size / median
        metrics[f"{what}_ratio"] = medians["weaver"] / medians["own"]
    peaks = {whose: _peak_in_own_process(name, whose, arguments) for whose in models}
    for whose, peak in peaks.items():
        metrics[f"peak_memory_bytes_{whose}"] = peak
    metrics["memory_ratio"] = peaks["own"] / peaks["weaver"]
    return metrics


def _timed(step: Callable[[], None], device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(name: str, whose: str, arguments: argparse.Namespace) -> int:
    """Bytes that two training steps need at most, beyond what the process has before them."""
    step = training_step(name, build(name, whose, arguments), batch(arguments), arguments)
    if arguments.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    before = _resident_peak()
    step()
    step()
    return torch.cuda.max_memory_allocated() if arguments.device != "cpu" else _resident_peak() - before


def _resident_peak() -> int:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def _peak_in_own_process(name: str, whose: str, arguments: argparse.Namespace) -> int:
    """In a process of its own: a peak never falls again."""
    target = (arguments.json or Path("networks.json")).with_suffix(f".{name}.{whose}.json")
    flags = [flag for flag, on in (("--amp", arguments.amp), ("--trim", arguments.trim)) if on]
    numbers = [f"--batch-size={arguments.batch_size}", f"--length={arguments.length}", f"--threads={arguments.threads}"]
    command = [sys.executable, __file__, "--peak", name, whose, "--json", str(target), f"--device={arguments.device}", *numbers, *flags]
    subprocess.run(command, check=True)
    peak = read_json(target)["peak"]
    target.unlink()
    return peak


def _line(name: str, metrics: dict[str, float]) -> str:
    def pair(what: str) -> str:
        own, peer = metrics[f"{what}_jets_per_second_own"], metrics[f"{what}_jets_per_second_weaver"]
        return f"{own:9.1f} / {peer:6.1f} {metrics[f'{what}_ratio']:4.2f}x"

    memory = [metrics[f"peak_memory_bytes_{whose}"] / 1e6 for whose in ("own", "weaver")]
    return f"{name:<22} {pair('train'):>24} {pair('inference'):>24} {memory[0]:7.0f} / {memory[1]:5.0f} {metrics['memory_ratio']:4.2f}x"


if __name__ == "__main__":
    main()
