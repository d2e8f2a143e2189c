# Tools: targets that inspect the training of a run without changing it.
#
#   snakemake quick_check --configfile …         # or model_summary, find_lr, profile_training
#
# required: init_model's network and staged events (model_summary: the configurations only; quick_check: those and the input files).
# produced: model_summary.md, find_lr.png, profile_training.json.gz … in the run's folder. With several folds or seeds: of the first.
#           quick_check has a run of its own, results/<run>-quick_check/.

TOOL_MEMBER = MEMBERS[0]
FRESH_TRAINING = {
    "manifest": f"{RUN}/staged/fitting.json",
    "data_config": ancient(f"{RUN}/{TOOL_MEMBER}data_config.auto.yaml"),
    "state": f"{RUN}/{TOOL_MEMBER}checkpoints/init_state.pt",
    "metrics": f"{RUN}/{TOOL_MEMBER}metrics/init_model.json",
}


rule model_summary:
    """Count parameters and floating-point operations of the network, layer by layer.

    required: the data and network configurations. produced: model_summary.md and .json.
    """
    input:
        DATA_CONFIG,
    output:
        layers=f"{RUN}/model_summary.json",
        table=f"{RUN}/model_summary.md",
        record=f"{RUN}/provenance/tasks/model_summary/model_summary.json",
    log:
        f"{RUN}/logs/model_summary/model_summary.log",
    localrule: True
    params:
        common=COMMON,
        settings=settings("model_summary", member=lambda w: TOOL_MEMBER),
    shell:
        "{params.common.python} -m weaver_tasks.model_summary"
        " --data-config {input:q}"
        " {params.common.custom_functions}"
        " --network {params.common.network:q}"
        " --output {output.layers:q}"
        " --table {output.table:q}"
        " --settings {params.settings:q}"
        " --settings {params.common.untracked:q}"
        " --log-file {log:q}"
        " --record {output.record:q}"


rule find_lr:
    """Train some steps with increasing learning rates and plot the loss against the rate.

    required: init_model's network and staged events. produced: find_lr.png and .json.
    """
    input:
        **FRESH_TRAINING,
    output:
        history=f"{RUN}/find_lr.json",
        plot=f"{RUN}/find_lr.png",
        record=f"{RUN}/provenance/tasks/find_lr/find_lr.json",
    log:
        f"{RUN}/logs/find_lr/find_lr.log",
    threads: TRAINING_THREADS
    resources:
        **FOR_RANKS,
        mem_mb=attempt_memory(8),
    params:
        common=COMMON,
        settings=settings("find_lr", member=lambda w: TOOL_MEMBER),
    shell:
        "{params.common.on_each_node}{params.common.python} -m weaver_tasks.find_lr"
        " --output {output.history:q}"
        " --plot {output.plot:q}"
        " --data-config {input.data_config:q}"
        " {params.common.custom_functions}"
        " --inputs {input.manifest:q}"
        " --network {params.common.network:q}"
        " --checkpoints {params.common.run}/{params.common.first_member}checkpoints"
        " --metrics {params.common.run}/{params.common.first_member}metrics"
        " --settings {params.settings:q}"
        " --settings {params.common.untracked:q}"
        " --log-file {log:q}"
        " --record {output.record:q}"


rule profile_training:
    """Profile the time and memory of some training steps.

    required: init_model's network and staged events. produced: profile_training.json.gz and .txt.
    """
    input:
        **FRESH_TRAINING,
    output:
        trace=f"{RUN}/profile_training.json.gz",
        table=f"{RUN}/profile_training.txt",
        record=f"{RUN}/provenance/tasks/profile_training/profile_training.json",
    log:
        f"{RUN}/logs/profile_training/profile_training.log",
    threads: TRAINING["threads"]
    resources:
        **ONE_GPU,
        mem_mb=attempt_memory(8),
    params:
        common=COMMON,
        settings=settings("profile_training", member=lambda w: TOOL_MEMBER),
    shell:
        "{params.common.python} -m weaver_tasks.profile_training"
        " --trace {output.trace:q}"
        " --table {output.table:q}"
        " --data-config {input.data_config:q}"
        " {params.common.custom_functions}"
        " --inputs {input.manifest:q}"
        " --network {params.common.network:q}"
        " --checkpoints {params.common.run}/{params.common.first_member}checkpoints"
        " --metrics {params.common.run}/{params.common.first_member}metrics"
        " --settings {params.settings:q}"
        " --settings {params.common.untracked:q}"
        " --log-file {log:q}"
        " --record {output.record:q}"


rule quick_check:
    """Try the whole configuration on a few entries, in a run of its own.

    required: the configuration and the input files. produced: a run, results/<run>-quick_check/, with logs of its own.
    """
    threads: max(TRAINING_THREADS, 4)
    resources:
        **FOR_RANKS,
        mem_mb=attempt_memory(8),
    params:
        common=COMMON,
        config=lambda w: as_file("quick_check", PLAN.config, f"{RUN}-quick_check"),
    shell:
        "{params.common.python} -m weaver_tasks.quick_check"
        " --workflow {params.common.workflow_folder:q}/Snakefile"
        " --cores {threads}"
        " --settings {params.config:q}"
