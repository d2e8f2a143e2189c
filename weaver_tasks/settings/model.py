"""The models of config.yaml: every key with its type, default, description, limits, and the stages whose results depend on it.

Keys are defined only here. The schema for editors, the tables of the documentation, the slices of the configuration
that rules pass as `params`, and the digests of finished epochs and validations follow from these definitions.
"""

from __future__ import annotations

from typing import Any, Literal

from weaver_tasks.settings.fields import (
    NOTHING,
    Files,
    FolderName,
    FractionByName,
    Number,
    Options,
    Path,
    PathOrPaths,
    ReadSection,
    Seeds,
    SwitchOrOptions,
    SwitchOrText,
    key,
    optional_section,
    required_section,
    section,
    stages,
)

# Effects that keys may have. Tools that inspect a stage depend on the same keys as the stage.
STAGING = stages("stage_inputs")
GATHERING = stages("gather_inputs", "gather_fitting_inputs")
STANDARDIZATION = stages("standardize")
WEIGHTS = stages("reweight")
INITIALIZATION = stages("init_model", "model_summary")
TRAINING = stages("train_epoch", "find_lr", "profile_training")
RATES = stages("train_epoch")
EARLY_STOPPING = stages("train_epoch", "find_lr", "profile_training", if_set="training.early_stopping")
VALIDATION = stages("validate_epoch")
WEIGHTED_VALIDATION = stages("validate_epoch", if_set="validation.reweight")
SELECTION = stages("select_best_epoch")
PREDICTION = stages("predict")
MERGING = stages("merge_predictions")
EVALUATION = stages("evaluate")
EXPORT = stages("export_onnx")
FIND_LR = stages("find_lr")
PROFILE = stages("profile_training")

OF_THE_NETWORK = INITIALIZATION | TRAINING | VALIDATION | PREDICTION | EXPORT
OF_THE_DATA = STAGING | OF_THE_NETWORK

_FILES = "the list of input files, files.json, which says which jobs there are"
_PARSED = "a digest of the parsed file"
_OWN_RATES = "the learning rates of an epoch's own steps"
_FOLD = "the fold of each training"


class ExtraSelection(ReadSection):
    train: str | None = key(None, "For training.", affects=STAGING)
    val: str | None = key(None, "For validation.", affects=STAGING)
    test: str | None = key(None, "For testing.", affects=STAGING)


class DataSettings(ReadSection):
    config: Path = key(
        ...,
        "The data configuration, in weaver's format.",
        affects=OF_THE_DATA | STANDARDIZATION | WEIGHTS,
        form="digests of what each stage takes from the parsed file",
        passed=False,
    )
    config_val: str | None = key(
        None,
        "Another data configuration for the validation files.",
        affects=OF_THE_DATA,
        form=_PARSED,
        passed=False,
    )
    config_test: str | None = key(
        None,
        "Another data configuration for the test files (other selection and observers; same inputs and labels).",
        affects=STAGING | PREDICTION,
        form=_PARSED,
        passed=False,
    )
    custom_functions: str | None = key(
        None,
        "A Python file whose functions the expressions may call.",
        affects=OF_THE_DATA,
        form=_PARSED,
        passed=False,
    )
    train: Files | None = key(
        {},
        "Training files: named groups of paths, globs or URLs; a plain list is one group.",
        affects=NOTHING,
        form=_FILES,
        passed=False,
    )
    val: Files | None = key(
        None,
        "Validation files; null: the trailing part of every training file.",
        affects=STAGING | TRAINING | VALIDATION,
        form=f"whether there are any, and {_FILES}",
        passed=False,
    )
    test: Files | None = key(
        {},
        "Test files: one prediction file per group; {files: […], split: N} makes one per N files.",
        affects=NOTHING,
        form=_FILES,
        passed=False,
    )
    extra_selection: ExtraSelection = section(ExtraSelection, "Selections on top of those of the data configuration.")
    data_fraction: Number = key(
        1.0,
        "Fraction of the entries of each training file that an epoch uses, drawn anew each epoch.",
        affects=TRAINING | VALIDATION,
        gt=0,
        le=1,
    )
    data_fraction_val: Number | None = key(None, "The same for validation; null: as data_fraction.", affects=VALIDATION, gt=0, le=1)
    data_fraction_test: Number = key(
        1.0, "Leading fraction of the entries of each test file that is predicted.", affects=PREDICTION | MERGING, gt=0, le=1
    )
    file_fraction: Number = key(
        1.0, "Fraction of the training files that an epoch uses, drawn anew each epoch.", affects=TRAINING, gt=0, le=1
    )
    train_val_split: Number = key(
        0.8,
        "Leading fraction of every training file that trains, when data.val is null; the rest validates.",
        affects=TRAINING | VALIDATION,
        gt=0,
        lt=1,
    )


