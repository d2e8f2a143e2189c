"""Every type that a reader gives, in every place: the same columns in all modes of staging, or the same refusal there."""

import itertools
import json

import awkward as ak
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
import yaml

from weaver_tasks import stage_inputs
from weaver_tasks.base.errors import WeaverTasksError
from weaver_tasks.base.files import read_json
from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.data.events.block import StagingOptions
from weaver_tasks.data.staging.sources import open_source
from weaver_tasks.results.predictions.tables import open_table, read_table, table_names

EVENTS = 6
COUNTS = [2, 0, 1, 3, 1, 0]
MODES = ("columnar", "copy", "none")
NUMBERS = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64", "longdouble")
FORMS = ("number", "fixed", "jagged", "nested", "text", "texts")
FORMATS = ("root", "rntuple", "parquet", "h5")


def values_of(form, dtype):
    """An array of EVENTS entries, or None where there is no such type."""
    if form in ("text", "texts"):
        words = ["a", "", "ccc", "ä", "e", "f" * 300, "g"]
        return None if dtype != "int8" else ak.Array(words[:EVENTS]) if form == "text" else ak.unflatten(ak.Array(words), COUNTS)
    numbers = np.arange(20).astype(dtype)
    if dtype in ("int64", "uint64"):
        numbers[1] = 2**53 + 1
    match form:
        case "number":
            return ak.Array(numbers[:EVENTS])
        case "fixed":
            return ak.Array(numbers[: 3 * EVENTS].reshape(EVENTS, 3))
        case "jagged":
            return ak.unflatten(ak.Array(numbers[: sum(COUNTS)]), COUNTS)
        case "nested":
            return ak.unflatten(ak.unflatten(ak.Array(numbers[: sum(COUNTS)]), [2, 1, 3, 1]), [1, 0, 1, 1, 1, 0])


def write(path, kind, columns):
    """Write columns to a file of a format. Raises whatever the writer does about types that the format does not have."""
    match kind:
        case "root":
            with uproot.recreate(path) as file:
                for name, array in columns.items():
                    if array.ndim == 1 and str(array.type).endswith("float128"):
                        raise TypeError(name)
                types = {
                    name: array.type if array.ndim > 1 or "string" in str(array.type) else ak.to_numpy(array).dtype
                    for name, array in columns.items()
                }
                fixed = {
                    name: ak.to_numpy(array)
                    for name, array in columns.items()
                    if "var" not in str(array.type) and "string" not in str(array.type)
                }
                types |= {name: np.dtype((array.dtype, array.shape[1:])) for name, array in fixed.items()}
                file.mktree("tree", types)
                file["tree"].extend(columns | fixed)
        case "rntuple":
            with uproot.recreate(path) as file:
                file.mkrntuple("tree", columns)
        case "parquet":
            table = ak.to_arrow_table(ak.zip(columns, depth_limit=1), extensionarray=False)
            pq.write_table(table, path, row_group_size=4)
        case "h5":
            with h5py.File(path, "w") as file:
                for name, array in columns.items():
                    text = "string" in str(array.type)
                    if text and array.ndim == 1:
                        file.create_dataset(name, data=array.to_list(), dtype=h5py.string_dtype())
                    elif array.ndim == 1 or "var" not in str(array.type):
                        file[name] = ak.to_numpy(array)
                    elif array.ndim == 2 and not text:
                        dtype = np.asarray(ak.flatten(array)).dtype
                        dataset = file.create_dataset(name, (EVENTS,), dtype=h5py.vlen_dtype(dtype))
                        for event in range(EVENTS):
                            dataset[event] = np.asarray(array[event])
                    else:
                        raise TypeError(f"HDF5 has no {array.type}")


