# From a fresh network to the best epoch.
#
# required: staged events, data_config.auto.yaml, the network configuration.
# produced: checkpoints/ and metrics/ of every epoch, best_epoch.json, net_best_epoch_state.pt.
#
# A job trains one epoch (or training.epochs_per_job epochs) from the complete state of the epoch before, so the chain can be
# interrupted anywhere. `data_config.auto.yaml` is ancient(): the parts of it that training uses are in params, so that new observers,
# say, do not cause a new training.

BLOCKS = PLAN.blocks()
LONG_JOBS = [
    (member, block) for member in MEMBERS for block in BLOCKS if len(block) > 1
]
# This rule trains the epochs that have their own job: all of them, or only the last one.
SINGLE_EPOCHS = [block[0] for block in BLOCKS if len(block) == 1]
SINGLE_EPOCH = (
    planning.numbers_pattern(range(SINGLE_EPOCHS[0], SINGLE_EPOCHS[-1] + 1))
    if SINGLE_EPOCHS
    else "none"
)


rule init_model:
    """Make the network, its optimizer, and the state before the first epoch.

    required: the network configuration, the files of network.load_weights. produced: init_state.pt, init_optimizer.pt, init_model.json.
    """
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
    group:
        PREPARATION
    resources:
        mem_mb=attempt_memory(4),
    params:
        common=COMMON,
        settings=settings("init_model", member=member_of),
    shell:
        "{params.common.python} -m weaver_tasks.init_model"
        " --data-config {input.data_config:q}"
        " {params.common.custom_functions}"
        " --inputs {input.manifest:q}"
        " --network {params.common.network:q}"
        " --state {output.state:q}"
        " --optimizer {output.optimizer:q}"
        " --metrics {output.metrics:q}"
        " --settings {params.settings:q}"
        " --settings {params.common.untracked:q}"
        " --log-file {log:q}"
        " --record {output.record:q}"


TRAIN_EPOCH = (
    "{params.common.on_each_node}{params.common.python} -m weaver_tasks.train_epoch"
    " --data-config {input.data_config:q}"
    " {params.common.custom_functions}"
    " --inputs {input.manifest:q}"
    " --network {params.common.network:q}"
    " --epochs {params.epochs}"
    " --checkpoints {params.folder}checkpoints"
    " --metrics {params.folder}metrics"
    " --validation {input.validations:q}"
    " --settings {params.settings:q}"
    " --settings {params.common.untracked:q}"
    " --log-file {log:q}"
    " --record {output.record:q}"
)


rule train_epoch:
    """Train one epoch, from the complete state that the epoch before left.

    required: net_epoch-<n-1>_state.pt, …_optimizer.pt, train_epoch-<n-1>.json, or those of init_model. produced: those of epoch n.
    """
    input:
        manifest=f"{RUN}/staged/fitting.json",
        data_config=ancient(f"{RUN}/{{member}}data_config.auto.yaml"),
        state=lambda w: state_before(int(w.epoch), w.member),
        validations=(
            (lambda w: past_validations(int(w.epoch), w.member)) if LOOKS_BACK else []
        ),
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
        epoch=SINGLE_EPOCH,
    threads: TRAINING_THREADS
    resources:
        **FOR_RANKS,
        mem_mb=attempt_memory(8),
    params:
        common=COMMON,
        folder=lambda w: f"{RUN}/{w.member}",
        epochs="{epoch}",
        settings=settings("train_epoch", member=member_of, epochs=epochs_of_job),
    shell:
        TRAIN_EPOCH


VALIDATE_EPOCH = (
    "{params.common.on_each_node}{params.common.python} -m weaver_tasks.validate_epoch"
    " --data-config {input.data_config:q}"
    " {params.common.custom_functions}"
    " --inputs {input.manifest:q}"
    " --network {params.common.network:q}"
    " --state {input.state:q}"
    " --epoch {params.epochs}"
    " --output {output.metrics:q}"
    " --settings {params.settings:q}"
    " --settings {params.common.untracked:q}"
    " --log-file {log:q}"
    " --record {output.record:q}"
)