class StagingSettings(ReadSection):
    mode: Literal["columnar", "copy", "none"] = key(
        "columnar",
        "columnar: selected events as Arrow files, memory-mapped; copy: the raw files; none: read in place, transformed on the fly.",
        affects=STAGING,
    )
    directory: str | None = key(None, "Where staged files go; null: results/<run>/staged.", affects=NOTHING, passed=False)
    max_entries: int | None = key(
        None, "Leading entries of each input file that are used, for quick looks; null: all.", affects=STAGING, ge=1
    )
    on_bad_file: Literal["fail", "skip"] = key("fail", "What an unreadable file does.", affects=GATHERING)
    max_bad_fraction: Number = key(
        0.01, "With on_bad_file: skip, the run fails all the same above this fraction of bad files.", affects=GATHERING, ge=0, le=1
    )
    files_per_job: int | None = key(
        None,
        "Input files staged by one job, 200 at most; null: 1 up to 200 files, then as many as make about 200 jobs of them. "
        "Never changes results.",
        affects=NOTHING,
        passed=False,
        ge=1,
        le=200,
    )


class RemoteSettings(ReadSection):
    silence: Number = key(
        60,
        "A server that sends nothing for so long has failed. A transfer may take any time.",
        affects=NOTHING,
        unit="seconds",
        gt=0,
    )
    retries: int = key(
        5, "How often a request is repeated where that can help: a busy server, a lost connection.", affects=NOTHING, unit="times", ge=0
    )
    longest_wait: Number = key(
        300,
        "Longest wait before a request is repeated; a server that asks for more (Retry-After) has failed.",
        affects=NOTHING,
        unit="seconds",
        gt=0,
    )


class StatisticsSettings(ReadSection):
    files_per_job: int | None = key(
        None,
        "Training files that one job goes through; null: one job for all of them. Never changes results.",
        affects=NOTHING,
        passed=False,
        ge=1,
    )


class LoadingSettings(ReadSection):
    fetch_by_files: bool = key(False, "A window is some whole files instead of a slice of every file.", affects=TRAINING | VALIDATION)
    fetch_step: Number = key(
        0.01,
        "Size of a window: a fraction of every file, or a number of files with fetch_by_files.",
        affects=TRAINING | VALIDATION,
        gt=0,
    )
    fetch_step_val: Number | None = key(None, "The same for validation; null: as fetch_step.", affects=VALIDATION, gt=0)
    split_num: int = key(1, "Share the files out into this many parts, read one after another.", affects=TRAINING, ge=1)
    max_window_events: int = key(
        200_000, "Cap on the events of a window: bounds memory.", affects=TRAINING | VALIDATION, unit="events", ge=1
    )
    in_memory: bool = key(
        False, "One window holds everything; with steps_per_epoch, the acceptance is drawn once.", affects=TRAINING | VALIDATION
    )
    num_workers: int = key(1, "Threads that assemble batches, per rank. Never changes results.", affects=NOTHING, unit="threads", ge=0)
    prefetch: int = key(4, "Batches assembled ahead. Never changes results.", affects=NOTHING, unit="batches", ge=1)
    pad_on_device: bool = key(
        False,
        "The loader's threads only gather the particles of a batch; they are sent to the GPU as they are, and standardized and padded "
        "there: less to do for the processor's cores, fewer bytes to copy. On the CPU it brings nothing. Never changes results.",
        affects=NOTHING,
    )


