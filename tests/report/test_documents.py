"""The tables in the documents are those of the records."""

from __future__ import annotations

import json
import re
import shlex

import jsonschema
import pytest

from spdnn import cli, machine, record

ROOT = machine.checkout()
RECORDS = sorted((ROOT / "benchmarks" / "results").glob("*/*cusparse*.json")) if ROOT else []


@pytest.mark.skipif(ROOT is None, reason="needs the checkout")
def test_the_page_has_the_tables_its_command_makes(tmp_path):
    assert ROOT is not None
    page = ROOT / "docs" / "cusparse.md"
    (command,) = re.findall(r"^spdnn (tables --render .*) --into docs/cusparse\.md$", page.read_text(), re.M)
    made = tmp_path / "page.md"
    made.write_text(page.read_text())
    assert cli.run([*shlex.split(command), "--into", str(made)]) == 0
    assert made.read_text() == page.read_text()


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name)
def test_every_record_fits_the_schema_and_is_verified(path):
    kept = json.loads(path.read_text())
    jsonschema.validate(kept, record.schema())
    assert kept["verified"] or kept["reason"]
