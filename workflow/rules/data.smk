# From input files to staged events, standardization and weights.
#
# required: the input files named in data.train, data.val and data.test of the configuration.
# produced: staged events, inputs.json, standardization.json, reweighting.json and data_config.auto.yaml,
#           the resolved data configuration, which all later stages read (and weaver-core can).

# A job of several files declares only its record, which it writes last. Snakemake deletes declared files before it runs a job again, so
# it keeps the staged files, and the job reuses those that have not changed. Raw copies and files outside the folder of the run (on
# node-local scratch, say) are not declared either.
DECLARED = {}
if PLAN.files_per_job == 1:
    DECLARED = {"records": f"{RUN}/staged/{{split}}/{{group}}/{{name}}.json"}
    if (
        PLAN.config["staging"]["mode"] == "columnar"
        and not PLAN.config["staging"]["directory"]
    ):
        DECLARED |= {"staged": f"{RUN}/staged/{{split}}/{{group}}/{{name}}.arrow"}


rule stage_inputs:
    """Select events of input files, compute the new variables, write them as columns.

    required: the files of the job. produced: for each, staged/<split>/<group>/<file>.arrow and what was read of it (.json).
    """
    input:
        local_sources,
    output:
        **DECLARED,
        record=f"{RUN}/provenance/tasks/stage_inputs/{{split}}/{{group}}/{{name}}.json",
    log:
        f"{RUN}/logs/stage_inputs/{{split}}/{{group}}/{{name}}.log",
    benchmark:
        f"{RUN}/benchmarks/stage_inputs/{{split}}/{{group}}/{{name}}.tsv"
    wildcard_constraints:
        # Not a list of all names, because Snakemake iterates over it for each file of each job.
        name="[^/]+",
    resources:
        mem_mb=attempt_memory(2),
    params:
        common=COMMON,
        data_config=lambda w: PLAN.data_config_file(w.split),
        split="{split}",
        group="{group}",
        sources=lambda w: [file.source for file in job_files(w)],
        states=states_of_others,
        records=lambda w: [PLAN.staged_record(file) for file in job_files(w)],
        staged=staged_option,
        settings=settings("stage_inputs", split=lambda w: w.split),
    shell:
        "{params.common.python} -m weaver_tasks.stage_inputs"
        " --data-config {params.data_config:q}"
        " {params.common.custom_functions}"
        " --split {params.split}"
        " --group {params.group}"
        " --sources {params.sources:q}"
        " --records {params.records:q}"
        " {params.staged}"
        " --settings {params.settings:q}"
        " --settings {params.common.untracked:q}"
        " --log-file {log:q}"
        " --record {output.record:q}"


rule gather_inputs:
    """List every input file: checksum, entries read and kept, or why it is bad.

    required: the records of the jobs of stage_inputs. produced: inputs.json.
    """
    input:
        records_of(*READ_SPLITS),
    output:
        manifest=f"{RUN}/inputs.json",
        record=f"{RUN}/provenance/tasks/stage_inputs/gather.json",
    log:
        f"{RUN}/logs/stage_inputs/gather.log",
    # This takes seconds, which is not worth a cluster job.
    localrule: True
    params:
        common=COMMON,
        # The records are not named one by one: thousands of names would make the command too long.
        splits=READ_SPLITS,
        # The weights of the test events must be finite.
        settings=settings("gather_inputs"),
    shell:
        "{params.common.python} -m weaver_tasks.stage_inputs"
        " --gather-run {params.common.run}"
        " --splits {params.splits}"
        " --batch {params.common.batch}"
        " --output {output.manifest:q}"
        " --settings {params.settings:q}"
        " --settings {params.common.untracked:q}"
        " --log-file {log:q}"
        " --record {output.record:q}"


# The same for some of the files, so that a change of the test files does not cause a new training, or vice versa.
use rule gather_inputs as gather_fitting_inputs with:
    input:
        records_of("train", "val"),
    output:
        manifest=f"{RUN}/staged/fitting.json",
        record=f"{RUN}/provenance/tasks/stage_inputs/gather-fitting.json",
    log:
        f"{RUN}/logs/stage_inputs/gather-fitting.log",
    localrule: True
    params:
        splits=["train", "val"],
        settings=settings("gather_fitting_inputs"),


use rule gather_inputs as gather_test_inputs with:
    input:
        records_of("test"),
    output:
        manifest=f"{RUN}/staged/test.json",
        record=f"{RUN}/provenance/tasks/stage_inputs/gather-test.json",
    log:
        f"{RUN}/logs/stage_inputs/gather-test.log",
    localrule: True
    params:
        splits=["test"],


rule standardize:
    """Find center and scale of each input variable: exact percentiles over the training files.

    required: staged training events, or the sums of jobs that went through them. produced: standardization.json and .png.
    """
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
        "{params.common.python} -m weaver_tasks.standardize"
        " --data-config {params.common.data_config:q}"
        " {params.common.custom_functions}"
        " --inputs {input.manifest:q}"
        " --after {input.sums:q}"
        " --output {output.standardization:q}"
        " --plot {output.plot:q}"
        " --settings {params.settings:q}"
        " --settings {params.common.untracked:q}"
        " --log-file {log:q}"
        " --record {output.record:q}"


rule reweight:
    """Histogram the reweighting variables, make the weights of each class, write the resolved data configuration.

    required: staged training events, or the sums of jobs that went through them; standardization.json.
    produced: reweighting.json and .png, data_config.auto.yaml.
    """
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
        "{params.common.python} -m weaver_tasks.reweight"
        " --data-config {params.common.data_config:q}"
        " {params.common.custom_functions}"
        " --inputs {input.manifest:q}"
        " --after {input.sums:q}"
        " --standardization {input.standardization:q}"
        " --output {output.reweighting:q}"
        " --plot {output.plot:q}"
        " --auto-config {output.data_config:q}"
        " --settings {params.settings:q}"
        " --settings {params.common.untracked:q}"
        " --log-file {log:q}"
        " --record {output.record:q}"


# With statistics.files_per_job, many jobs share the training files.
if STATISTICS_PARTS:

    include: "statistics.smk"