class SamplingSettings(ReadSection):
    up_sample: bool = key(True, "Try each event several times when few are accepted.", affects=TRAINING | WEIGHTED_VALIDATION)
    max_resample: int = key(10, "At most so many tries.", affects=TRAINING | WEIGHTED_VALIDATION, ge=1)
    weight_scale: Number = key(1.0, "An event is kept if uniform(0, weight_scale) < weight.", affects=TRAINING | WEIGHTED_VALIDATION, gt=0)
    remake_weights: bool = key(
        True,
        "false: use the histograms that the data configuration already holds.",
        affects=WEIGHTS | TRAINING | WEIGHTED_VALIDATION,
    )


class NetworkSettings(ReadSection):
    config: Path = key(
        ...,
        "The network configuration: a Python file with get_model, in weaver's format.",
        affects=OF_THE_NETWORK,
        form="a digest of the file's syntax tree",
        passed=False,
    )
    options: Options = key({}, "Keyword arguments of get_model.", affects=OF_THE_NETWORK)
    weaver_imports: Literal["own", "weaver-core"] = key(
        "own", "Which implementation `import weaver…` in the network configuration means.", affects=OF_THE_NETWORK
    )
    load_weights: PathOrPaths | None = key(
        None,
        "Start from these weights: path or path:prefix, or a list of them; {fold} and {seed} stand for the number.",
        affects=OF_THE_NETWORK,
    )
    exclude_weights: list[str] = key([], "Regular expressions of parameters not loaded.", affects=OF_THE_NETWORK)
    freeze_weights: list[str] = key([], "Regular expressions of parameters not trained.", affects=OF_THE_NETWORK)


class ContinueFrom(ReadSection):
    prefix: Path = key(
        ...,
        "weaver's --model-prefix, or results/<run>/checkpoints/net: <prefix>_epoch-<n>_state.pt and <prefix>_epoch-<n>_optimizer.pt are "
        "read.",
        affects=INITIALIZATION,
        passed=True,
    )
    epoch: int = key(
        ...,
        "The epoch n that is finished; epoch n + 1 is the first one here, and training.epochs counts from the first of that training.",
        affects=INITIALIZATION,
        passed=True,
        ge=0,
    )


class OptimizerSettings(ReadSection):
    name: str = key("ranger", "ranger, adam, adamW, radam or any class of torch.optim.", affects=INITIALIZATION | TRAINING)
    options: Options = key(
        {}, "Its keyword arguments; also weight_decay, lr_mult: [regex, factor], clip_grad_norm.", affects=INITIALIZATION | TRAINING
    )


class SchedulerSettings(ReadSection):
    name: Literal["none", "steps", "flat+decay", "flat+linear", "flat+cos", "warmup+cos", "one-cycle"] = key(
        "flat+decay", "The schedule; none is constant.", affects=RATES, form=_OWN_RATES, passed=True
    )
    warmup: Number = key(
        0.25,
        "Warm-up of flat+linear, flat+cos and warmup+cos, in epochs.",
        affects=RATES,
        form=_OWN_RATES,
        passed=True,
        unit="epochs",
        ge=0,
    )
    horizon: int | None = key(
        None,
        "Epochs that the schedule is laid out for; null: training.epochs. Pin it to train longer without changing the epochs there are.",
        affects=RATES,
        form=_OWN_RATES,
        passed=True,
        unit="epochs",
        ge=1,
    )


class EarlyStopping(ReadSection):
    patience: int = key(..., "Epochs without improvement.", affects=EARLY_STOPPING, unit="epochs", ge=1)


