"""What a job is to answer: the recordings of a folder or of a table, the texts of tables."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from decimal import Decimal
from math import ceil
from typing import Any
from uuid import UUID

import pyarrow as pa
from pyarrow import ArrowInvalid, csv, parquet
from pyarrow.fs import FileInfo, FileType

from bulk.errors import JobError
from bulk.storage import Location, Skip

SUFFIXES = {"aac", "aif", "aifc", "aiff", "amr", "au", "caf", "flac", "m4a", "mp3", "oga", "ogg"}
SUFFIXES |= {"m4b", "mka", "opus", "snd", "w64", "wav", "weba"}
SUFFIXES |= {"3g2", "3gp", "mkv", "mov", "mp4", "webm"}
# Rows of a table that are read at a time.
ROWS = 1024
# The longest row of a CSV, which has to lie within two blocks; Arrow reads some 35 blocks ahead.
MOST_ROW_BYTES = 4 << 20
# What an id may be besides a text, as tables of databases have them.
ID_TYPES = (int, float, Decimal, UUID, date)
# What speech datasets call the column with the paths of recordings.
PATH_COLUMNS = ("path", "audio", "audio_filepath", "file")


def _schema(content: str) -> pa.Schema:
    """Return the columns of an input, whose `content` is a path or the fields of a request.

    `mark` is another where the content is: the time of a file, a hash of a text. A long recording
    is recognised in several `stretches`.
    """
    return pa.schema(
        [
            ("id", pa.string()),
            (content, pa.string()),
            ("size", pa.int64()),
            ("mark", pa.int64()),
            ("stretches", pa.int32()),
        ]
    )


RECORDING, TEXT = _schema("path"), _schema("fields")
# What a second of a recording takes at least in most files: 16 kHz samples, half of them in FLAC, a
# megabit of video, else 32 kilobits of speech.
BYTES_PER_S = dict.fromkeys(("aif", "aifc", "aiff", "au", "caf", "snd", "w64", "wav"), 32_000)
BYTES_PER_S |= {"flac": 16_000} | dict.fromkeys(("mkv", "mov", "mp4", "webm"), 125_000)
COMPRESSED_BYTES_PER_S = 4_000
# A worker that recognises one of them decodes the whole.
MOST_STRETCHES = 32
# What requests to text models are made of.
TEXT_FIELDS = ("text", "text_pair", "question", "context")

Input = Mapping[str, Any]


def find_recordings(
    source: Location, cut_s: float, skip: Skip, output: Location | None = None
) -> Iterator[Input]:
    """Yield the recordings of a folder, by their endings, or those that a table names.

    Stretches of a long one have about `cut_s`, as far as its size tells. What is below `output`
    is left out. Raises `JobError` for what is neither.
    """
    kind = source.info().type
    if kind == FileType.Directory:
        found = _in_folder(source, skip, output)
    elif kind == FileType.File:
        found = _in_table(source)
    else:
        raise JobError(
            f"Expected a folder or a table of recordings, found nothing at {source.path}."
        )
    for each in found:
        yield {**each, "stretches": count_stretches(each["path"], each["size"], cut_s)}


def count_stretches(path: str, size: int, cut_s: float) -> int:
    """Return into how many stretches of about `cut_s` a file is cut; nobody opens it for that."""
    kind = path.rpartition(".")[2].lower()
    stretches = size / BYTES_PER_S.get(kind, COMPRESSED_BYTES_PER_S) / cut_s
    return ceil(min(max(1, stretches), MOST_STRETCHES))


def _in_folder(source: Location, skip: Skip, output: Location | None) -> Iterator[Input]:
    start = len(source.path.rstrip("/")) + 1
    for files in source.walk(skip, output):
        for info in files:
            if info.extension.lower() in SUFFIXES:
                yield _recording(info.path[start:], info.path, info)
            else:
                skip(_ending(info))


def _ending(info: FileInfo) -> str:
    return f".{info.extension}" if info.extension else "without an ending"


def _in_table(source: Location) -> Iterator[Input]:
    folder = Location(source.files, source.path.rpartition("/")[0])
    for row in read_table(source):
        column = next((each for each in PATH_COLUMNS if each in row), None)
        if column is None:
            raise _missing(source.name, f"a column {' or '.join(PATH_COLUMNS)}", row)
        named = _read_text(source.name, row, column)
        is_whole = "://" in named or named.startswith("/")
        location = folder.resolve(named) if is_whole else folder / named
        path = named if "://" in named else location.path
        name = _read_text(source.name, row, "id", *ID_TYPES) if "id" in row else named
        yield _recording(name, path, _look_up(location))


def _read_text(table: str, row: Mapping[str, Any], column: str, *others: type) -> str:
    """Return a cell that is a text, or of `others`; raises `JobError` without its content."""
    cell = row[column]
    if not isinstance(cell, (str, *others)):
        found = "nothing" if cell is None else type(cell).__name__
        expected = "a text, a number or a date" if others else "a text"
        raise JobError(f"{table}: expected {expected} in column {column}, got {found}.")
    text = str(cell)
    if not _is_unicode(text):
        raise JobError(f"{table}: expected Unicode in column {column}, got half a surrogate pair.")
    return text


def _is_unicode(text: str) -> bool:
    """Tell whether a text can be written: halves of surrogate pairs of JSON cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _look_up(location: Location) -> FileInfo:
    """Return what a path names; of one that no file can have, that nothing is there."""
    try:
        return location.info()
    except (ArrowInvalid, OSError):
        return FileInfo(location.path, FileType.NotFound)


