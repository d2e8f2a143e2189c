"""The summary of a network, as a user runs it: without data."""

import json

from weaver_tasks.model_summary import main


def test_totals_and_layers_without_any_data(repository, tmp_path, capsys):
    data, network = repository / "config/data/demo.yaml", repository / "config/networks/particle_transformer.py"
    output, table = tmp_path / "summary.json", tmp_path / "summary.md"
    options = json.dumps({"network": {"options": {"num_layers": 2, "num_cls_layers": 1, "embed_dims": [32, 32], "num_heads": 2}}})
    main(
        ["--data-config", str(data), "--network", str(network), "--output", str(output), "--table", str(table), "--settings", options],
    )
    summary = json.loads(output.read_text())
    assert summary["parameters"] == summary["trainable_parameters"] > 10_000
    assert summary["layers"][0]["flops"] == summary["flops"] > 1e6
    rows = [line for line in table.read_text().splitlines() if line.startswith("|")]
    assert summary["algorithm"] in table.read_text()
    assert len(rows) == 2 + len(summary["layers"])
    assert rows[2].endswith(f"| {summary['flops']:,} |")
    shown = capsys.readouterr().err
    assert f"{summary['parameters']:,}" in shown
    assert "FLOPs a jet" in shown