class TrainingSettings(ReadSection):
    task: Literal["classification", "regression"] = key(
        "classification",
        "What the network learns.",
        affects=INITIALIZATION | TRAINING | VALIDATION | PREDICTION | MERGING | EVALUATION | EXPORT,
    )
    epochs: int = key(20, "Number of epochs.", affects=RATES, form=_OWN_RATES, passed=True, unit="epochs", ge=1)
    epochs_per_job: int | None = key(
        None,
        "Consecutive epochs trained by one job, and validated by another; null: 1 up to 200 epochs, and with early stopping, then as many "
        "as make about 200 jobs of them. Never changes results.",
        affects=NOTHING,
        ge=1,
    )
    continue_from: ContinueFrom | None = optional_section(
        "Continue a training that weaver began, or another run of this project, perhaps with another learning rate or optimizer: the state "
        "after one of its epochs is the one before the next epoch, which is trained here."
    )
    batch_size: int = key(128, "Jets per step and rank.", affects=TRAINING | VALIDATION | PREDICTION, unit="jets", ge=1)
    batch_size_val: int | None = key(None, "Jets per validation batch; null: as batch_size.", affects=VALIDATION, unit="jets", ge=1)
    batch_size_test: int | None = key(
        None,
        "Most jets per prediction batch; null: as batch_size, on a CPU fewer, as its caches like it.",
        affects=PREDICTION,
        unit="jets",
        ge=1,
    )
    samples_per_epoch: int | None = key(
        None,
        "Jets per epoch over all ranks; epochs then continue one endless stream.",
        affects=TRAINING | VALIDATION,
        unit="jets",
        ge=1,
    )
    steps_per_epoch: int | None = key(
        None, "Steps per epoch, instead of samples_per_epoch.", affects=TRAINING | VALIDATION, unit="steps", ge=1
    )
    samples_per_epoch_val: int | None = key(None, "Jets per validation; negative: all.", affects=VALIDATION, unit="jets")
    steps_per_epoch_val: int | None = key(None, "Batches per validation; negative: all.", affects=VALIDATION, unit="batches")
    lr: Number = key(5e-3, "Learning rate, as given: never rescaled by batch size or ranks.", affects=INITIALIZATION | TRAINING, gt=0)
    optimizer: OptimizerSettings = section(OptimizerSettings, "The optimizer.")
    scheduler: SchedulerSettings = section(SchedulerSettings, "The learning-rate schedule.")
    amp: Literal["bf16", "fp16"] | None = key(None, "Mixed precision.", affects=INITIALIZATION | TRAINING | VALIDATION | PREDICTION)
    compile: SwitchOrOptions = key(
        False, "torch.compile the model; or a map of its options.", affects=INITIALIZATION | TRAINING | VALIDATION
    )
    compile_optimizer: bool = key(False, "torch.compile the optimizer's step.", affects=TRAINING)
    device: Literal["auto", "cpu", "cuda"] = key(
        "auto", "Where it is trained.", affects=INITIALIZATION | TRAINING | VALIDATION | PREDICTION
    )
    ranks: int = key(1, "Processes per node (GPUs per node on cuda).", affects=TRAINING | VALIDATION, unit="processes", ge=1)
    nodes: int = key(1, "Nodes of a training job.", affects=TRAINING | VALIDATION, unit="nodes", ge=1)
    threads: int = key(
        2,
        "Torch threads per rank. Part of what makes results bit-identical, so set here and never taken from the machine.",
        affects=INITIALIZATION | TRAINING | VALIDATION | PREDICTION,
        unit="threads",
        ge=1,
    )
    early_stopping: EarlyStopping | None = optional_section("Stop when the validation metric has not improved for `patience` epochs.")
    keep_checkpoints: Literal["all", "best_and_last"] = key(
        "all",
        "Which checkpoints stay: all, or, removed while training goes on, only the best epoch so far and the last one trained. What needs "
        "a removed one is then refused; undoing the change of the configuration always works, since what was ever selected stays.",
        affects=NOTHING,
    )
    snapshot_minutes: Number | None = key(
        None, "Save the state within an epoch this often. Never changes results.", affects=NOTHING, unit="minutes", gt=0
    )
    tensorboard: SwitchOrText = key(
        False,
        "Write per-step scalars for TensorBoard; a string names a Python file with weaver's get_tensorboard_custom_fn.",
        affects=NOTHING,
    )

    @property
    def first_epoch(self) -> int:
        """The first epoch that is trained here: 0, or the epoch after that of weaver's checkpoint."""
        return self.continue_from.epoch + 1 if self.continue_from else 0

    @property
    def horizon(self) -> int:
        """The number of epochs for which the learning rate schedule is defined."""
        return self.scheduler.horizon or self.epochs

    def validation_batch_size(self) -> int:
        return self.batch_size_val or self.batch_size


