# From a fresh network to the best epoch.
#
# required: staged events, data_config.auto.yaml, the network configuration.
# produced: checkpoints/ and metrics/ of every epoch, best_epoch.json, net_best_epoch_state.pt.
#
# One epoch is one job (or training.epochs_per_job of them are). Each takes the complete state that the one
# before it left, so the chain can be cut anywhere. `data_config.auto.yaml` is ancient(): what training takes
# from it is in params, so that new observers, say, retrain nothing.

BLOCKS = PLAN.blocks()
SINGLE_EPOCHS = [block[0] for block in BLOCKS if len(block) == 1]
LONG_BLOCKS = [block for block in BLOCKS if len(block) > 1]
CHECKPOINTS = f"{RUN}/{{member}}checkpoints"
METRICS = f"{RUN}/{{member}}metrics"
# Both look at past validations: to stop, or to remove what is neither the best epoch nor needed any more.
LOOKS_BACK = (
    bool(TRAINING["early_stopping"]) or TRAINING["keep_checkpoints"] == "best_and_last"
)


def state_before(epoch):
    """The complete state that an epoch starts from."""
    if epoch == PLAN.epochs().start:
        return [
            f"{CHECKPOINTS}/init_state.pt",
            f"{CHECKPOINTS}/init_optimizer.pt",
            f"{METRICS}/init_model.json",
        ]
    return [
        f"{CHECKPOINTS}/net_epoch-{epoch - 1}_state.pt",
        f"{CHECKPOINTS}/net_epoch-{epoch - 1}_optimizer.pt",
        f"{METRICS}/train_epoch-{epoch - 1}.json",
    ]


def past_validations(epoch):
    """Validations up to two epochs back, so that validating one epoch runs beside the training of the next."""
    return (
        [
            f"{METRICS}/val_epoch-{past}.json"
            for past in PLAN.epochs()
            if past < epoch - 1
        ]
        if LOOKS_BACK
        else []
    )


def with_member(paths, wildcards):
    return [path.replace("{member}", wildcards.member) for path in paths]


rule init_model:
    """Make the network, its optimizer, and the state before the first epoch."""
    input:
        manifest=f"{RUN}/staged/fitting.json",
        data_config=ancient(f"{RUN}/{{member}}data_config.auto.yaml"),
        weights=lambda w: PLAN.weights(w.member),
    output:
        state=f"{CHECKPOINTS}/init_state.pt",
        optimizer=f"{CHECKPOINTS}/init_optimizer.pt",
        metrics=f"{METRICS}/init_model.json",
        record=f"{RUN}/provenance/tasks/init_model/{{member}}init_model.json",
    log:
        f"{RUN}/logs/init_model/{{member}}init_model.log",
    benchmark:
        f"{RUN}/benchmarks/init_model/{{member}}init_model.tsv"
    resources:
        mem_mb=attempt_memory(4),
    params:
        common=COMMON,
        settings=settings("init_model", member=member_of),
    shell:
        "{params.common.python} -m weaver_tasks.init_model --data-config {input.data_config:q} {params.common.custom_functions} --inputs {input.manifest:q}"
        " --network {params.common.network:q} --state {output.state:q} --optimizer {output.optimizer:q} --metrics {output.metrics:q}"
        " --settings {params.settings:q} --settings {params.common.untracked:q} --log-file {log:q} --record {output.record:q}"


TRAIN_EPOCH = (
    "{params.common.on_each_node}{params.common.python} -m weaver_tasks.train_epoch --data-config {input.data_config:q} {params.common.custom_functions} --inputs {input.manifest:q}"
    " --network {params.common.network:q} --epochs {params.epochs} --checkpoints {params.common.run}/{wildcards.member}checkpoints"
    " --metrics {params.common.run}/{wildcards.member}metrics --validation {input.validations:q}"
    " --settings {params.settings:q} --settings {params.common.untracked:q} --log-file {log:q} --record {output.record:q}"
)


rule train_epoch:
    """Train one epoch, from the complete state that the epoch before left."""
    input:
        manifest=f"{RUN}/staged/fitting.json",
        data_config=ancient(f"{RUN}/{{member}}data_config.auto.yaml"),
        state=lambda w: with_member(state_before(int(w.epoch)), w),
        validations=lambda w: with_member(past_validations(int(w.epoch)), w),
    output:
        state=f"{CHECKPOINTS}/net_epoch-{{epoch}}_state.pt",
        optimizer=f"{CHECKPOINTS}/net_epoch-{{epoch}}_optimizer.pt",
        metrics=f"{METRICS}/train_epoch-{{epoch}}.json",
        record=f"{RUN}/provenance/tasks/train_epoch/{{member}}epoch-{{epoch}}.json",
    log:
        f"{RUN}/logs/train_epoch/{{member}}epoch-{{epoch}}.log",
    benchmark:
        f"{RUN}/benchmarks/train_epoch/{{member}}epoch-{{epoch}}.tsv"
    wildcard_constraints:
        epoch="|".join(map(str, SINGLE_EPOCHS)) or "none",
    threads: TRAINING_THREADS
    resources:
        **FOR_RANKS,
        mem_mb=attempt_memory(8),
    params:
        common=COMMON,
        epochs=lambda w: w.epoch,
        settings=settings(
            "train_epoch",
            member=member_of,
            epochs=lambda w: range(int(w.epoch), int(w.epoch) + 1),
        ),
    shell:
        TRAIN_EPOCH