@pytest.fixture
def staged(tmp_path):
    """A function that stages files in a mode and gathers them: the table of what a prediction writes beside the scores, or the refusal."""

    def run(document, *files, mode="columnar", split="test", **settings):
        config = tmp_path / "data.yaml"
        config.write_text(yaml.safe_dump(document))
        folder = tmp_path / mode
        records = [folder / f"{number}.json" for number in range(len(files))]
        options = ["--data-config", config, "--split", split, "--group", "jets", "--sources", *files, "--records", *records]
        if mode != "none":
            options += ["--staged", *(path.with_suffix(".arrow" if mode == "columnar" else files[0].suffix) for path in records)]
        try:
            stage_inputs.main([str(each) for each in (*options, "--settings", json.dumps({"staging": {"mode": mode}}))])
            gather = ["--gather", *records, "--output", folder / "inputs.json", "--settings", json.dumps({"staging": {}, **settings})]
            stage_inputs.main([str(each) for each in gather])
        except WeaverTasksError as error:
            return " ".join(str(error).split())
        # From here on nothing may fail: a network has been trained.
        manifest = read_json(folder / "inputs.json")
        configuration = load_data_configuration(config)
        table = folder / "predictions.root"
        names = [*configuration.observers, *(name for name in configuration.label_names)]
        with open_table(table, {}) as writer:
            for file in manifest["files"]:
                source = open_source(file, configuration, StagingOptions.from_manifest(manifest))
                for first in range(0, source.entries, 4):
                    block = source.read(first, min(first + 4, source.entries))
                    writer.write({"entry": block.entries, **{name: block.plain[name] for name in names}})
                    writer.flush()
        found = {}
        for path in writer.paths:
            present = [name for name in table_names(path) if name in names]
            chunks = list(read_table(path, present)) if present else []
            found |= {name: ak.concatenate([ak.Array(chunk[name]) for chunk in chunks]) for name in present}
        assert set(found) == set(names), "a column was dropped"
        return found

    return run


INPUTS = {"inputs": {"jets": {"length": None, "vars": ["pt"]}}, "new_variables": {}}


def same_in_all_modes(staged, document, *files, **options):
    outcomes = {mode: staged(document, *files, mode=mode, **options) for mode in MODES}
    first = outcomes["columnar"]
    for mode, other in outcomes.items():
        assert isinstance(other, str) == isinstance(first, str), (mode, other)
        if isinstance(first, str):
            place = [str(file) for file in files]
            assert [name in other for name in place] == [name in first for name in place] or mode == "copy"
            assert other[-60:] == first[-60:]
        else:
            for name, array in first.items():
                assert str(other[name].type) == str(array.type), (mode, name)
                assert ak.array_equal(other[name], array, equal_nan=True), (mode, name)
    return first


def write_or_skip(path, kind, columns):
    try:
        write(path, kind, columns)
    except Exception as error:
        pytest.skip(f"{kind} cannot hold it ({type(error).__name__})")


def path_of(tmp_path, kind, name="a"):
    return tmp_path / f"{name}.{ {'rntuple': 'root', 'root': 'root', 'parquet': 'parquet', 'h5': 'h5'}[kind] }"


CASES = [
    (kind, form, dtype)
    for kind, form, dtype in itertools.product(FORMATS, FORMS, NUMBERS)
    if form not in ("text", "texts") or dtype == "int8"
]


@pytest.mark.parametrize(
    ("kind", "form", "dtype"),
    [
        pytest.param(*case, marks=() if case[2] in ("bool", "int8", "uint64", "float16", "longdouble") else pytest.mark.slow)
        for case in CASES
    ],
)
def test_observers(staged, tmp_path, kind, form, dtype):
    array, path = values_of(form, dtype), path_of(tmp_path, kind)
    write_or_skip(path, kind, {"x": array, "pt": ak.Array(np.ones(EVENTS))})
    found = same_in_all_modes(staged, {**INPUTS, "observers": ["x"]}, path)
    assert not isinstance(found, str), found
    assert found["x"].to_list() == array.to_list()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("form", ["number", "fixed", "jagged", "nested", "text"])
