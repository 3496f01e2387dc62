"""The inputs of a job, written down in groups: what is answered together, and in one file.

A manifest is a Parquet file of some thousand inputs, and a row group of it is a group.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
from pyarrow import parquet as pq

from bulk.storage import Location

# So many inputs are put in order by their sizes at a time.
MANIFEST_ROWS = 16_384
GROUP_ROWS = 64
GROUP_BYTES = 16 << 20
PREFIX = "inputs-"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Group:
    """Some inputs that are answered together."""

    manifest: int
    number: int

    @classmethod
    def of(cls, key: str) -> "Group":
        """Return the group that files of this key are named after."""
        return cls(*map(int, key.split("-")))

    @property
    def key(self) -> str:
        """Return what files are named after it."""
        return f"{self.manifest:05}-{self.number:05}"


class Manifests:
    """The manifests in a folder."""

    def __init__(self, folder: Location) -> None:
        self._folder = folder
        self._opened: tuple[int, pq.ParquetFile] | None = None

    def numbers(self) -> list[int]:
        """Return the numbers of the manifests there are."""
        names = [each for each in self._folder.names() if each.startswith(PREFIX)]
        return [int(each.removeprefix(PREFIX).removesuffix(".parquet")) for each in names]

    def groups(self) -> Iterator[tuple[Group, list[int]]]:
        """Yield all groups, with the number of stretches of each of its inputs."""
        for manifest in self.numbers():
            file = pq.ParquetFile(self._file(manifest).open())
            for number in range(file.num_row_groups):
                stretches = file.read_row_group(number, columns=["stretches"])
                yield Group(manifest, number), stretches["stretches"].to_pylist()

    def read(self, group: Group) -> list[dict[str, Any]]:
        """Return the inputs of a group."""
        # Read one after the other: its list of row groups is long.
        if self._opened is None or self._opened[0] != group.manifest:
            self._opened = group.manifest, pq.ParquetFile(self._file(group.manifest).open())
        rows: list[dict[str, Any]] = self._opened[1].read_row_group(group.number).to_pylist()
        return rows

    def known(self) -> dict[str, tuple[int, int]]:
        """Return the sizes and marks of all inputs by their names."""
        known = {}
        for manifest in self.numbers():
            table = pq.read_table(self._file(manifest).open(), columns=["id", "size", "mark"])
            columns = (each.to_pylist() for each in table.columns)
            known.update({name: (size, mark) for name, size, mark in zip(*columns, strict=True)})
        return known

    def add(self, rows: Iterable[Row], schema: pa.Schema) -> None:
        """Write inputs down, in further manifests; those of like size go together."""
        number = max(self.numbers(), default=-1) + 1
        following = iter(rows)
        while some := list(islice(following, MANIFEST_ROWS)):
            ordered = sorted(some, key=lambda row: row["size"], reverse=True)
            self._write(number, cut_groups(ordered), schema)
            number += 1

    def remove(self, names: set[str]) -> Iterator[Group]:
        """Take inputs off; yield their groups, each before it is written anew."""
        for manifest in self.numbers():
            file = pq.ParquetFile(self._file(manifest).open())
            groups = [file.read_row_group(each).to_pylist() for each in range(file.num_row_groups)]
            kept = [[row for row in group if row["id"] not in names] for group in groups]
            touched = [each for each, rows in enumerate(kept) if len(rows) < len(groups[each])]
            yield from (Group(manifest, each) for each in touched)
            if touched:
                self._write(manifest, kept, file.schema_arrow)

    def _write(self, number: int, groups: Iterable[Sequence[Row]], schema: pa.Schema) -> None:
        def write(path: str, files: Any) -> None:
            with pq.ParquetWriter(path, schema, filesystem=files) as writer:
                for group in groups:
                    writer.write_table(pa.Table.from_pylist(list(group), schema))

        self._file(number).write_by(write)

    def _file(self, number: int) -> Location:
        return self._folder / f"{PREFIX}{number:05}.parquet"


def cut_groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield inputs in groups: as many as may be answered together, and be lost together.

    One that is recognised in stretches is alone.
    """
    group: list[Row] = []
    size = 0
    for row in rows:
        long = row["stretches"] > 1 or (group and group[-1]["stretches"] > 1)
        full = len(group) == GROUP_ROWS or size + row["size"] > GROUP_BYTES
        if group and (long or full):
            yield group
            group, size = [], 0
        group.append(row)
        size += row["size"]
    if group:
        yield group