for block in LONG_BLOCKS:

    rule:
        name:
            f"train_epoch_{block[0]}_to_{block[-1]}"
        input:
            manifest=f"{RUN}/staged/fitting.json",
            data_config=ancient(f"{RUN}/{{member}}data_config.auto.yaml"),
            state=state_before(block[0]),
            validations=past_validations(block[0]),
        output:
            state=[f"{CHECKPOINTS}/net_epoch-{epoch}_state.pt" for epoch in block],
            optimizer=[
                f"{CHECKPOINTS}/net_epoch-{epoch}_optimizer.pt" for epoch in block
            ],
            metrics=[f"{METRICS}/train_epoch-{epoch}.json" for epoch in block],
            record=f"{RUN}/provenance/tasks/train_epoch/{{member}}epoch-{block[0]}-to-{block[-1]}.json",
        log:
            f"{RUN}/logs/train_epoch/{{member}}epoch-{block[0]}-to-{block[-1]}.log",
        benchmark:
            f"{RUN}/benchmarks/train_epoch/{{member}}epoch-{block[0]}-to-{block[-1]}.tsv"
        threads: TRAINING_THREADS
        resources:
            **FOR_RANKS,
            mem_mb=attempt_memory(8),
        params:
            common=COMMON,
            epochs=list(block),
            settings=settings(
                "train_epoch", member=member_of, epochs=lambda w, block=block: block
            ),
        shell:
            TRAIN_EPOCH

    take_profile_settings(f"train_epoch_{block[0]}_to_{block[-1]}", rule="train_epoch")


rule validate_epoch:
    """Score the validation events with one epoch's network; on a cluster this runs beside the next epoch's training."""
    input:
        manifest=f"{RUN}/staged/fitting.json",
        data_config=ancient(f"{RUN}/{{member}}data_config.auto.yaml"),
        state=f"{CHECKPOINTS}/net_epoch-{{epoch}}_state.pt",
    output:
        metrics=f"{METRICS}/val_epoch-{{epoch}}.json",
        record=f"{RUN}/provenance/tasks/validate_epoch/{{member}}epoch-{{epoch}}.json",
    log:
        f"{RUN}/logs/validate_epoch/{{member}}epoch-{{epoch}}.log",
    benchmark:
        f"{RUN}/benchmarks/validate_epoch/{{member}}epoch-{{epoch}}.tsv"
    threads: TRAINING_THREADS
    resources:
        **FOR_RANKS,
        mem_mb=attempt_memory(8),
    params:
        common=COMMON,
        settings=settings("validate_epoch", member=member_of),
    shell:
        "{params.common.on_each_node}{params.common.python} -m weaver_tasks.validate_epoch --data-config {input.data_config:q} {params.common.custom_functions} --inputs {input.manifest:q}"
        " --network {params.common.network:q} --state {input.state:q} --epoch {wildcards.epoch} --output {output.metrics:q}"
        " --settings {params.settings:q} --settings {params.common.untracked:q} --log-file {log:q} --record {output.record:q}"


rule select_best_epoch:
    """Choose the epoch with the best validation metric."""
    input:
        validations=lambda w: with_member(
            [f"{METRICS}/val_epoch-{epoch}.json" for epoch in PLAN.epochs()], w
        ),
    output:
        best=f"{RUN}/{{member}}best_epoch.json",
        state=f"{CHECKPOINTS}/net_best_epoch_state.pt",
        optimizer=f"{CHECKPOINTS}/net_best_epoch_optimizer.pt",
        record=f"{RUN}/provenance/tasks/select_best_epoch/{{member}}select_best_epoch.json",
    log:
        f"{RUN}/logs/select_best_epoch/{{member}}select_best_epoch.log",
    localrule: True
    params:
        common=COMMON,
        settings=settings("select_best_epoch"),
    shell:
        "{params.common.python} -m weaver_tasks.select_best_epoch --validation {input.validations:q}"
        " --checkpoints {params.common.run}/{wildcards.member}checkpoints --best {output.best:q}"
        " --settings {params.settings:q} --settings {params.common.untracked:q} --log-file {log:q} --record {output.record:q}"
