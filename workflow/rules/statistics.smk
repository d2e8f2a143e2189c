# Standardization and reweighting by many jobs: statistics.files_per_job training files each.
#
# required: staged/fitting.json and the staged files that it lists.
# produced: statistics/<stage>/pass-<n>.npz, what standardize and reweight want to know of the training files: the sum of
#           statistics/<stage>/pass-<n>/<part>.npz. A pass may look at what the ones before it found. Nothing else needs them later.


wildcard_constraints:
    index=r"\d+",
    part=r"\d+",


# Seconds each: not worth a job.
rule standardize_part:
    """Count the values of the input variables in some of the training files."""
    input:
        manifest=f"{RUN}/staged/fitting.json",
        sums=lambda w: sums_of("standardize")[: int(w.index)],
    output:
        sums=f"{RUN}/statistics/standardize/pass-{{index}}/{{part}}.npz",
        record=f"{RUN}/provenance/tasks/standardize/pass-{{index}}-part-{{part}}.json",
    log:
        f"{RUN}/logs/standardize/pass-{{index}}-part-{{part}}.log",
    benchmark:
        f"{RUN}/benchmarks/standardize/pass-{{index}}-part-{{part}}.tsv"
    resources:
        mem_mb=attempt_memory(2),
    params:
        common=COMMON,
        settings=settings("standardize"),
        part=lambda w: list(STATISTICS_PARTS[int(w.part)]),
    shell:
        "{params.common.python} -m weaver_tasks.standardize --data-config {params.common.data_config:q} {params.common.custom_functions}"
        " --inputs {input.manifest:q} --after {input.sums:q} --part {params.part} --sums {output.sums:q}"
        " --settings {params.settings:q} --settings {params.common.untracked:q} --log-file {log:q} --record {output.record:q}"


rule standardize_gather:
    """Add up the parts of a pass."""
    input:
        manifest=f"{RUN}/staged/fitting.json",
        sums=lambda w: sums_of("standardize")[: int(w.index)],
        parts=expand(
            f"{RUN}/statistics/standardize/pass-{{{{index}}}}/{{part}}.npz",
            part=range(len(STATISTICS_PARTS)),
        ),
    output:
        sums=f"{RUN}/statistics/standardize/pass-{{index}}.npz",
        record=f"{RUN}/provenance/tasks/standardize/pass-{{index}}.json",
    log:
        f"{RUN}/logs/standardize/pass-{{index}}.log",
    localrule: True
    params:
        common=COMMON,
        settings=settings("standardize"),
        folder=f"{RUN}/statistics/standardize/pass-{{index}}",
        parts=len(STATISTICS_PARTS),
    shell:
        "{params.common.python} -m weaver_tasks.standardize --data-config {params.common.data_config:q} {params.common.custom_functions}"
        " --inputs {input.manifest:q} --after {input.sums:q} --gather {params.folder:q} {params.parts}"
        " --sums {output.sums:q}"
        " --settings {params.settings:q} --settings {params.common.untracked:q} --log-file {log:q} --record {output.record:q}"


take_profile_settings("standardize_part", rule="standardize")


rule reweight_part:
    """Histogram the reweighting variables, or count the weights, of some of the training files."""
    input:
        manifest=f"{RUN}/staged/fitting.json",
        sums=lambda w: sums_of("reweight", w.member)[: int(w.index)],
    output:
        sums=f"{RUN}/{{member}}statistics/reweight/pass-{{index}}/{{part}}.npz",
        record=f"{RUN}/provenance/tasks/reweight/{{member}}pass-{{index}}-part-{{part}}.json",
    log:
        f"{RUN}/logs/reweight/{{member}}pass-{{index}}-part-{{part}}.log",
    benchmark:
        f"{RUN}/benchmarks/reweight/{{member}}pass-{{index}}-part-{{part}}.tsv"
    resources:
        mem_mb=attempt_memory(2),
    params:
        common=COMMON,
        settings=settings("reweight", member=member_of),
        part=lambda w: list(STATISTICS_PARTS[int(w.part)]),
    shell:
        "{params.common.python} -m weaver_tasks.reweight --data-config {params.common.data_config:q} {params.common.custom_functions}"
        " --inputs {input.manifest:q} --after {input.sums:q} --part {params.part} --sums {output.sums:q}"
        " --settings {params.settings:q} --settings {params.common.untracked:q} --log-file {log:q} --record {output.record:q}"


rule reweight_gather:
    """Add up the parts of a pass."""
    input:
        manifest=f"{RUN}/staged/fitting.json",
        sums=lambda w: sums_of("reweight", w.member)[: int(w.index)],
        parts=expand(
            f"{RUN}/{{{{member}}}}statistics/reweight/pass-{{{{index}}}}/{{part}}.npz",
            part=range(len(STATISTICS_PARTS)),
        ),
    output:
        sums=f"{RUN}/{{member}}statistics/reweight/pass-{{index}}.npz",
        record=f"{RUN}/provenance/tasks/reweight/{{member}}pass-{{index}}.json",
    log:
        f"{RUN}/logs/reweight/{{member}}pass-{{index}}.log",
    localrule: True
    params:
        common=COMMON,
        settings=settings("reweight", member=member_of),
        folder=f"{RUN}/{{member}}statistics/reweight/pass-{{index}}",
        parts=len(STATISTICS_PARTS),
    shell:
        "{params.common.python} -m weaver_tasks.reweight --data-config {params.common.data_config:q} {params.common.custom_functions}"
        " --inputs {input.manifest:q} --after {input.sums:q} --gather {params.folder:q} {params.parts}"
        " --sums {output.sums:q}"
        " --settings {params.settings:q} --settings {params.common.untracked:q} --log-file {log:q} --record {output.record:q}"


take_profile_settings("reweight_part", rule="reweight")
