# From the best epoch to what the physicist takes away.
#
# required: net_best_epoch_state.pt (or prediction.model), staged test events.
# produced: predictions/, evaluation/, export/, provenance/.

GROUPS = PLAN.test_groups()
MEMBERS = PLAN.members()
FORMAT = PLAN.config["prediction"]["format"]
MODEL = PLAN.config["prediction"]["model"]
PREDICTION_RANKS = PLAN.config["prediction"]["ranks"]
# With a model that is already trained nothing is trained: its data configuration must be resolved (a data_config.auto.yaml).
AUTO_CONFIG = DATA_CONFIG if MODEL else f"{RUN}/{{member}}data_config.auto.yaml"

# Plot -> the chapter of the report that shows it.
EVALUATION_PLOTS = {} if MODEL else {"training": "2 Training"}
if TRAINING["task"] == "classification":
    EVALUATION_PLOTS |= {
        "roc": "3 Results",
        "confusion": "3 Results",
        "scores": "3 Results",
        **dict.fromkeys(PLAN.kinematic_plots(), "3 Results"),
    }
else:
    EVALUATION_PLOTS |= {"regression": "3 Results"}


rule predict:
    """Score every test event of a group, in the order of the source files."""
    input:
        manifest=f"{RUN}/staged/test.json",
        data_config=ancient(AUTO_CONFIG),
        model=lambda w: PLAN.model(w.member)
        or f"{RUN}/{w.member}checkpoints/net_best_epoch_state.pt",
    output:
        predictions=f"{RUN}/{{member}}predictions/{{group}}.{FORMAT}",
        record=f"{RUN}/provenance/tasks/predict/{{member}}{{group}}.json",
    log:
        f"{RUN}/logs/predict/{{member}}{{group}}.log",
    benchmark:
        f"{RUN}/benchmarks/predict/{{member}}{{group}}.tsv"
    wildcard_constraints:
        member=EACH_MEMBER,
    threads: TRAINING["threads"] * PREDICTION_RANKS
    resources:
        **({"gpu": PREDICTION_RANKS} if ONE_GPU else {}),
        cpus_per_task=TRAINING["threads"] * PREDICTION_RANKS,
        mem_mb=attempt_memory(3 + PREDICTION_RANKS),
    params:
        common=COMMON,
        settings=settings("predict", member=member_of),
    shell:
        "{params.common.python} -m weaver_tasks.predict --data-config {input.data_config:q} --data-config-test {params.common.test_config:q} {params.common.custom_functions}"
        " --inputs {input.manifest:q} --group {wildcards.group} --network {params.common.network:q} --model {input.model:q}"
        " --output {output.predictions:q}"
        " --settings {params.settings:q} --settings {params.common.untracked:q} --log-file {log:q} --record {output.record:q}"


if PLAN.merges():

    rule merge_predictions:
        """One table of what all folds or seeds predict: each event by the fold that did not see it, or the mean over the seeds."""
        input:
            manifest=f"{RUN}/staged/test.json",
            predictions=[
                f"{RUN}/{member}predictions/{{group}}.{FORMAT}" for member in MEMBERS
            ],
        output:
            predictions=f"{RUN}/predictions/{{group}}.{FORMAT}",
            record=f"{RUN}/provenance/tasks/merge_predictions/{{group}}.json",
        log:
            f"{RUN}/logs/merge_predictions/{{group}}.log",
        benchmark:
            f"{RUN}/benchmarks/merge_predictions/{{group}}.tsv"
        resources:
            mem_mb=attempt_memory(2),
        params:
            common=COMMON,
            predictions=lambda w, input: [
                f"{member.rstrip('/')}={path}"
                for member, path in zip(MEMBERS, input.predictions)
            ],
            settings=settings("merge_predictions"),
        shell:
            "{params.common.python} -m weaver_tasks.merge_predictions --predictions {params.predictions:q} --group {wildcards.group}"
            " --inputs {input.manifest:q} --data-config {params.common.test_config:q} {params.common.custom_functions} --output {output.predictions:q}"
            " --settings {params.settings:q} --settings {params.common.untracked:q} --log-file {log:q} --record {output.record:q}"


# Those of the training lie beside them: whatever makes one anew makes the other.
METRICS_OF_EPOCHS = (
    [] if MODEL else [f"{METRICS}/val_epoch-{epoch}.json" for epoch in PLAN.epochs()]
)


def predictions_of(wildcards):
    return [f"{RUN}/{wildcards.member}predictions/{group}.{FORMAT}" for group in GROUPS]


def merged(wildcards):
    """Whether the results are those of all folds or seeds together."""
    return PLAN.merges() and not wildcards.member


def training_of(wildcards):
    """The chosen epoch of the member that is evaluated; of none, where all are together or nothing was trained."""
    return (
        [] if MODEL or merged(wildcards) else f"{RUN}/{wildcards.member}best_epoch.json"
    )


def epochs_of(wildcards):
    of = MEMBERS if merged(wildcards) else [wildcards.member]
    return [
        path.replace("{member}", member) for member in of for path in METRICS_OF_EPOCHS
    ]


