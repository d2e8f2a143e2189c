"""Write a fresh analysis folder: configuration, network, profiles, and a Snakefile that uses this workflow as a module.

    python -m weaver_tasks.new my_analysis --jets tests/files/jets
    cd my_analysis && snakemake -n

--jets names a folder of JetClass-like files, train/<Process>.root or train/<Process>_<number>.root, and the same below test/. Without it
config.yaml names files that you put there. Nothing that is there already is overwritten.
"""

from __future__ import annotations

import argparse
import glob
import json
import re
from pathlib import Path

import weaver_tasks
from weaver_tasks.base.command_line import run_command
from weaver_tasks.base.errors import InputFileError, WeaverTasksError
from weaver_tasks.base.files import atomic_path

_PROCESSES = ("ZJetsToNuNu", "HToBB", "HToCC", "HToGG", "HToWW4Q", "HToWW2Q1L", "ZToQQ", "WToQQ", "TTBar", "TTBarLep")
_TEST_GROUPS = {
    "higgs": ("HToBB", "HToCC", "HToGG", "HToWW4Q", "HToWW2Q1L"),
    "other": ("ZJetsToNuNu", "ZToQQ", "WToQQ", "TTBar", "TTBarLep"),
}

SNAKEFILE = """\
# The training of this analysis: the workflow of weaver-tasks with the configuration of this folder.
#
#   snakemake -n             what would run
#   snakemake --cores 4      run it
#
# Rules of your own go to the end; they may take whatever is in results/ as input.

WEAVER_TASKS = {checkout}  # where weaver-tasks is


configfile: "config.yaml"


module training:
    snakefile:
        f"{{WEAVER_TASKS}}/workflow/Snakefile"
    config:
        config


use rule * from training


onstart:
    training.start_run()


onsuccess:
    training.show_summary()


onerror:
    training.tell_failures()
"""

CONFIG = """\
# One run: which files, how to train, on what. All keys: {checkout}/config/README.md
run: {run}                      # everything lands in results/{run}/
seed: 1

data:
  config: data.yaml             # weaver's data configuration
  train:                        # named groups of globs, paths or URLs
{train}
  val: null                     # null: the trailing 20 % of every training file
  test:                         # one prediction file per group
{test}

network:
  config: network.py            # weaver's network configuration
  options: {{}}

training:
  epochs: {epochs}
  batch_size: {batch_size}                # per rank
  lr: 2.0e-3
  optimizer: {{name: ranger}}
  scheduler: {{name: flat+decay}}
  threads: 1                    # of torch
"""

README = """\
# {run}

| file | what to change there |
|---|---|
| `config.yaml` | the files, how to train, on what |
| `data.yaml` | selection, variables, classes, weights: a data configuration in weaver's format |
| `network.py` | the network: a network configuration in weaver's format |
| `profiles/` | how Snakemake runs: `default` is applied by itself, `slurm` with `--workflow-profile profiles/slurm` |
| `Snakefile` | where weaver-tasks is, and rules of your own |

```bash
python -m weaver_tasks.check --config config.yaml    # looks at one file of each group
snakemake -n                                         # what would run
snakemake --cores 4
```

Results: `results/{run}/`, first of all `evaluation/`, `export/model.onnx` and `predictions/`. Run the last command again after any change
or interruption: only what is affected runs. All keys of `config.yaml`: `{checkout}/config/README.md`.
"""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m weaver_tasks.new", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("path", type=Path, help="the folder to write; made if it is not there")
    parser.add_argument("--jets", type=Path, metavar="FOLDER", help="a folder with train/<Process>*.root and test/<Process>*.root")
    arguments = parser.parse_args(argv)
    written = write_analysis(arguments.path, jets=arguments.jets)
    print(f"Wrote {', '.join(written)} in {arguments.path}. Now: cd {arguments.path} && snakemake -n")


def write_analysis(folder: Path, *, jets: Path | None = None) -> list[str]:
    """Write the files of a new analysis into `folder`, and return their names.

    Raises WeaverTasksError if one of them exists already or the workflow cannot be found, InputFileError if `jets` lacks files.
    """
    checkout = find_checkout()
    run = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._") or "analysis"
    texts = {
        "config.yaml": config_text(run, checkout, jets),
        "data.yaml": (checkout / "config" / "data" / "demo.yaml").read_text(),
        "network.py": (checkout / "config" / "networks" / "pfn.py").read_text(),
        "Snakefile": SNAKEFILE.format(checkout=json.dumps(str(checkout), ensure_ascii=False)),
        "README.md": README.format(run=run, checkout=checkout),
        ".gitignore": "/results/\n/.snakemake/\n",
    }
    profiles = sorted((checkout / "profiles").rglob("config*.yaml"))
    texts |= {path.relative_to(checkout).as_posix(): path.read_text() for path in profiles}
    for name in texts:
        if (folder / name).exists():
            raise WeaverTasksError(f"{folder / name}: exists already. Give another folder, or move it away.")
    for name, text in texts.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text)
    return list(texts)


def find_checkout() -> Path:
    """The folder with workflow/, config/ and profiles/: the clone that contains this package, or the files installed with it.

    Raises WeaverTasksError if there is neither.
    """
    package = Path(weaver_tasks.__file__).resolve().parent
    for folder in (package.parent, package / "installed"):
        if (folder / "workflow" / "Snakefile").is_file():
            return folder
    raise WeaverTasksError(f"{package}: was installed without the workflow. Clone weaver-tasks, and run this from the clone.")


def config_text(run: str, checkout: Path, jets: Path | None) -> str:
    """The text of config.yaml. jets: the folder with train/ and test/; None: files that the user will add."""
    folder = jets.resolve() if jets else Path("data")
    train = {name: _pattern(folder / "train", name, given=jets is not None) for name in _PROCESSES}
    test = {group: [_pattern(folder / "test", name, given=jets is not None) for name in names] for group, names in _TEST_GROUPS.items()}
    return CONFIG.format(
        run=run,
        checkout=checkout,
        train="\n".join(f"    {name}: {pattern}" for name, pattern in train.items()),
        test="\n".join("\n".join([f"    {group}:", *(f"      - {pattern}" for pattern in patterns)]) for group, patterns in test.items()),
        epochs=12 if jets else 20,
        batch_size=64 if jets else 512,
    )


def _pattern(folder: Path, process: str, *, given: bool) -> str:
    """The pattern of the files of a process, quoted for YAML: <Process>.root if it exists, otherwise <Process>_*.root."""
    found = (folder / f"{process}.root").is_file()
    if given and not found and not list(folder.glob(f"{process}_*.root")):
        raise InputFileError(
            f"{folder}: holds neither {process}.root nor {process}_*.root. Give the folder above train/ and test/ in --jets."
        )
    return json.dumps(f"{glob.escape(str(folder))}/{process}{'' if found else '_*'}.root", ensure_ascii=False)


if __name__ == "__main__":
    run_command(main)
