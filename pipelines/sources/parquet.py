"""Parquet files with a column of pictures, as hubs publish image sets."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import DataError
from .base import Item, Source, decode_picture, per_process, safe_key

NAMES = ("image", "img", "picture")  # of the column, where several could be meant
ROWS = 16  # read at a time: 16 PNG files of 1024x1024 are some 25 MB


class ParquetSource(Source):
    """A .parquet file, or all under a folder, with one column of encoded pictures: binary, or a struct with a binary field 'bytes'.

    The key is the file's path without its suffix, and the row ('train-00000-of-00007/00000042'): keys in order are rows in order, so that
    reading is sequential. Listing reads the files' footers alone; an item's size is therefore the mean of its row group. `load` holds
    `ROWS` rows a process; going back, or to another row group, reads that group again from its first row.
    """

    def __init__(self, path: str):
        """Raises DataError if there is no such file, or pyarrow is missing."""
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise DataError("source=parquet needs the package pyarrow, not installed: pip install 'hires[sources]'") from error
        root = Path(path)
        if not path or not root.exists():
            raise DataError(f"path={path}: not there; wanted a .parquet file or a folder of them")
        self.root = root if root.is_dir() else root.parent
        found = root.rglob("*.parquet") if root.is_dir() else [root]
        self.files = sorted(file for file in found if not any(part.startswith(".") for part in file.relative_to(self.root).parts))
        if not self.files:
            raise DataError(f"path={path}: no file ends in .parquet; wanted at least one")

    def __iter__(self) -> Iterator[Item]:
        listed = 0
        for file in self.files:
            column, groups = _listed(file)
            stem, stamp, row = safe_key(str(file.relative_to(self.root).with_suffix(""))), file.stat().st_mtime_ns, 0
            for group, (rows, size) in enumerate(groups):
                for i in range(rows):
                    yield Item(f"{stem}/{row + i:08d}", f"{file}: row {row + i}", size, stamp, (str(file), column, group, i))
                row += rows
            listed += row
        if not listed:
            raise DataError(f"path={self.files[0] if len(self.files) == 1 else self.root}: no rows; wanted pictures")

    def load(self, item: Item) -> Image.Image:
        data = per_process(_Window).row(item, *item.place)
        if data is None:
            raise DataError(f"{item.name}: null; wanted an encoded picture in the file itself")
        return decode_picture(data, item.name)


class _Window:
    """The rows last read, and the stream that the next ones come from."""

    def __init__(self):
        self.at, self.parquet = None, None
        self.rows: Any = None  # an array of pyarrow

    def row(self, item: Item, file: str, column: str, group: int, row: int) -> bytes | None:
        import pyarrow

        try:
            if self.at != (file, item.stamp, group) or row < self.first:
                self._start(file, column, group)
                self.at = (file, item.stamp, group)
            while row >= self.first + len(self.rows):
                self.first += len(self.rows)
                self.rows = next(self.batches).column(0)
            value = self.rows[row - self.first].as_py()
        except (pyarrow.ArrowException, OSError, UnicodeError, StopIteration) as error:
            self.at = None  # the stream has ended in the middle
            raise DataError(f"{item.name}: cannot be read ({error or 'the file has changed since it was listed'})") from error
        return value["bytes"] if isinstance(value, dict) else value

    def _start(self, file: str, column: str, group: int) -> None:
        if self.parquet:
            self.parquet.close()
        self.at = None
        self.parquet = _open(Path(file))
        # use_threads: Arrow's pools and fork do not go together. The buffer reads page by page, not the row group's column whole.
        self.batches = self.parquet.iter_batches(ROWS, row_groups=[group], columns=[column], use_threads=False)
        self.first, self.rows = 0, ()


def _open(file: Path) -> Any:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file}: cannot be read as Parquet ({error})") from error


def _listed(file: Path) -> tuple[str, list[tuple[int, int]]]:
    """The column with the pictures; each row group's rows, and the mean size of its pictures."""
    try:
        with _open(file) as parquet:
            column, groups = _column(file, parquet.schema_arrow), map(parquet.metadata.row_group, range(parquet.metadata.num_row_groups))
            return column, [(group.num_rows, _mean_size(group, column)) for group in groups]
    except UnicodeError as error:
        raise DataError(f"{file}: cannot be read as Parquet (a name in it is not UTF-8: {error})") from error


def _column(file: Path, schema: Any) -> str:
    """The path of the column that holds the pictures: 'image', or 'image.bytes' of a struct."""
    from pyarrow import types

    def is_binary(type: Any) -> bool:
        return types.is_binary(type) or types.is_large_binary(type) or types.is_binary_view(type)

    found = {field.name: field.name for field in schema if is_binary(field.type)}
    for field in schema:
        if types.is_struct(field.type) and any(inner.name == "bytes" and is_binary(inner.type) for inner in field.type):
            found[field.name] = f"{field.name}.bytes"
    meant = list(found) if len(found) == 1 else [name for name in found if name.lower() in NAMES]
    if len(meant) != 1:
        columns = ", ".join(f"{field.name}: {field.type}" for field in schema)
        wanted = f"one column of binary, or of struct<bytes: binary>; of several, the one named {' or '.join(NAMES)}"
        raise DataError(f"{file}: {len(found)} columns could hold pictures ({columns}); wanted {wanted}")
    return found[meant[0]]


def _mean_size(group: Any, column: str) -> int:
    chunks = [group.column(i) for i in range(group.num_columns)]
    return sum(chunk.total_compressed_size for chunk in chunks if chunk.path_in_schema == column) // max(group.num_rows, 1)
