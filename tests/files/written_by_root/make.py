"""How the files beside this were made: jets of tests/files/jets, written by ROOT itself (6.40, `pip install ROOT`), as JetClass was.

python make.py        # in an environment with ROOT and uproot
"""

import os
from pathlib import Path

import numpy as np
import ROOT
import uproot

HERE = Path(__file__).parent
JETS = 24
COMPRESSIONS = {"lz4": 404, "zstd": 505, "zlib": 101, "lzma": 207, "none": 0}
VECTORS = {"float": ("f4", "part_px"), "double": ("f8", "part_py"), "int": ("i4", "part_charge"), "unsigned char": ("u1", "part_isPhoton")}
VECTORS |= {"bool": ("?", "part_isElectron"), "short": ("i2", "part_charge"), "unsigned int": ("u4", "part_isMuon")}
NUMBERS = {"f4": "F", "f8": "D", "i4": "I", "u4": "i", "i2": "S", "i8": "L", "u1": "b", "?": "O"}


def main() -> None:
    # ROOT writes a file's path into it.
    os.chdir(HERE)
    with uproot.open(HERE.parent / "jets" / "train" / "HToBB.root") as file:
        jets = file["tree"].arrays(entry_stop=JETS)
    for name, compression in COMPRESSIONS.items():
        write(f"{name}.root", jets, compression)
    write("offsets_left_out.root", jets, COMPRESSIONS["zstd"], leave_out_offsets=True)
    write_tuple("tuple.root", source="lz4.root")


def write(path, jets, compression, *, leave_out_offsets=False):
    """Vectors, numbers, an array of fixed and one of variable length; small baskets, so that there are several."""
    file = ROOT.TFile(path, "RECREATE", "", compression)
    tree = ROOT.TTree("tree", "jets")
    tree.SetAutoFlush(0)
    if leave_out_offsets:
        features = ROOT.TIOFeatures()
        features.Set("kGenerateOffsetMap")
        tree.SetIOFeatures(features)
    fill(tree, jets, basket=1024)
    tree.Write("", ROOT.TObject.kOverwrite)
    file.Close()


def write_tuple(path, source):
    """The vectors and numbers of a tree as an RNTuple."""
    options = ROOT.RDF.RSnapshotOptions()
    options.fMode, options.fOutputFormat = "RECREATE", ROOT.RDF.ESnapshotOutputFormat.kRNTuple
    frame = ROOT.RDataFrame("tree", source)
    columns = [str(name) for name in frame.GetColumnNames() if str(name).startswith(("vector_", "number_"))]
    frame.Snapshot("tree", path, columns, options)


def fill(tree, jets, basket):
    vectors = {f"vector_{kind.replace(' ', '_')}": ROOT.std.vector(kind)() for kind in VECTORS}
    for name, vector in vectors.items():
        tree.Branch(name, vector, basket)
    numbers = {f"number_{dtype.replace('?', 'bool')}": np.zeros(1, dtype) for dtype in NUMBERS}
    for (name, number), code in zip(numbers.items(), NUMBERS.values(), strict=True):
        tree.Branch(name, number, f"{name}/{code}", basket)
    count, values, fixed = np.zeros(1, "i4"), np.zeros(300, "f4"), np.zeros(3, "f4")
    tree.Branch("n", count, "n/I", basket)
    tree.Branch("array_of_n", values, "array_of_n[n]/F", basket)
    tree.Branch("array_of_3", fixed, "array_of_3[3]/F", basket)
    for jet in range(len(jets)):
        for vector, (dtype, branch) in zip(vectors.values(), VECTORS.values(), strict=True):
            vector.clear()
            # Every seventh jet has no particles.
            for value in [] if jet % 7 == 3 else jets[branch][jet].to_numpy().astype(dtype).tolist():
                vector.push_back(value)
        for dtype, number in zip(NUMBERS, numbers.values(), strict=True):
            number[0] = np.array(jets["jet_pt"][jet] - 700 * (dtype in ("i2", "f8"))).astype("i4").astype(dtype)
        count[0] = 0 if jet % 5 == 2 else len(jets["part_px"][jet])
        values[: count[0]] = jets["part_pz"][jet].to_numpy()[: count[0]]
        fixed[:] = [jets["jet_pt"][jet], jets["jet_eta"][jet], jets["jet_phi"][jet]]
        tree.Fill()


if __name__ == "__main__":
    main()
