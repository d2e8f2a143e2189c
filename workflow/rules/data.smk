# From input files to staged events, standardization and weights.
#
# required: the input files named in data.train, data.val and data.test of the configuration.
# produced: staged events, inputs.json, standardization.json, reweighting.json and data_config.auto.yaml,
#           the resolved data configuration, which all later stages read (and weaver-core can).

STAGING_JOBS = PLAN.staging_jobs()
STAGES_FILES = PLAN.config["staging"]["mode"] != "none"


def job_files(wildcards):
    return STAGING_JOBS[wildcards.split, wildcards.group, wildcards.name]


def records_of(*splits):
    """The records of the jobs that stage the files of some splits."""
    return [
        f"{RUN}/provenance/tasks/stage_inputs/{split}/{group}/{name}.json"
        for split, group, name in STAGING_JOBS
        if split in splits
    ]


def staged_option(files):
    return (
        " ".join(["--staged", *(shlex.quote(PLAN.staged_file(file)) for file in files)])
        if STAGES_FILES
        else ""
    )


# A job of several files declares its own record only, which it writes last. So Snakemake, which goes through each name of each job
# and deletes what is declared before it runs a job again, leaves what the job has staged: it takes that as it is where nothing has changed.
# Nor are raw copies declared, or what lies outside the run's folder (on node-local scratch, say).
DECLARED = {}
if PLAN.files_per_job == 1:
    DECLARED = {"records": f"{RUN}/staged/{{split}}/{{group}}/{{name}}.json"}
    if (
        PLAN.config["staging"]["mode"] == "columnar"
        and not PLAN.config["staging"]["directory"]
    ):
        DECLARED |= {"staged": f"{RUN}/staged/{{split}}/{{group}}/{{name}}.arrow"}


rule stage_inputs:
    """Select events of input files, compute the new variables, write them as columns."""
    input:
        lambda w: [file.source for file in job_files(w) if file.is_local],
    output:
        **DECLARED,
        record=f"{RUN}/provenance/tasks/stage_inputs/{{split}}/{{group}}/{{name}}.json",
    log:
        f"{RUN}/logs/stage_inputs/{{split}}/{{group}}/{{name}}.log",
    benchmark:
        f"{RUN}/benchmarks/stage_inputs/{{split}}/{{group}}/{{name}}.tsv"
    wildcard_constraints:
        # Never a list of all names: Snakemake goes through it for each file of each job.
        name="[^/]+",
    resources:
        mem_mb=attempt_memory(2),
    params:
        common=COMMON,
        data_config=lambda w: PLAN.data_config_file(w.split),
        split="{split}",
        group="{group}",
        sources=lambda w: [file.source for file in job_files(w)],
        records=lambda w: [PLAN.staged_record(file) for file in job_files(w)],
        staged=lambda w: staged_option(job_files(w)),
        settings=settings("stage_inputs", split=lambda w: w.split),
    shell:
        "{params.common.python} -m weaver_tasks.stage_inputs --data-config {params.data_config:q} {params.common.custom_functions}"
        " --split {params.split} --group {params.group} --sources {params.sources:q} --records {params.records:q} {params.staged}"
        " --settings {params.settings:q} --settings {params.common.untracked:q} --log-file {log:q} --record {output.record:q}"


GATHER_INPUTS = (
    # Not every record by its name: thousands would make the command too long.
    "{params.common.python} -m weaver_tasks.stage_inputs --gather-run {params.common.run} --splits {params.splits} --output {output.manifest:q}"
    " --settings {params.settings:q} --settings {params.common.untracked:q} --log-file {log:q} --record {output.record:q}"
)


GATHER_SETTINGS_OF_FITTING = json.dumps(
    {"staging": PLAN.config["staging"]}, sort_keys=True
)
GATHER_SETTINGS = json.dumps(
    {
        "staging": PLAN.config["staging"],
        # What weighs the test events must be finite.
        "evaluation": {"weight": PLAN.config["evaluation"]["weight"]},
    },
    sort_keys=True,
)


# With a model that is already trained, files to train on are not even read.
READ_SPLITS = (
    ["test"] if PLAN.config["prediction"]["model"] else ["train", "val", "test"]
)


# Seconds each: not worth a job.
rule gather_inputs:
    """List every input file: checksum, entries read and kept, or why it is bad."""
    input:
        records_of(*READ_SPLITS),
    output:
        manifest=f"{RUN}/inputs.json",
        record=f"{RUN}/provenance/tasks/stage_inputs/gather.json",
    log:
        f"{RUN}/logs/stage_inputs/gather.log",
    localrule: True
    params:
        common=COMMON,
        splits=READ_SPLITS,
        settings=GATHER_SETTINGS,
    shell:
        GATHER_INPUTS


