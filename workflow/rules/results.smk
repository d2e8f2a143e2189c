# From the best epoch to what the physicist takes away.
#
# required: net_best_epoch_state.pt (or prediction.model), staged test events.
# produced: predictions/, evaluation/, export/, provenance/.

GROUPS = PLAN.test_groups()
MEMBERS = PLAN.members()
FORMAT = PLAN.config["prediction"]["format"]
MODEL = PLAN.config["prediction"]["model"]
TEST_CONFIG = PLAN.data_config_file("test")

# Plot -> the chapter of the report that shows it.
EVALUATION_PLOTS = {"training": "2 Training", "roc": "3 Results", "confusion": "3 Results", "scores": "3 Results"}


rule predict:
    """Score every test event of a group, in the order of the source files."""
    input:
        manifest=f"{RUN}/staged/test.json",
        data_config=ancient(f"{RUN}/{{member}}data_config.auto.yaml"),
        model=MODEL or f"{CHECKPOINTS}/net_best_epoch_state.pt",
    output:
        predictions=f"{RUN}/{{member}}predictions/{{group}}.{FORMAT}",
        record=f"{RUN}/provenance/tasks/predict/{{member}}{{group}}.json",
    params:
        settings=settings("predict"),
    log:
        f"{RUN}/logs/predict/{{member}}{{group}}.log",
    benchmark:
        f"{RUN}/benchmarks/predict/{{member}}{{group}}.tsv"
    threads: TRAINING["threads"]
    resources:
        mem_mb=attempt_memory(4),
        **ONE_GPU,
    shell:
        "{PYTHON} -m weaver_tasks.predict --data-config {input.data_config:q} --data-config-test {TEST_CONFIG:q} {CUSTOM_FUNCTIONS}"
        " --inputs {input.manifest:q} --group {wildcards.group} --network {NETWORK:q} --model {input.model:q}"
        " --output {output.predictions:q}"
        " --settings {params.settings:q} --settings {UNTRACKED:q} --log {log:q} --record {output.record:q}"


def predictions_of(wildcards):
    return [f"{RUN}/{wildcards.member}predictions/{group}.{FORMAT}" for group in GROUPS]


rule evaluate:
    """Measure and draw: from the prediction files and the metrics alone, without the model."""
    input:
        data_config=ancient(f"{RUN}/{{member}}data_config.auto.yaml"),
        predictions=predictions_of,
        best=f"{RUN}/{{member}}best_epoch.json",
        training=lambda w: with_member([f"{METRICS}/train_epoch-{epoch}.json" for epoch in PLAN.epochs()], w),
        validations=lambda w: with_member([f"{METRICS}/val_epoch-{epoch}.json" for epoch in PLAN.epochs()], w),
    output:
        metrics=f"{RUN}/{{member}}evaluation/metrics.json",
        table=report(f"{RUN}/{{member}}evaluation/metrics.md", category="3 Results", caption="../report/metrics.rst"),
        plots=[
            report(f"{RUN}/{{member}}evaluation/{name}.png", category=category, caption=f"../report/{name}.rst")
            for name, category in EVALUATION_PLOTS.items()
        ],
        record=f"{RUN}/provenance/tasks/evaluate/{{member}}evaluate.json",
    params:
        predictions=lambda w, input: [f"{group}={path}" for group, path in zip(GROUPS, input.predictions)],
        settings=settings("evaluate"),
    log:
        f"{RUN}/logs/evaluate/{{member}}evaluate.log",
    benchmark:
        f"{RUN}/benchmarks/evaluate/{{member}}evaluate.tsv"
    resources:
        mem_mb=attempt_memory(4),
    shell:
        "{PYTHON} -m weaver_tasks.evaluate --data-config {input.data_config:q} --predictions {params.predictions:q}"
        " --best-epoch {input.best:q} --metrics {RUN}/{wildcards.member}metrics --output-dir {RUN}/{wildcards.member}evaluation"
        " --settings {params.settings:q} --settings {UNTRACKED:q} --log {log:q} --record {output.record:q}"


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
    params:
        settings=settings("export_onnx"),
    log:
        f"{RUN}/logs/export_onnx/{{member}}export_onnx.log",
    benchmark:
        f"{RUN}/benchmarks/export_onnx/{{member}}export_onnx.tsv"
    resources:
        mem_mb=attempt_memory(4),
    shell:
        "{PYTHON} -m weaver_tasks.export_onnx --data-config {input.data_config:q} {CUSTOM_FUNCTIONS} --inputs {input.manifest:q}"
        " --network {NETWORK:q} --state {input.state:q} --output-dir {RUN}/{wildcards.member}export"
        " --settings {params.settings:q} --settings {UNTRACKED:q} --log {log:q} --record {output.record:q}"


localrules:
    provenance,


rule provenance:
    """Gather what every task did into one RO-Crate of the run."""
    input:
        manifest=f"{RUN}/inputs.json",
        evaluation=expand(f"{RUN}/{{member}}evaluation/metrics.json", member=MEMBERS),
        export=expand(f"{RUN}/{{member}}export/parity.json", member=MEMBERS),
    output:
        crate=f"{RUN}/provenance/ro-crate-metadata.json",
    params:
        config=json.dumps(PLAN.config, sort_keys=True),
    log:
        f"{RUN}/logs/provenance/provenance.log",
    shell:
        "{PYTHON} -m weaver_tasks.provenance --run-dir {RUN} --output {output.crate:q}"
        " --settings {params.config:q} --log {log:q}"