rule validate_epoch:
    """Score the validation events with one epoch's network; on a cluster this runs beside the next epoch's training.

    required: net_epoch-<n>_state.pt. produced: val_epoch-<n>.json.
    """
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
    wildcard_constraints:
        epoch=SINGLE_EPOCH,
    threads: TRAINING_THREADS
    resources:
        **FOR_RANKS,
        mem_mb=attempt_memory(8),
    params:
        common=COMMON,
        epochs="{epoch}",
        settings=settings("validate_epoch", member=member_of),
    shell:
        VALIDATE_EPOCH


# A job of several epochs declares the outputs of each epoch. Patterns of outputs cannot do arithmetic, so each block of epochs is a rule
# (docs/architecture.md explains why it does not declare only a record, as staging does). Their names contain no wildcard {member}:
# otherwise Snakemake would try each of these rules for each file.
for member, block in LONG_JOBS:
    epochs = f"epoch-{block[0]}-to-{block[-1]}"
    folder = f"{RUN}/{member}"
    # As 0_to_4 or fold_1_0_to_4.
    job = re.sub(r"\W", "_", f"{member}{block[0]}_to_{block[-1]}")

    rule:
        name:
            f"train_epoch_{job}"
        input:
            manifest=f"{RUN}/staged/fitting.json",
            data_config=ancient(f"{folder}data_config.auto.yaml"),
            state=state_before(block[0], member),
            validations=past_validations(block[0], member),
        output:
            state=[f"{folder}checkpoints/net_epoch-{n}_state.pt" for n in block],
            optimizer=[f"{folder}checkpoints/net_epoch-{n}_optimizer.pt" for n in block],
            metrics=[f"{folder}metrics/train_epoch-{n}.json" for n in block],
            record=f"{RUN}/provenance/tasks/train_epoch/{member}{epochs}.json",
        log:
            f"{RUN}/logs/train_epoch/{member}{epochs}.log",
        benchmark:
            f"{RUN}/benchmarks/train_epoch/{member}{epochs}.tsv"
        params:
            common=COMMON,
            folder=folder,
            epochs=list(block),
            settings=lambda w, member=member, block=block: settings_of(
                "train_epoch", member=member, epochs=block
            ),
        shell:
            TRAIN_EPOCH

    rule:
        name:
            f"validate_epoch_{job}"
        input:
            manifest=f"{RUN}/staged/fitting.json",
            data_config=ancient(f"{folder}data_config.auto.yaml"),
            state=[f"{folder}checkpoints/net_epoch-{n}_state.pt" for n in block],
        output:
            metrics=[f"{folder}metrics/val_epoch-{n}.json" for n in block],
            record=f"{RUN}/provenance/tasks/validate_epoch/{member}{epochs}.json",
        log:
            f"{RUN}/logs/validate_epoch/{member}{epochs}.log",
        benchmark:
            f"{RUN}/benchmarks/validate_epoch/{member}{epochs}.tsv"
        params:
            common=COMMON,
            epochs=list(block),
            settings=lambda w, member=member: settings_of(
                "validate_epoch", member=member
            ),
        shell:
            VALIDATE_EPOCH

    # Threads and resources are those of a job of one epoch, including settings of a profile.
    for stage in ("train_epoch", "validate_epoch"):
        of_one_epoch = getattr(rules, stage).rule.resources
        getattr(rules, f"{stage}_{job}").rule.resources.update(of_one_epoch)


rule select_best_epoch:
    """Choose the epoch with the best validation metric.

    required: val_epoch-<n>.json of all epochs. produced: best_epoch.json, net_best_epoch_state.pt, net_best_epoch_optimizer.pt.
    """
    input:
        validations=validations_to_select_from,
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
        "{params.common.python} -m weaver_tasks.select_best_epoch"
        " --validation {input.validations:q}"
        " --checkpoints {params.common.run}/{wildcards.member}checkpoints"
        " --best {output.best:q}"
        " --settings {params.settings:q}"
        " --settings {params.common.untracked:q}"
        " --log-file {log:q}"
        " --record {output.record:q}"


rule train:
    """The target that stops after the training: every epoch is trained and validated, and the best one of each fold or seed is chosen."""
    input:
        trained_members,
    localrule: True