def evaluated_members(wildcards):
    return (
        expand(f"{RUN}/{{member}}evaluation/metrics.json", member=MEMBERS)
        if merged(wildcards)
        else []
    )


def of_training(wildcards, input):
    """The options of `evaluate` that say what was trained."""
    if merged(wildcards):
        members = [f"{member.rstrip('/')}={RUN}/{member}" for member in MEMBERS]
        return ["--members", *members, *([] if MODEL else ["--members-metrics"])]
    if MODEL:
        return []
    return ["--best-epoch", input.best, "--metrics", f"{RUN}/{wildcards.member}metrics"]


def named_classes(wildcards):
    """A data configuration that names the classes: that of the first fold or seed, where all are together."""
    member = MEMBERS[0] if merged(wildcards) else wildcards.member
    return ancient(AUTO_CONFIG.replace("{member}", member))


rule evaluate:
    """Measure and draw: from the prediction files and the metrics alone, without the model."""
    input:
        data_config=named_classes,
        predictions=predictions_of,
        best=training_of,
        metrics=epochs_of,
        members=evaluated_members,
    output:
        metrics=f"{RUN}/{{member}}evaluation/metrics.json",
        table=report(
            f"{RUN}/{{member}}evaluation/metrics.md",
            category="3 Results",
            caption="../report/metrics.rst",
        ),
        plots=[
            report(
                f"{RUN}/{{member}}evaluation/{name}.png",
                category=category,
                caption=f"../report/{name}.rst",
            )
            for name, category in EVALUATION_PLOTS.items()
        ],
        record=f"{RUN}/provenance/tasks/evaluate/{{member}}evaluate.json",
    log:
        f"{RUN}/logs/evaluate/{{member}}evaluate.log",
    benchmark:
        f"{RUN}/benchmarks/evaluate/{{member}}evaluate.tsv"
    resources:
        mem_mb=attempt_memory(4),
    params:
        common=COMMON,
        predictions=lambda w, input: [
            f"{group}={path}" for group, path in zip(GROUPS, input.predictions)
        ],
        training=of_training,
        settings=settings("evaluate"),
    shell:
        "{params.common.python} -m weaver_tasks.evaluate --data-config {input.data_config:q} --predictions {params.predictions:q}"
        " {params.training:q} --output-dir {params.common.run}/{wildcards.member}evaluation"
        " --settings {params.settings:q} --settings {params.common.untracked:q} --log-file {log:q} --record {output.record:q}"


rule export_onnx:
    """Export the best epoch to ONNX and check it against PyTorch on real events."""
    input:
        manifest=f"{RUN}/staged/test.json",
        data_config=ancient(f"{RUN}/{{member}}data_config.auto.yaml"),
        state=f"{CHECKPOINTS}/net_best_epoch_state.pt",
    output:
        model=f"{RUN}/{{member}}export/model.onnx",
        raw=f"{RUN}/{{member}}export/model_raw.onnx",
        preprocess=f"{RUN}/{{member}}export/preprocess.json",
        parity=f"{RUN}/{{member}}export/parity.json",
        record=f"{RUN}/provenance/tasks/export_onnx/{{member}}export_onnx.json",
    log:
        f"{RUN}/logs/export_onnx/{{member}}export_onnx.log",
    benchmark:
        f"{RUN}/benchmarks/export_onnx/{{member}}export_onnx.tsv"
    resources:
        mem_mb=attempt_memory(4),
    params:
        common=COMMON,
        settings=settings("export_onnx", member=member_of),
    shell:
        "{params.common.python} -m weaver_tasks.export_onnx --data-config {input.data_config:q} {params.common.custom_functions} --inputs {input.manifest:q}"
        " --network {params.common.network:q} --state {input.state:q} --output-dir {params.common.run}/{wildcards.member}export"
        " --settings {params.settings:q} --settings {params.common.untracked:q} --log-file {log:q} --record {output.record:q}"


rule provenance:
    """Gather what every task did into one RO-Crate of the run."""
    input:
        manifest=f"{RUN}/inputs.json",
        # Of folds or seeds, all together come first: they need each of them.
        evaluation=(
            f"{RUN}/evaluation/metrics.json"
            if PLAN.merges()
            else expand(f"{RUN}/{{member}}evaluation/metrics.json", member=MEMBERS)
        ),
        export=(
            []
            if MODEL
            else expand(f"{RUN}/{{member}}export/parity.json", member=MEMBERS)
        ),
    output:
        crate=f"{RUN}/provenance/ro-crate-metadata.json",
    log:
        f"{RUN}/logs/provenance/provenance.log",
    localrule: True
    params:
        common=COMMON,
        # A function: what stands in braces in a path, as {fold}, is no wildcard.
        config=lambda w: json.dumps(PLAN.config, sort_keys=True),
    shell:
        "{params.common.python} -m weaver_tasks.provenance --run-dir {params.common.run} --workflow {params.common.workflow_folder:q} --output {output.crate:q}"
        " --settings {params.config:q} --log-file {log:q}"