class ValidationSettings(ReadSection):
    metric: str | None = key(
        None,
        "Any metric of metrics/val_epoch-<n>.json; null: accuracy (classification) or loss (regression).",
        affects=SELECTION | EARLY_STOPPING,
        passed=True,
    )
    mode: Literal["max", "min"] | None = key(
        None, "Which end is best; null: min for losses and errors, else max.", affects=SELECTION | EARLY_STOPPING, passed=True
    )
    reweight: bool = key(False, "Sample validation events by weight, as weaver does.", affects=VALIDATION)


class CrossValidation(ReadSection):
    variable: str = key(
        ...,
        "A whole number of each event, such as the event number: a branch or a new variable.",
        affects=STAGING | WEIGHTS | INITIALIZATION | TRAINING | VALIDATION | PREDICTION | MERGING | EXPORT,
        form=_FOLD,
        passed=False,
    )
    folds: int = key(
        ...,
        "Number of folds.",
        affects=WEIGHTS | INITIALIZATION | TRAINING | VALIDATION | PREDICTION | MERGING,
        form=_FOLD,
        passed=False,
        ge=2,
    )


class PredictionSettings(ReadSection):
    format: Literal["root", "parquet"] = key("root", "Format of the prediction files.", affects=PREDICTION)
    model: str | None = key(
        None,
        "A .pt or .onnx file to predict with (nothing is trained then); null: the best epoch of this run. {fold} and {seed} stand for the "
        "number.",
        affects=PREDICTION,
    )
    ranks: int = key(
        1,
        "Processes per group that share its events (GPUs on cuda), of training.threads each; files of one group can also be split into "
        "jobs (data.test).",
        affects=PREDICTION,
        unit="processes",
        ge=1,
    )
    trim_padding: bool | None = key(
        None,
        "Pad batches only to their longest event, which is faster. true: padding changes no score of the network (checked on some events); "
        "false: never; null: where the network declares it (attribute ignores_padding), as this project's do.",
        affects=PREDICTION,
        added_later=True,
    )
    max_bad_fraction: Number = key(
        0,
        "Fraction of a group's events whose scores may be NaN or infinite; with more, prediction fails. Evaluation leaves them out and "
        "says so.",
        affects=PREDICTION,
        added_later=True,
        ge=0,
        le=1,
    )


class EvaluationSettings(ReadSection):
    signal_efficiencies: FractionByName = key(
        {}, "Signal efficiency per class at which background rejection is quoted; 0.5 otherwise.", affects=EVALUATION
    )
    background: str | None = key(None, "The background class; null: the first class.", affects=EVALUATION)
    metrics: list[str] = key([], "More metrics of scikit-learn, by name.", affects=EVALUATION)
    weight: str | None = key(None, "An observer that weights each event.", affects=EVALUATION | stages("gather_inputs"))