def _missing(table: str, expected: str, row: Mapping[str, Any]) -> JobError:
    return JobError(f"{table}: expected {expected}, got {', '.join(row)}.")


def _recording(name: str, path: str, info: FileInfo) -> Input:
    # -1 of what is not there, or of no file, which its row will say.
    size = info.size if info.size is not None else -1
    return {"id": name, "path": path, "size": size, "mark": info.mtime_ns or 0}


def read_table(source: Location) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a table, as the columns by their names; raises `JobError` for no table."""
    ending = source.name.rpartition(".")[2].lower()
    if ending not in READERS:
        raise JobError(f"{source.name}: expected a table as {', '.join(READERS)}.")
    try:
        yield from READERS[ending](source)
    except (ArrowInvalid, OSError, RecursionError, ValueError) as error:
        raise JobError(f"{source.name}: expected a table as {ending}: {error}") from error


def _read_parquet(source: Location) -> Iterator[Mapping[str, Any]]:
    with source.open() as stream:
        for batch in parquet.ParquetFile(stream).iter_batches(ROWS):
            yield from batch.to_pylist()


def _read_csv(source: Location) -> Iterator[Mapping[str, Any]]:
    blocks = csv.ReadOptions(block_size=MOST_ROW_BYTES)
    lines = csv.ParseOptions(newlines_in_values=True)
    with source.open() as stream:
        names = csv.open_csv(stream, blocks, lines).schema.names
    # As they are written: Arrow would make 7 of 007, and a date of what looks like one. Bytes that
    # are no text may be in a column that nobody reads.
    written = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.binary()))
    with source.open() as stream:
        for batch in csv.open_csv(stream, blocks, lines, written):
            for start in range(0, len(batch), ROWS):
                for row in batch.slice(start, ROWS).to_pylist():
                    yield {name: cell.decode("utf-8", "replace") for name, cell in row.items()}


def _read_json_lines(source: Location) -> Iterator[Mapping[str, Any]]:
    # Arrow's reader guesses types, and takes a last line without its end for nulls.
    with source.open() as stream, io.TextIOWrapper(stream, encoding="utf-8-sig") as lines:
        for line in lines:
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("a line is no object")
                yield row


READERS: Mapping[str, Callable[[Location], Iterator[Mapping[str, Any]]]] = {
    "parquet": _read_parquet,
    "csv": _read_csv,
    "jsonl": _read_json_lines,
    "ndjson": _read_json_lines,
    "json": _read_json_lines,
}


def find_texts(
    source: Location, columns: Mapping[str, str], skip: Skip, output: Location | None = None
) -> Iterator[Input]:
    """Yield the rows of a table, or of those in a folder, as the fields of requests.

    `columns` name a table's columns by the fields; without any, they have the fields' names. What
    is below `output` is left out. Raises `JobError` for a table without them.
    """
    for name, table in _tables(source, skip, output):
        for number, row in enumerate(read_table(table)):
            chosen = _choose_columns(name, row, columns)
            row_id = _read_text(name, row, "id", *ID_TYPES) if "id" in row else f"{name}:{number}"
            fields = _write_fields(name, row, chosen)
            known = {"size": len(fields), "mark": _mark(fields), "stretches": 1}
            yield {"id": row_id, "fields": fields, **known}


def _write_fields(table: str, row: Mapping[str, Any], chosen: Mapping[str, str]) -> str:
    try:
        return json.dumps({field: row[column] for field, column in chosen.items()})
    except TypeError as error:
        kinds = {column: type(row[column]).__name__ for column in chosen.values()}
        found = ", ".join(f"{kind} in {column}" for column, kind in kinds.items())
        raise JobError(f"{table}: expected texts, got {found}.") from error


def _mark(fields: str) -> int:
    return int.from_bytes(hashlib.sha256(fields.encode()).digest()[:8], signed=True)


def _choose_columns(
    table: str, row: Mapping[str, Any], columns: Mapping[str, str]
) -> Mapping[str, str]:
    chosen = columns or {name: name for name in TEXT_FIELDS if name in row}
    missing = sorted(set(chosen.values()) - set(row))
    if chosen and not missing:
        return chosen
    expected = f"the column {missing[0]}" if missing else f"a column {' or '.join(TEXT_FIELDS)}"
    raise _missing(table, expected, row)


def _tables(
    source: Location, skip: Skip, output: Location | None
) -> Iterator[tuple[str, Location]]:
    """Yield tables by their paths within the folder."""
    kind = source.info().type
    if source == output:
        raise JobError("Expected another folder for the output than that of the tables.")
    if kind == FileType.NotFound:
        raise JobError(f"Expected a table or a folder of tables, found nothing at {source.path}.")
    if kind == FileType.File:
        yield source.name, source
        return
    start = len(source.path.rstrip("/")) + 1
    for files in source.walk(skip, output):
        for info in sorted(files, key=lambda each: each.path):
            if info.extension.lower() in READERS:
                yield info.path[start:], Location(source.files, info.path)
            else:
                skip(_ending(info))