@pytest.mark.parametrize("place", ["label", "flag", "input", "flat input", "weight"])
def test_other_places(staged, tmp_path, kind, form, place):
    path = path_of(tmp_path, kind)
    write_or_skip(path, kind, {"x": values_of(form, "int8"), "pt": ak.Array(np.ones(EVENTS)), "one": ak.Array(np.ones(EVENTS, dtype="i4"))})
    document, split = dict(INPUTS), "test"
    match place:
        case "label":
            document["labels"] = {"type": "custom", "value": {"t": "x"}}
        case "flag":
            document["labels"] = {"type": "simple", "value": ["x", "one"]}
        case "input":
            document["inputs"] = {"parts": {"length": 4, "vars": ["x"]}}
        case "flat input":
            document["inputs"] = {"parts": {"length": None, "vars": ["x"]}}
        case "weight":
            document["weights"] = {"use_precomputed_weights": True, "weight_branches": ["x", "one"]}
            split = "train"
    found = same_in_all_modes(staged, document, path, split=split)
    fits = (
        form == "number"
        or (place == "label" and form in ("fixed", "jagged", "nested", "text"))
        or (place == "input" and form in ("fixed", "jagged"))
    )
    assert isinstance(found, str) != fits, found
    if place == "label" and form == "number":
        assert found["t"].to_list() == list(range(EVENTS))


MISSING = {
    "ak.max(part_pt, axis=1)": [1.0, None, 2.0, 5.0, 6.0, None],
    "ak.firsts(part_n)": [0, None, 2, 3, 6, None],
    "ak.mask(pt, pt > 2)": [None, None, 3.0, 4.0, 5.0, 6.0],
    "ak.max(part_pt[pt > 0], axis=1) > 1": [False, None, True, True, True, None],
}  # fmt: skip


