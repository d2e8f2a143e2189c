# From the best epoch to what the physicist takes away.
#
# required: net_best_epoch_state.pt (or prediction.model), staged test events.
# produced: predictions/, evaluation/, export/, provenance/.

GROUPS = PLAN.test_groups()
MEMBERS = PLAN.members()
FORMAT = PLAN.config["prediction"]["format"]
MODEL = PLAN.config["prediction"]["model"]
TEST_CONFIG = PLAN.data_config_file("test")
# With a model that is already trained nothing is trained: its data configuration must be resolved (a data_config.auto.yaml).
AUTO_CONFIG = DATA_CONFIG if MODEL else f"{RUN}/{{member}}data_config.auto.yaml"

# Plot -> the chapter of the report that shows it.
EVALUATION_PLOTS = {} if MODEL else {"training": "2 Training"}
if TRAINING["task"] == "classification":
    EVALUATION_PLOTS |= {
        "roc": "3 Results",
        "confusion": "3 Results",
        "scores": "3 Results",
    }
else:
    EVALUATION_PLOTS |= {"regression": "3 Results"}


rule predict:
    """Score every test event of a group, in the order of the source files."""
    input:
        manifest=f"{RUN}/staged/test.json",
        data_config=ancient(AUTO_CONFIG),
        model=MODEL or f"{CHECKPOINTS}/net_best_epoch_state.pt",
    output:
        predictions=f"{RUN}/{{member}}predictions/{{group}}.{FORMAT}",
        record=f"{RUN}/provenance/tasks/predict/{{member}}{{group}}.json",
    log:
        f"{RUN}/logs/predict/{{member}}{{group}}.log",
    benchmark:
        f"{RUN}/benchmarks/predict/{{member}}{{group}}.tsv"
    threads: TRAINING["threads"]
    resources:
        **ONE_GPU,
        mem_mb=attempt_memory(4),
    params:
        settings=settings("predict", member=member_of),
    shell:
        "{PYTHON} -m weaver_tasks.predict --data-config {input.data_config:q} --data-config-test {TEST_CONFIG:q} {CUSTOM_FUNCTIONS}"
        " --inputs {input.manifest:q} --group {wildcards.group} --network {NETWORK:q} --model {input.model:q}"
        " --output {output.predictions:q}"
        " --settings {params.settings:q} --settings {UNTRACKED:q} --log {log:q} --record {output.record:q}"


METRICS_OF_EPOCHS = (
    []
    if MODEL
    else [
        f"{METRICS}/{kind}_epoch-{epoch}.json"
        for epoch in PLAN.epochs()
        for kind in ("train", "val")
    ]
)


def predictions_of(wildcards):
    return [f"{RUN}/{wildcards.member}predictions/{group}.{FORMAT}" for group in GROUPS]


rule evaluate:
    """Measure and draw: from the prediction files and the metrics alone, without the model."""
    input:
        data_config=ancient(AUTO_CONFIG),
        predictions=predictions_of,
        best=[] if MODEL else f"{RUN}/{{member}}best_epoch.json",
        metrics=lambda w: with_member(METRICS_OF_EPOCHS, w),
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
        predictions=lambda w, input: [
            f"{group}={path}" for group, path in zip(GROUPS, input.predictions)
        ],
        training=lambda w, input: (
            []
            if MODEL
            else ["--best-epoch", input.best, "--metrics", f"{RUN}/{w.member}metrics"]
        ),
        settings=settings("evaluate"),
    shell:
        "{PYTHON} -m weaver_tasks.evaluate --data-config {input.data_config:q} --predictions {params.predictions:q}"
        " {params.training:q} --output-dir {RUN}/{wildcards.member}evaluation"
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
    log:
        f"{RUN}/logs/export_onnx/{{member}}export_onnx.log",
    benchmark:
        f"{RUN}/benchmarks/export_onnx/{{member}}export_onnx.tsv"
    resources:
        mem_mb=attempt_memory(4),
    params:
        settings=settings("export_onnx"),
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
        export=(
            []
            if MODEL
            else expand(f"{RUN}/{{member}}export/parity.json", member=MEMBERS)
        ),
    output:
        crate=f"{RUN}/provenance/ro-crate-metadata.json",
    log:
        f"{RUN}/logs/provenance/provenance.log",
    params:
        config=json.dumps(PLAN.config, sort_keys=True),
    shell:
        "{PYTHON} -m weaver_tasks.provenance --run-dir {RUN} --output {output.crate:q}"
        " --settings {params.config:q} --log {log:q}"
