"""How collections.root, truncated.root and unclosed.root were made, by ROOT itself (6.40, `pip install ROOT`).

python make_others.py        # in an environment with ROOT
"""

import os
import subprocess
import sys
from pathlib import Path

import ROOT

COLLECTIONS = """
#include "TParticle.h"
#include "TClonesArray.h"
void collections() {
  TFile file("collections.root", "RECREATE", "", 505); TTree tree("Delphes", "split collections"); TRandom3 random(1);
  TClonesArray particles("TParticle"); Float_t ht; Int_t n;
  tree.Branch("Particle", &particles, 4000, 99); tree.Branch("Particle_size", &n, "Particle_size/I"); tree.Branch("Event.HT", &ht, "HT/F");
  for (int event = 0; event < 40; ++event) {
    particles.Clear(); n = event % 13 == 3 ? 0 : 1 + random.Integer(5); ht = 100 + event;
    for (int i = 0; i < n; ++i) {
      double e = 10 + random.Exp(10);
      new (particles[i]) TParticle(211, 1, i, 7, 0, 0, e / 2, e / 3, 0, e, 0, 0, 0, 0);
    }
    tree.Fill();
  }
  tree.Write(); file.Close();
}
"""
TRUNCATED = """
void truncated() {
  TFile file("truncated.root", "RECREATE", "", 505); TTree tree("tree", "values of i + l / 4, in a range of 0 to 100 or in none");
  int n; Double32_t d[3], dr[3], dp[3], vd[9], vdr[9]; Float16_t f[3], fr[3], vf[9], vfr[9];
  tree.Branch("n", &n, "n/I");
  tree.Branch("d", d, "d[3]/d"); tree.Branch("d_range", dr, "d_range[3]/d[0,100,16]");
  tree.Branch("d_pi", dp, "d_pi[3]/d[-pi,twopi,24]");
  tree.Branch("f", f, "f[3]/f"); tree.Branch("f_range", fr, "f_range[3]/f[0,100,16]");
  tree.Branch("list_d", vd, "list_d[n]/d"); tree.Branch("list_d_range", vdr, "list_d_range[n]/d[0,100,16]");
  tree.Branch("list_f", vf, "list_f[n]/f"); tree.Branch("list_f_range", vfr, "list_f_range[n]/f[0,100,16]");
  for (n = 0; n < 9; ++n) {
    for (int l = 0; l < 9; ++l) vd[l] = vdr[l] = vf[l] = vfr[l] = n + l * 0.25;
    for (int l = 0; l < 3; ++l) d[l] = dr[l] = dp[l] = f[l] = fr[l] = n + l * 0.25;
    for (int l = 0; l < 3; ++l) dp[l] /= 4;
    tree.Fill();
  }
  tree.Write(); file.Close();
}
"""
UNCLOSED = """
void unclosed() {
  TFile* file = new TFile("unclosed.root", "RECREATE"); TTree* tree = new TTree("tree", "a job that died"); float x;
  tree->Branch("x", &x, "x/F", 1000);
  for (int i = 0; i < 2000; ++i) { x = i; tree->Fill(); }
  file->Flush(); _exit(0);
}
"""


def main() -> None:
    # ROOT writes a file's path into it.
    os.chdir(Path(__file__).parent)
    if sys.argv[1:] == ["unclosed"]:
        ROOT.gInterpreter.ProcessLine(UNCLOSED)
        ROOT.unclosed()
    for text in (COLLECTIONS, TRUNCATED):
        ROOT.gInterpreter.ProcessLine(text)
    ROOT.collections()
    ROOT.truncated()
    subprocess.run([sys.executable, __file__, "unclosed"], check=True)


if __name__ == "__main__":
    main()