@pytest.fixture
def particles(tmp_path):
    path = tmp_path / "parts.root"
    pt, n = np.array([0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), np.arange(7, dtype="i4")
    columns = {"pt": np.arange(1.0, 7.0), "one": np.ones(EVENTS, "i4")}
    part = ak.zip({"pt": ak.unflatten(ak.Array(pt), COUNTS), "n": ak.unflatten(ak.Array(n), COUNTS)})
    with uproot.recreate(path) as file:
        file.mktree("tree", {"part": part.type.content, **{name: array.dtype for name, array in columns.items()}})
        file["tree"].extend({"part": part, **columns})
    return path


@pytest.mark.parametrize("text", MISSING)
def test_missing_values_of_expressions(staged, particles, text):
    """NaN in observers; none where none is missing; refused with file and entry in labels and weights; the pad value in inputs."""
    expected = MISSING[text]
    variables = {"new_variables": {"v": text}}
    found = same_in_all_modes(staged, {**INPUTS, **variables, "observers": ["v"]}, particles)
    got = ak.to_numpy(found["v"])
    assert got.dtype.kind == "f"
    assert np.array_equal(got, np.array([np.nan if value is None else value for value in expected], dtype=float), equal_nan=True)
    entry = expected.index(None)
    places = {
        "labels": {"type": "custom", "value": {"t": "v"}},
        "weights": {"use_precomputed_weights": True, "weight_branches": ["v"]},
        "selection": "v > 0",
    }
    for key, section in places.items():
        refused = same_in_all_modes(staged, {**INPUTS, **variables, key: section}, particles, split="train")
        assert isinstance(refused, str)
        assert f"entry {entry}" in refused
        assert "parts.root" in refused
    some = {**INPUTS, **variables, "selection": "ak.fill_none(~ak.is_none(v), False)", "labels": {"type": "custom", "value": {"t": "v"}}}
    assert same_in_all_modes(staged, some, particles)["t"].to_list() == [value for value in expected if value is not None]


def test_missing_values_of_inputs(tmp_path, particles):
    """As weaver pads them: the pad value in a group of length 1, NaN (which becomes 0) in a flat one."""
    from weaver_tasks.data.events.block import join
    from weaver_tasks.data.events.reading import transformed_blocks
    from weaver_tasks.data.events.transform import plan_transformation
    from weaver_tasks.data.loading.collate import InputAssembler, PackedPieces

    config = tmp_path / "data.yaml"
    groups = {"one": {"length": 1, "vars": [["v", None, 1, -5, 5, -7]]}, "flat": {"length": None, "vars": [["w", None]]}}
    config.write_text(yaml.safe_dump({"inputs": groups, "new_variables": {"v": "ak.max(part_pt, axis=1)", "w": "ak.max(part_pt, axis=1)"}}))
    configuration = load_data_configuration(config)
    block = join(list(transformed_blocks(str(particles), plan_transformation(configuration, "test", StagingOptions()), 0, None)))
    zeros = np.zeros(EVENTS, dtype=np.int64)
    packed = {name: PackedPieces([block], name) for name in block.packed}
    made = InputAssembler(configuration, batch_size=EVENTS).assemble([(packed, zeros, np.arange(EVENTS))])
    assert made["one"].reshape(-1).tolist() == [1.0, -7.0, 2.0, 5.0, 6.0, -7.0]
    assert made["flat"].tolist() == [1.0, 0.0, 2.0, 5.0, 6.0, 0.0]


def test_parquet_columns_with_missing_numbers(staged, tmp_path):
    path = tmp_path / "a.parquet"
    columns = {
        "n": pa.array([1, None, 3, 4, 5, 6], pa.int32()),
        "b": pa.array([True, None, False, True, True, True]),
        "pt": np.ones(EVENTS),
    }
    pq.write_table(pa.table(columns), path, row_group_size=2)
    found = same_in_all_modes(staged, {**INPUTS, "observers": ["n", "b"]}, path)
    assert np.array_equal(ak.to_numpy(found["n"]), [1, np.nan, 3, 4, 5, 6], equal_nan=True)
    assert np.array_equal(ak.to_numpy(found["b"]), [1, np.nan, 0, 1, 1, 1], equal_nan=True)
    labels = {"type": "custom", "value": {"t": "n"}}
    assert "entry 1 has no value of labels.value.t" in same_in_all_modes(staged, {**INPUTS, "labels": labels}, path)


# Types that the files of a split agree on


def write_two(tmp_path, first, second):
    paths = [tmp_path / "first.parquet", tmp_path / "second.parquet"]
    for path, x in zip(paths, (first, second), strict=True):
        pq.write_table(pa.table({"x": x, "pt": np.ones(len(x))}), path)
    return paths


@pytest.mark.parametrize(
    ("first", "second", "dtype"),
    [
        (pa.array([1, 2], pa.int32()), pa.array([3, 2**40], pa.int64()), "int64"),
        (pa.array([1.5], pa.float64()), pa.array([0.1], pa.float32()), "float64"),
        (pa.array([1, 2], pa.int32()), pa.array([0.5], pa.float32()), "float64"),
        (pa.array([1, None], pa.int16()), pa.array([5], pa.int16()), "float32"),
        (pa.array([1, 2**53], pa.int64()), pa.array([3], pa.uint64()), "float64"),
        (pa.array([[1], []], pa.list_(pa.int32())), pa.array([[2**40]], pa.list_(pa.int64())), "int64"),
    ],
)
def test_types_of_several_files_are_widened_where_that_is_exact(staged, tmp_path, first, second, dtype):
    found = same_in_all_modes(staged, {**INPUTS, "observers": ["x"]}, *write_two(tmp_path, first, second))
    wanted = [np.nan if value is None else value for value in (*first.to_pylist(), *second.to_pylist())]
    assert dtype in str(found["x"].type)
    assert found["x"].to_list() == wanted or np.array_equal(ak.to_numpy(found["x"]), wanted, equal_nan=True)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (pa.array([1, 2]), pa.array([[1], [2]]), "'x' is int64 and a list of int64"),
        (pa.array(["a", "b"]), pa.array([1, 2]), "'x' is text and int64"),
        (pa.array([1, 2**53 + 1], pa.int64()), pa.array([3], pa.uint64()), "beyond 2^53"),
        (pa.array([1, 2**53 + 1], pa.int64()), pa.array([0.5]), "beyond 2^53"),
        (pa.array([1, 2**53 + 1, None], pa.int64()), pa.array([1], pa.int64()), "cannot stand beside NaN"),
    ],
)
def test_types_that_do_not_agree_are_refused_with_the_names_of_the_files(staged, tmp_path, first, second, message):
    refused = same_in_all_modes(staged, {**INPUTS, "observers": ["x"]}, *write_two(tmp_path, first, second))
    assert message in refused
    if "NaN" not in message:
        assert "first.parquet" in refused
        assert "second.parquet" in refused