# Two more lists, so that a change of the test files does not touch the training, nor the reverse.
rule gather_fitting_inputs:
    """List the files of training and validation."""
    input:
        records_of("train", "val"),
    output:
        manifest=f"{RUN}/staged/fitting.json",
        record=f"{RUN}/provenance/tasks/stage_inputs/gather-fitting.json",
    log:
        f"{RUN}/logs/stage_inputs/gather-fitting.log",
    localrule: True
    params:
        common=COMMON,
        splits=["train", "val"],
        settings=GATHER_SETTINGS_OF_FITTING,
    shell:
        GATHER_INPUTS


rule gather_test_inputs:
    """List the files of the test."""
    input:
        records_of("test"),
    output:
        manifest=f"{RUN}/staged/test.json",
        record=f"{RUN}/provenance/tasks/stage_inputs/gather-test.json",
    log:
        f"{RUN}/logs/stage_inputs/gather-test.log",
    localrule: True
    params:
        common=COMMON,
        splits=["test"],
        settings=GATHER_SETTINGS,
    shell:
        GATHER_INPUTS


STATISTICS_PARTS = PLAN.statistics_parts()


def sums_of(stage, member=""):
    """What several jobs have summed up for a stage in each pass over the training files; nothing when the stage does it by itself."""
    passes = range(PLAN.passes(stage) if STATISTICS_PARTS else 0)
    return [f"{RUN}/{member}statistics/{stage}/pass-{index}.npz" for index in passes]


rule standardize:
    """Find center and scale of each input variable: exact percentiles over the training files."""
    input:
        manifest=f"{RUN}/staged/fitting.json",
        sums=sums_of("standardize"),
    output:
        standardization=f"{RUN}/standardization.json",
        plot=report(
            f"{RUN}/standardization.png",
            category="1 Data",
            caption="../report/standardization.rst",
        ),
        record=f"{RUN}/provenance/tasks/standardize/standardize.json",
    log:
        f"{RUN}/logs/standardize/standardize.log",
    benchmark:
        f"{RUN}/benchmarks/standardize/standardize.tsv"
    group:
        PREPARATION
    resources:
        mem_mb=attempt_memory(2),
    params:
        common=COMMON,
        settings=settings("standardize"),
    shell:
        "{params.common.python} -m weaver_tasks.standardize --data-config {params.common.data_config:q} {params.common.custom_functions}"
        " --inputs {input.manifest:q} --after {input.sums:q} --output {output.standardization:q} --plot {output.plot:q}"
        " --settings {params.settings:q} --settings {params.common.untracked:q} --log-file {log:q} --record {output.record:q}"


rule reweight:
    """Histogram the reweighting variables, make the weights of each class, write the resolved data configuration."""
    input:
        manifest=f"{RUN}/staged/fitting.json",
        standardization=f"{RUN}/standardization.json",
        sums=lambda w: sums_of("reweight", w.member),
    output:
        reweighting=f"{RUN}/{{member}}reweighting.json",
        plot=report(
            f"{RUN}/{{member}}reweighting.png",
            category="1 Data",
            caption="../report/reweighting.rst",
        ),
        data_config=f"{RUN}/{{member}}data_config.auto.yaml",
        record=f"{RUN}/provenance/tasks/reweight/{{member}}reweight.json",
    log:
        f"{RUN}/logs/reweight/{{member}}reweight.log",
    benchmark:
        f"{RUN}/benchmarks/reweight/{{member}}reweight.tsv"
    group:
        PREPARATION
    resources:
        mem_mb=attempt_memory(2),
    params:
        common=COMMON,
        settings=settings("reweight", member=member_of),
    shell:
        "{params.common.python} -m weaver_tasks.reweight --data-config {params.common.data_config:q} {params.common.custom_functions}"
        " --inputs {input.manifest:q} --after {input.sums:q} --standardization {input.standardization:q}"
        " --output {output.reweighting:q} --plot {output.plot:q} --auto-config {output.data_config:q}"
        " --settings {params.settings:q} --settings {params.common.untracked:q} --log-file {log:q} --record {output.record:q}"


# With statistics.files_per_job, many jobs go through the training files.
if STATISTICS_PARTS:

    include: "statistics.smk"
