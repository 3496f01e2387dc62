"""The rows of a job's output, one for each input, as Parquet or as JSON lines."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import parquet as pq

from bulk.storage import Location

Row = dict[str, Any]

ERROR = pa.struct([("kind", pa.string()), ("message", pa.string())])
WORD = pa.struct(
    [
        ("word", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("confidence", pa.float64()),
    ]
)
COMMON = [
    ("model", pa.string()),
    ("model_digest", pa.string()),
    ("seconds", pa.float64()),
    ("error", ERROR),
]
# What is null in a row with an error. An answer is JSON: a label, entities, an explanation.
TRANSCRIPTS = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("words", pa.list_(WORD)),
        ("duration", pa.float64()),
        *COMMON,
    ]
)
# Errors of files and machines rather than of what was asked: another run answers such inputs again.
PASSING = {"FileNotFound", "FileChanged", "FileUnreadable", "DeviceLost", "ServerStopping"}
ANNOTATIONS = pa.schema([("id", pa.string()), ("answer", pa.string()), *COMMON])


def describe_error(kind: str, message: str) -> Row:
    """Return what a row says where there is no answer."""
    return {"error": {"kind": kind, "message": message}}


def passes(row: Mapping[str, Any]) -> bool:
    """Tell whether a row has an error that may be none in another run."""
    return bool(row["error"]) and row["error"]["kind"] in PASSING


def write_rows(location: Location, rows: Sequence[Row], schema: pa.Schema) -> None:
    """Write a file of the output, all of it or nothing."""
    if location.path.endswith(".jsonl"):
        lines = [json.dumps(_whole(row, schema), ensure_ascii=False) + "\n" for row in rows]
        location.write("".join(lines).encode())
        return
    table = pa.Table.from_pylist(list(rows), schema)
    location.write_by(lambda path, files: pq.write_table(table, path, filesystem=files))


def read_rows(location: Location) -> list[Row]:
    """Return the rows of a file of the output."""
    if location.path.endswith(".jsonl"):
        return [_stored(json.loads(line)) for line in location.read().splitlines()]
    with location.open() as stream:
        rows: list[Row] = pq.read_table(stream).to_pylist()
    return rows


def _whole(row: Mapping[str, Any], schema: pa.Schema) -> Row:
    """Return a row with all of its columns; an answer is JSON within JSON."""
    whole = {name: row.get(name) for name in schema.names}
    answer = whole.get("answer")
    return {**whole, "answer": json.loads(answer)} if answer else whole


def _stored(row: Row) -> Row:
    if row.get("answer") is not None:
        row["answer"] = json.dumps(row["answer"], ensure_ascii=False)
    return row
