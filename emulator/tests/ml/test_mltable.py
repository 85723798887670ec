"""MLTable: sources and transformations of the schema, and the module `mltable` that jobs import.

https://learn.microsoft.com/azure/machine-learning/reference-yaml-mltable
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

ALL = """
    import json, sys
    from pathlib import Path
    import mltable
    import pandas as pd

    root = Path(sys.argv[1])
    out = {}

    def write(name, text, encoding="utf-8"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding=encoding)

    def table(name, content):
        write(f"{name}/MLTable", json.dumps(content))
        return mltable.load(str(root / name))

    def rows(table):
        frame = table.to_pandas_dataframe()
        return json.loads(frame.to_json(orient="split", date_format="iso"))["data"]

    def refused(name, content):
        try:
            table(name, content).to_pandas_dataframe()
        except mltable.MLTableError as error:
            return str(error).replace(str(root), "")
        return "nothing"

    write("lake/day=2013-01-01/NY/a.csv", "n;t;flag;when\\n1;UK;yes;01/02/2013\\n40;UK;no;02/02/2013\\n;FR;yes;\\n")
    write("lake/day=2013-01-02/LA/a.csv", 'n;t;flag;when\\n50;"U\\nK";no;03/02/2013\\n60;UK;yes;04/02/2013\\n')
    sources = {"sources": {str(root / "lake"): "azureml://datastores/lake/paths/in"}}
    read = {"read_delimited": {"delimiter": ";", "include_path_column": True, "support_multi_line": True}}
    whole = [
        read,
        {"extract_columns_from_partition_format": "/day={day:yyyy-MM-dd}/{city}/a.csv"},
        {"convert_column_types": [
            {"columns": ["flag"], "column_type": {"boolean": {"true_values": ["yes"], "false_values": ["no"]}}},
            {"columns": "when", "column_type": {"datetime": {"formats": ["%d/%m/%Y"]}}},
            {"columns": ["n"], "column_type": "string"},
            {"columns": ["n"], "column_type": "float"}]},
        {"filter": 'col("n") > 30 and (col("t") == "UK" or not col("flag")) or col("n") == None'},
    ]
    lake = {"paths": [{"pattern": str(root / "lake/*/*/a.csv")}], "transformations": whole, "metadata": sources}
    out["whole"] = rows(table("t1", lake))
    out["dtypes"] = table("t1", lake).to_pandas_dataframe().dtypes.map(str).to_dict()

    # Unquoted in YAML, a partition format is a mapping.
    write("t2/MLTable", "paths:\\n- folder: ../lake\\ntransformations:\\n- read_delimited: {delimiter: ';'}\\n"
                        "- extract_columns_from_partition_format: {d:yyyy-MM-dd}\\n- keep_columns: [d]\\n- take: 1\\n")
    out["folder"] = rows(mltable.load(str(root / "t2")))

    write("h/1.csv", "a,b\\n1,x\\n", "latin-1")
    write("h/2.csv", "a,b\\n2,é\\n", "latin-1")
    write("h/3.csv", "b,c\\n3,9\\n", "latin-1")
    for header, files in (("all_files_same_headers", "12"), ("from_first_file", "12"), ("no_header", "12"),
                          ("all_files_different_headers", "13")):
        paths = [{"file": str(root / f"h/{n}.csv")} for n in files]
        made = mltable.from_delimited_files(paths, header=header, encoding="latin1").to_pandas_dataframe()
        out[header] = json.loads(made.to_json(orient="split"))
        del out[header]["index"]

    write("e/a.csv", "a,b\\n1,\\n,x\\n")
    one = [{"file": str(root / "e/a.csv")}]
    out["empty_as_string"] = rows(mltable.from_delimited_files(one, empty_as_string=True, infer_column_types=False))
    out["as_text"] = rows(mltable.from_delimited_files(one, infer_column_types=False))

    write("j/a.jsonl", '{"a": 1, "b": "x"}\\nnot json\\n{"a": 2}\\n')
    lines = [{"file": str(root / "j/a.jsonl")}]
    out["json"] = rows(mltable.from_json_lines_files(lines, invalid_lines="drop", include_path_column=False))

    frame = pd.DataFrame({"n": range(1000), "s": [str(n) for n in range(1000)]})
    (root / "p/part=1").mkdir(parents=True)
    frame.to_parquet(root / "p/part=1/a.parquet")
    parquet = mltable.from_parquet_files([{"folder": str(root / "p")}])
    out["parquet"] = rows(parquet.skip(10).take(2).drop_columns("s"))
    sample = parquet.take_random_sample(0.1, seed=7)
    out["sample"] = [len(rows(sample)), rows(sample) == rows(sample)]
    parquet.filter('col("n") < 3').save(str(root / "saved"))
    out["saved"] = rows(mltable.load(str(root / "saved")))

    from deltalake import write_deltalake
    write_deltalake(str(root / "d"), frame.head(3))
    write_deltalake(str(root / "d"), frame.head(5), mode="overwrite")
    out["delta"] = [len(rows(mltable.from_delta_lake(str(root / "d"), **of)))
                    for of in ({"version_as_of": 0}, {"version_as_of": 1}, {"timestamp_as_of": "2999-08-26T00:00:00Z"})]

    csv = {"paths": one}
    def steps(*more, **options):
        return {**csv, "transformations": [{"read_delimited": {"delimiter": ",", **options}}, *more]}
    out["refused"] = [
        refused("r", {**csv, "transformations": []}),
        refused("r", steps({"replace": 1})),
        refused("r", steps({"keep_columns": ["z"]})),
        refused("r", steps(header="some")),
        refused("r", steps(guess=1)),
        refused("r", steps({"filter": '__import__("os").getcwd()'})),
        refused("r", steps({"filter": 'col("a") + 1'})),
        refused("r", steps({"convert_column_types": [{"columns": "b", "column_type": "int"}]})),
        refused("r", steps({"convert_column_types": [{"columns": "b", "column_type": "stream_info"}]})),
        refused("r", steps({"extract_columns_from_partition_format": "/{x}/nothing.csv"})),
        refused("r", {"paths": [{"file": "./none.csv"}], "transformations": [read]}),
        refused("r", {"paths": [{"file": "https://x/none.csv"}], "transformations": [read]}),
        refused("r", {"paths": lines, "transformations": ["read_json_lines"]}),
        refused("r", {"paths": [{"folder": str(root / "d")}], "transformations": ["read_delta_lake"]}),
    ]
    print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def told(compute: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = compute.answer(ALL, tmp_path_factory.mktemp("tables"))
    return found


def test_delimited_text_with_partitions_types_and_a_filter(told: dict[str, Any]) -> None:
    first, second = "azureml://datastores/lake/paths/in/day=2013-01-01/NY/a.csv", "day=2013-01-02/LA/a.csv"
    days = ("2013-01-01T00:00:00.000", "2013-01-02T00:00:00.000")
    assert told["whole"] == [
        [first, 40.0, "UK", False, "2013-02-02T00:00:00.000", days[0], "NY"],
        [first, None, "FR", True, None, days[0], "NY"],
        [f"azureml://datastores/lake/paths/in/{second}", 50.0, "U\nK", False, "2013-02-03T00:00:00.000", days[1], "LA"],
        [f"azureml://datastores/lake/paths/in/{second}", 60.0, "UK", True, "2013-02-04T00:00:00.000", days[1], "LA"],
    ]
    assert told["dtypes"] == {"Path": "object", "n": "float64", "t": "object", "flag": "bool", "when": "datetime64[ns]",
                              "day": "datetime64[ns]", "city": "object"}  # fmt: skip
    assert told["folder"] == [[days[0]]]


def test_headers_encodings_and_empty_fields(told: dict[str, Any]) -> None:
    assert told["all_files_same_headers"] == {"columns": ["a", "b"], "data": [[1, "x"], [2, "é"]]}
    assert told["from_first_file"] == {"columns": ["a", "b"], "data": [[1, "x"], ["a", "b"], ["2", "é"]]}
    assert told["no_header"]["columns"] == ["Column1", "Column2"]
    assert told["no_header"]["data"][2:] == [["a", "b"], ["2", "é"]]
    assert told["all_files_different_headers"]["columns"] == ["a", "b", "c"]
    assert told["empty_as_string"] == [["1", ""], ["", "x"]]
    assert told["as_text"] == [["1", None], [None, "x"]]


def test_the_other_formats_and_transformations(told: dict[str, Any]) -> None:
    assert told["json"] == [[1, "x"], [2, None]]
    assert told["parquet"] == [[10], [11]]
    assert 60 < told["sample"][0] < 140
    assert told["sample"][1]
    assert told["saved"] == [[0, "0"], [1, "1"], [2, "2"]]
    assert told["delta"] == [3, 5, 5]


def test_what_is_not_there_is_refused_by_name(told: dict[str, Any]) -> None:
    wanted = [
        "one read transformation", "transformation replace is not implemented", "no column z; there are a, b",
        "header must be one of", "option(s) guess of read_delimited", "filter: '__import__", "isn't true or false",
        "'b' can't be made int", "type stream_info is not implemented", "doesn't fit the partition format",
        "file ./none.csv matches no file", "is not on this machine", "a.jsonl, line 2, isn't valid JSON",
        "needs one of timestamp_as_of and version_as_of",
    ]  # fmt: skip
    assert len(told["refused"]) == len(wanted)
    for message, part in zip(told["refused"], wanted, strict=True):
        assert part in message


def test_a_real_mltable_is_not_shadowed(compute: Any, tmp_path: Path) -> None:
    """A job's own environment may have Azure ML's package; localazure's folder stands before it on the path."""
    package = tmp_path / "mltable"
    package.mkdir()
    (package / "__init__.py").write_text("real = True\nfrom mltable import part\n")
    (package / "part.py").write_text("")
    script = "import json, sys; sys.path.append(sys.argv[1]); import mltable; print(json.dumps(mltable.real))"
    assert compute.answer(script, tmp_path) is True