class ExportSettings(ReadSection):
    opset: int = key(15, "ONNX operator set.", affects=EXPORT, ge=11, le=23)
    tolerance: Number = key(1e-5, "Largest difference between ONNX Runtime and PyTorch that passes.", affects=EXPORT, gt=0)


class FindLrSettings(ReadSection):
    start: Number = key(1e-6, "The first learning rate tried.", affects=FIND_LR, gt=0)
    end: Number = key(1.0, "The last.", affects=FIND_LR, gt=0)
    steps: int = key(200, "Steps from one to the other, by equal factors.", affects=FIND_LR, unit="steps", ge=10)


class ProfileTrainingSettings(ReadSection):
    steps: int = key(10, "Training steps recorded.", affects=PROFILE, unit="steps", ge=1)


class ToolsSettings(ReadSection):
    find_lr: FindLrSettings = section(FindLrSettings, "The learning-rate finder (target find_lr).")
    profile_training: ProfileTrainingSettings = section(ProfileTrainingSettings, "The profiler (target profile_training).")


class Configuration(ReadSection):
    """One run: which files, how to train, on what."""

    run: FolderName = key(
        ...,
        "Name of the run: everything lands in results/<run>/. Letters, digits, '.', '_' and '-'.",
        affects=NOTHING,
        passed=False,
    )
    require_clean_code: bool = key(
        False,
        "Refuse to start when the code, or the data and network configurations, differ from what is committed to git.",
        affects=NOTHING,
        passed=False,
    )
    retrain: bool = key(
        False,
        "Agree that finished epochs of other settings in the run's folder are trained again. Given for once: --config retrain=true.",
        affects=NOTHING,
        passed=False,
    )
    seed: int = key(
        1,
        "Seed of every random number of the run.",
        affects=INITIALIZATION | TRAINING | VALIDATION,
        form="the seed of each training",
        passed=False,
        ge=0,
    )
    seeds: Seeds | None = key(
        None,
        "Train one network per seed (an ensemble), in results/<run>/seed-<s>/, on shared staged data; the run's predictions are the mean "
        "of their scores.",
        affects=INITIALIZATION | TRAINING | VALIDATION,
        form="the seed of each training, of which there are several",
        passed=False,
    )
    data: DataSettings = required_section("What is read.")
    staging: StagingSettings = section(StagingSettings, "How input files are brought near.")
    remote: RemoteSettings = section(RemoteSettings, "How long servers of remote input files are waited for.")
    statistics: StatisticsSettings = section(StatisticsSettings, "How standardization and reweighting go through the training files.")
    loading: LoadingSettings = section(LoadingSettings, "How training reads staged events.")
    sampling: SamplingSettings = section(SamplingSettings, "How weights become events.")
    network: NetworkSettings = required_section("What is trained.")
    training: TrainingSettings = section(TrainingSettings, "How it is trained.")
    validation: ValidationSettings = section(ValidationSettings, "How the best epoch is chosen.")
    cross_validation: CrossValidation | None = optional_section(
        "Train one network per fold, in results/<run>/fold-<k>/: fold k never sees events with variable % folds == k, and predicts those "
        "of the test files; the run's predictions are those of all folds."
    )
    prediction: PredictionSettings = section(PredictionSettings, "What is predicted, with what.")
    evaluation: EvaluationSettings = section(EvaluationSettings, "What is measured on the predictions.")
    export: ExportSettings = section(ExportSettings, "The ONNX model.")
    tools: ToolsSettings = section(ToolsSettings, "Targets beside the run: they look at it and change nothing of it.")

    def best_epoch_by(self) -> dict[str, Any]:
        """The metric that selects the best epoch, and whether to maximize or minimize it: from `validation`, or the task's default."""
        metric = self.validation.metric or ("accuracy" if self.training.task == "classification" else "loss")
        smaller_is_better = any(word in metric for word in ("loss", "error", "mae", "mse"))
        return {"metric": metric, "mode": self.validation.mode or ("min" if smaller_is_better else "max")}
