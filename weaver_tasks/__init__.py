"""weaver_tasks: train jet taggers from ROOT files to ONNX, one small restartable task at a time.

Nothing is imported here: `import weaver_tasks` must stay free of numpy and torch, because the
workflow imports this package each time that Snakemake parses the Snakefile.
"""

__version__ = "0.1.0"
