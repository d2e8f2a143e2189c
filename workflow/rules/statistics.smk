# Standardization and reweighting by many jobs: statistics.files_per_job training files each.
#
# required: staged/fitting.json and the staged files that it lists.
# produced: statistics/<stage>/pass-<n>.npz, sums over the training files for standardize and reweight: each is the sum of
#           statistics/<stage>/pass-<n>/<part>.npz. A pass may read the sums of the earlier ones. No later stage needs these files.


wildcard_constraints:
    statistic="standardize|reweight",
    index=r"\d+",
    part=r"\d+",


rule statistics_part:
    """Go through some of the training files: count the values of the input variables, or histogram the reweighting variables.

    required: staged training events, the sums of the passes before. produced: statistics/<stage>/pass-<n>/<part>.npz.
    """
    input:
        manifest=f"{RUN}/staged/fitting.json",
        sums=sums_before,
    output:
        sums=f"{RUN}/{{member}}statistics/{{statistic}}/pass-{{index}}/{{part}}.npz",
        record=f"{RUN}/provenance/tasks/{{statistic}}/{{member}}pass-{{index}}-part-{{part}}.json",
    log:
        f"{RUN}/logs/{{statistic}}/{{member}}pass-{{index}}-part-{{part}}.log",
    benchmark:
        f"{RUN}/benchmarks/{{statistic}}/{{member}}pass-{{index}}-part-{{part}}.tsv"
    resources:
        mem_mb=attempt_memory(2),
    params:
        common=COMMON,
        settings=lambda w: settings_of(w.statistic, member=w.member),
        part=lambda w: list(STATISTICS_PARTS[int(w.part)]),
    shell:
        "{params.common.python} -m weaver_tasks.{wildcards.statistic}"
        " --data-config {params.common.data_config:q}"
        " {params.common.custom_functions}"
        " --inputs {input.manifest:q}"
        " --after {input.sums:q}"
        " --part {params.part}"
        " --sums {output.sums:q}"
        " --settings {params.settings:q}"
        " --settings {params.common.untracked:q}"
        " --log-file {log:q}"
        " --record {output.record:q}"


rule statistics_gather:
    """Sum the parts of a pass.

    required: all parts of the pass, the sums of the passes before. produced: statistics/<stage>/pass-<n>.npz.
    """
    input:
        manifest=f"{RUN}/staged/fitting.json",
        sums=sums_before,
        parts=expand(
            f"{RUN}/{{{{member}}}}statistics/{{{{statistic}}}}/pass-{{{{index}}}}/{{part}}.npz",
            part=range(len(STATISTICS_PARTS)),
        ),
    output:
        sums=f"{RUN}/{{member}}statistics/{{statistic}}/pass-{{index}}.npz",
        record=f"{RUN}/provenance/tasks/{{statistic}}/{{member}}pass-{{index}}.json",
    log:
        f"{RUN}/logs/{{statistic}}/{{member}}pass-{{index}}.log",
    # This takes seconds, which is not worth a cluster job.
    localrule: True
    params:
        common=COMMON,
        settings=lambda w: settings_of(w.statistic, member=w.member),
        folder=lambda w: f"{RUN}/{w.member}statistics/{w.statistic}/pass-{w.index}",
        parts=len(STATISTICS_PARTS),
    shell:
        "{params.common.python} -m weaver_tasks.{wildcards.statistic}"
        " --data-config {params.common.data_config:q}"
        " {params.common.custom_functions}"
        " --inputs {input.manifest:q}"
        " --after {input.sums:q}"
        " --gather {params.folder:q} {params.parts}"
        " --sums {output.sums:q}"
        " --settings {params.settings:q}"
        " --settings {params.common.untracked:q}"
        " --log-file {log:q}"
        " --record {output.record:q}"
