# From the best epoch to the final results: predictions, evaluation, ONNX export and provenance.
#
# required: net_best_epoch_state.pt (or prediction.model), staged test events.
# produced: predictions/, evaluation/, export/, provenance/.

PREDICTION_RANKS = PLAN.config["prediction"]["ranks"]

# Plot -> the chapter of the report that shows it. Without test files the report shows only the training.
EVALUATION_PLOTS = {} if MODEL else {"training": "2 Training"}
if not GROUPS:
    pass
elif TRAINING["task"] == "classification":
    EVALUATION_PLOTS |= {
        "roc": "3 Results",
        "confusion": "3 Results",
        "scores": "3 Results",
        **dict.fromkeys(PLAN.kinematic_plots(), "3 Results"),
    }
else:
    EVALUATION_PLOTS |= {"regression": "3 Results"}


rule predict:
    """Score every test event of a group, in the order of the source files.

    required: staged test events, the best epoch or prediction.model. produced: predictions/<group>.
    """
    input:
        manifest=f"{RUN}/staged/test.json",
        data_config=ancient(AUTO_CONFIG),
        model=model_of,
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
        "{params.common.python} -m weaver_tasks.predict"
        " --data-config {input.data_config:q}"
        " --data-config-test {params.common.test_config:q}"
        " {params.common.custom_functions}"
        " --inputs {input.manifest:q}"
        " --group {wildcards.group}"
        " --network {params.common.network:q}"
        " --model {input.model:q}"
        " --output {output.predictions:q}"
        " --settings {params.settings:q}"
        " --settings {params.common.untracked:q}"
        " --log-file {log:q}"
        " --record {output.record:q}"


if PLAN.merges():

    rule merge_predictions:
        """Merge the predictions of all folds or seeds: each event by the fold that did not see it, or the mean over the seeds.

        required: the predictions of each. produced: predictions/<group> of the run.
        """
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
            "{params.common.python} -m weaver_tasks.merge_predictions"
            " --predictions {params.predictions:q}"
            " --group {wildcards.group}"
            " --inputs {input.manifest:q}"
            " --data-config {params.common.test_config:q}"
            " {params.common.custom_functions}"
            " --output {output.predictions:q}"
            " --settings {params.settings:q}"
            " --settings {params.common.untracked:q}"
            " --log-file {log:q}"
            " --record {output.record:q}"


rule evaluate:
    """Measure and draw: from the prediction files and the metrics alone, without the model.

    required: the predictions of all groups, the metrics of all epochs. produced: evaluation/.
    """
    input:
        data_config=named_classes,
        predictions=predictions_of,
        best=best_epoch_of,
        metrics=epochs_metrics,
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
        "{params.common.python} -m weaver_tasks.evaluate"
        " --data-config {input.data_config:q}"
        " --predictions {params.predictions:q}"
        " {params.training:q}"
        " --output-dir {params.common.run}/{wildcards.member}evaluation"
        " --settings {params.settings:q}"
        " --settings {params.common.untracked:q}"
        " --log-file {log:q}"
        " --record {output.record:q}"


rule export_onnx:
    """Export the best epoch, or prediction.model, to ONNX and check it against PyTorch: on test events, else on validation events.

    required: net_best_epoch_state.pt, staged events if there are any. produced: export/.
    """
    input:
        manifests=events_to_compare_on,
        data_config=ancient(AUTO_CONFIG),
        state=model_of,
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
        "{params.common.python} -m weaver_tasks.export_onnx"
        " --data-config {input.data_config:q}"
        " {params.common.custom_functions}"
        " --inputs {input.manifests:q}"
        " --network {params.common.network:q}"
        " --state {input.state:q}"
        " --output-dir {params.common.run}/{wildcards.member}export"
        " --settings {params.settings:q}"
        " --settings {params.common.untracked:q}"
        " --log-file {log:q}"
        " --record {output.record:q}"


rule export:
    """The target that makes the ONNX model alone: of prediction.model, it needs neither training nor test files."""
    input:
        expand(f"{RUN}/{{member}}export/parity.json", member=MEMBERS),
    localrule: True


rule provenance:
    """Gather what every task did into one RO-Crate of the run.

    required: the records of all tasks, which are complete with evaluation and export. produced: provenance/ro-crate-metadata.json.
    """
    input:
        manifest=f"{RUN}/inputs.json",
        # With folds or seeds, the merged results come first, because they need each of them.
        evaluation=(
            []
            if ONLY_EXPORTS
            else (
                f"{RUN}/evaluation/metrics.json"
                if PLAN.merges()
                else expand(f"{RUN}/{{member}}evaluation/metrics.json", member=MEMBERS)
            )
        ),
        export=(
            []
            if MODEL and not ONLY_EXPORTS
            else expand(f"{RUN}/{{member}}export/parity.json", member=MEMBERS)
        ),
    output:
        crate=f"{RUN}/provenance/ro-crate-metadata.json",
    log:
        f"{RUN}/logs/provenance/provenance.log",
    localrule: True
    params:
        common=COMMON,
        config=lambda w: as_file("provenance", PLAN.config),
    shell:
        "{params.common.python} -m weaver_tasks.provenance"
        " --run-dir {params.common.run}"
        " --workflow {params.common.workflow_folder:q}"
        " --output {output.crate:q}"
        " --settings {params.config:q}"
        " --log-file {log:q}"
