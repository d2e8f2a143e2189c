# Input functions: the files that jobs read, as functions of their wildcards.

# Data: data.smk and statistics.smk.

STAGING_JOBS = PLAN.staging_jobs()
STAGES_FILES = PLAN.config["staging"]["mode"] != "none"


def job_files(wildcards):
    """The input files of a staging job."""
    return STAGING_JOBS[wildcards.split, wildcards.group, wildcards.name]


def local_sources(wildcards):
    return [
        file.source
        for file in job_files(wildcards)
        if file.is_local and not has_braces(file.source)
    ]


def has_braces(path):
    """Names with braces cannot be inputs, because Snakemake takes braces for wildcards even if they are escaped."""
    return "{" in path or "}" in path


def states_of_others(wildcards):
    """Size and time of local files that cannot be inputs of a rule, so that their changes are noticed nevertheless."""
    files = [file for file in job_files(wildcards) if has_braces(file.source)]
    found = [os.stat(file.source) for file in files if os.path.exists(file.source)]
    return [[each.st_size, each.st_mtime_ns] for each in found]


def records_of(*splits):
    """The records of the jobs that stage the files of some splits."""
    return [
        f"{RUN}/provenance/tasks/stage_inputs/{split}/{group}/{name}.json"
        for split, group, name in STAGING_JOBS
        if split in splits
    ]


def staged_option(wildcards):
    """The option that names the folder of staged files. Empty if files are read in place."""
    if not STAGES_FILES:
        return ""
    staged = [PLAN.staged_file(file) for file in job_files(wildcards)]
    return " ".join(["--staged", *map(shlex.quote, staged)])


STATISTICS_PARTS = PLAN.statistics_parts()


def sums_of(stage, member=""):
    """The sums that several jobs computed for a stage in each pass over the training files. Empty if the stage computes them itself."""
    passes = range(PLAN.passes(stage) if STATISTICS_PARTS else 0)
    return [f"{RUN}/{member}statistics/{stage}/pass-{index}.npz" for index in passes]


def sums_before(wildcards):
    """The sums of the earlier passes."""
    return sums_of(wildcards.statistic, wildcards.member)[: int(wildcards.index)]


# Training: train.smk.

CHECKPOINTS = f"{RUN}/{{member}}checkpoints"
METRICS = f"{RUN}/{{member}}metrics"
# Both need earlier validations: to stop the training, or to remove epochs that are no longer needed.
LOOKS_BACK = (
    bool(TRAINING["early_stopping"]) or TRAINING["keep_checkpoints"] == "best_and_last"
)


def of_member(paths, member):
    return [path.replace("{member}", member) for path in paths]


def state_before(epoch, member):
    """The complete state that an epoch starts from."""
    names = (
        ("init_state", "init_optimizer", "init_model")
        if epoch == PLAN.epochs().start
        else (
            f"net_epoch-{epoch - 1}_state",
            f"net_epoch-{epoch - 1}_optimizer",
            f"train_epoch-{epoch - 1}",
        )
    )
    state, optimizer, metrics = names
    paths = [
        f"{CHECKPOINTS}/{state}.pt",
        f"{CHECKPOINTS}/{optimizer}.pt",
        f"{METRICS}/{metrics}.json",
    ]
    return of_member(paths, member)


def validations(epochs, member):
    return of_member([f"{METRICS}/val_epoch-{epoch}.json" for epoch in epochs], member)


def past_validations(epoch, member):
    """Validations up to two epochs back, so that validating one epoch runs beside the training of the next."""
    past = [other for other in PLAN.epochs() if LOOKS_BACK and other < epoch - 1]
    return validations(past, member)


def validations_to_select_from(wildcards):
    """Of all epochs. Here the options of the command line are known, which they are not when this file is read."""
    refuse_until()
    return validations(PLAN.epochs(), wildcards.member)


def trained_members(wildcards):
    """The chosen epoch of each fold or seed."""
    if MODEL:
        refuse(
            ConfigError(
                f"{WHERE}: prediction.model: {MODEL} is trained already, so the target `train` has nothing to do. Leave the key out to train."
            )
        )
    return [f"{RUN}/{member}best_epoch.json" for member in MEMBERS]


# Results: results.smk. With prediction.model nothing is trained, and training files are not read.

MODEL = PLAN.config["prediction"]["model"]
READ_SPLITS = ["test"] if MODEL else ["train", "val", "test"]
GROUPS = PLAN.test_groups()
FORMAT = PLAN.config["prediction"]["format"]
# The data configuration of such a model must be resolved (a data_config.auto.yaml).
AUTO_CONFIG = DATA_CONFIG if MODEL else f"{RUN}/{{member}}data_config.auto.yaml"

# The results of each fold or seed; they are merged under the name of the run.
EACH_MEMBER = "|".join(MEMBERS) if PLAN.merges() else r"|fold-\d+/|seed-\d+/"


def model_of(wildcards):
    """The network that predicts."""
    best = f"{RUN}/{wildcards.member}checkpoints/net_best_epoch_state.pt"
    return PLAN.model(wildcards.member) or best


# A model that is already trained and nothing to predict: then it is exported.
ONLY_EXPORTS = bool(MODEL) and not GROUPS


def events_to_compare_on(wildcards):
    """Manifests of the events on which the exported model is compared with PyTorch. Without any, events are made up."""
    return [
        *([f"{RUN}/staged/test.json"] if GROUPS else []),
        *([] if MODEL else [f"{RUN}/staged/fitting.json"]),
    ]


def merged(wildcards):
    """Whether the results combine all folds or seeds."""
    return PLAN.merges() and not wildcards.member


def predictions_of(wildcards):
    return [f"{RUN}/{wildcards.member}predictions/{group}.{FORMAT}" for group in GROUPS]


def best_epoch_of(wildcards):
    """The best epoch of the evaluated member. Empty if all members are combined or nothing was trained."""
    return (
        [] if MODEL or merged(wildcards) else f"{RUN}/{wildcards.member}best_epoch.json"
    )


def epochs_metrics(wildcards):
    """Metrics of the validations. Those of the training are in the same folder and are always updated together with them."""
    members = MEMBERS if merged(wildcards) else [wildcards.member]
    epochs = [] if MODEL else PLAN.epochs()
    return [path for member in members for path in validations(epochs, member)]


def evaluated_members(wildcards):
    return (
        expand(f"{RUN}/{{member}}evaluation/metrics.json", member=MEMBERS)
        if merged(wildcards)
        else []
    )


def of_training(wildcards, input):
    """The options of `evaluate` that name the results of the training."""
    if merged(wildcards):
        members = [f"{member.rstrip('/')}={RUN}/{member}" for member in MEMBERS]
        return ["--members", *members, *([] if MODEL else ["--members-metrics"])]
    if MODEL:
        return []
    return ["--best-epoch", input.best, "--metrics", f"{RUN}/{wildcards.member}metrics"]


def named_classes(wildcards):
    """A data configuration that names the classes. If members are combined, that of the first one."""
    member = MEMBERS[0] if merged(wildcards) else wildcards.member
    return ancient(AUTO_CONFIG.replace("{member}", member))