# Weights


@pytest.mark.parametrize("mode", MODES)
def test_weights_that_are_not_finite(staged, tmp_path, mode):
    path = tmp_path / "a.parquet"
    weights = np.array([1.0, -2.0, 3.0, np.nan, np.inf, 6.0])
    pq.write_table(pa.table({"w": weights, "pt": np.ones(EVENTS), "a": np.ones(EVENTS, "i4")}), path)
    refused = staged({**INPUTS, "observers": ["w"]}, path, mode=mode, evaluation={"weight": "w"})
    assert refused.startswith(f"{path} (group 'jets'): entry 3: evaluation.weight 'w' is not finite, and so it is in 1 more of 6 events")
    base = {"reweight_method": "flat", "reweight_vars": {"pt": [0, 2], "w": [0, 9]}, "reweight_classes": ["a"], "reweight_basewgt": "w"}
    assert "entry 3: weights.reweight_basewgt is not finite" in staged({**INPUTS, "weights": base}, path, mode=mode, split="train")
    staged({**INPUTS, "weights": {"use_precomputed_weights": True, "weight_branches": ["w"]}}, path, mode=mode, split="train")
    assert read_json(tmp_path / mode / "inputs.json")["warnings"] == [
        "train group 'jets': the product of weights.weight_branches is not finite in 2 events, which are never drawn.",
        "train group 'jets': the product of weights.weight_branches is negative in 1 events, which are never drawn.",
    ]


# Flags


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wrong", [2, -1, np.nan, 0.5])
def test_flags_that_are_none(staged, tmp_path, wrong, mode):
    path = tmp_path / "a.parquet"
    flags = np.array([1.0, 0.0, wrong, 1.0])
    pq.write_table(pa.table({"a": flags, "b": np.array([0, 1, 0, 0]), "pt": np.ones(4)}), path)
    document = {**INPUTS, "labels": {"type": "simple", "value": ["a", "b"]}}
    refused = staged(document, path, mode=mode, split="train")
    assert refused.startswith(f"{path}: entry 2: the flag 'a' of labels.value is {float(wrong)}, not 0 or 1")
    tested = staged(document, path, mode=mode)
    assert isinstance(tested, str) != (wrong == 2)


@pytest.mark.parametrize("mode", MODES)
def test_test_events_of_several_classes_count_as_that_of_the_largest_flag(staged, tmp_path, mode):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": [1, 1, 0, 0, 1], "b": [0, 2, 1, 0, 1], "pt": np.ones(5)}), path)
    found = staged({**INPUTS, "labels": {"type": "simple", "value": ["a", "b"]}}, path, mode=mode)
    assert found["_label_"].to_list() == [0, 1, 1, -1, 0]
    (warning,) = read_json(tmp_path / mode / "inputs.json")["warnings"]
    assert warning.startswith("2 test events of group 'jets' have the flags of several classes")
